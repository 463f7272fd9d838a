"""Gathers all the evidence about a cluster: looks, testimony, dials from every place, and what the runtime knows."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from bootstrap.diagnosis.asking import hear
from bootstrap.diagnosis.dialling import chosen, dial_all, targets
from bootstrap.events import Reporter
from bootstrap.formation.clients import Clients
from bootstrap.judging.agreement import agree
from bootstrap.judging.evidence import Evidence, Server, Testimony
from bootstrap.judging.views import Views, seen
from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.placement import Place
from bootstrap.planning.text import listing, plural
from bootstrap.runtimes.base import Vantage

SETTLE_SECONDS = 1.5
"""Between the two looks at a cluster that is not healthy: handshakes and flags that pass, pass within this time."""


def _refused(told: Mapping[str, Testimony]) -> Iterator[str]:
    """What nodes would not tell; managed services have renamed such commands."""
    refusals: dict[tuple[str, str], list[str]] = {}
    for name, each in told.items():
        for command, reply in each.refused.items():
            refusals.setdefault((command, reply), []).append(name)
    for (command, reply), names in refusals.items():
        yield f"by {command}, which {listing(names, 3)} refused: {reply}"


@dataclass(frozen=True, slots=True)
class Subject:
    """What evidence is gathered about.

    Args:
        clients: all of its nodes, by their control addresses.
        nodes: the addresses that each node is known to have.
        announced: where clients are to be sent for a node, as far as that is known.
        vantages: the places to dial from.
        servers: what the runtime says of them.
        places: where they are, where that is declared.
        expected: settings that the configuration gives, by node.
        untried: what cannot be tried from here.
        cluster: the name of a cluster of ours, "" for others'.
        encryption: how data ports are spoken to; None in plain text.
    """

    clients: Clients
    nodes: Mapping[str, NodeAddresses]
    announced: Mapping[str, Address] = field(default_factory=dict)
    vantages: Sequence[Vantage] = ()
    servers: Mapping[str, Server] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    expected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    untried: tuple[str, ...] = ()
    cluster: str = ""
    encryption: ssl.SSLContext | None = None

    def knowing(self, **fields: Any) -> Subject:
        """The same with more that is known."""
        return replace(self, **fields)


async def glance(subject: Subject) -> Evidence:
    """Only what nodes believe: one look, and another one where that is not healthy."""
    before, views = await _look(subject)
    return Evidence(views, before=before, nodes=subject.nodes, announced=subject.announced, cluster=subject.cluster)


async def _look(subject: Subject) -> tuple[Views, Views]:
    views = await subject.clients.look()
    if agree(views, subject.announced).healthy:
        return {}, views
    await anyio.sleep(SETTLE_SECONDS)
    return views, await subject.clients.look()


async def gather(subject: Subject, reporter: Reporter) -> Evidence:
    """Look, ask and dial; nothing is changed. Takes about a second, and longer where something does not answer."""
    total = len(subject.nodes)
    with reporter.phase("ask", f"Asking {plural(total, 'node')}", f"Asked {plural(total, 'node')}"):
        before, views = await _look(subject)
        told = await hear(subject.clients, seen(views))
    unlinked = [(doubt.node, doubt.about) for doubt in agree(views).of("link", "unknown", "flag")]
    running = {name for name, server in subject.servers.items() if server.state in ("running", "paused")}
    places = [each for each in subject.vantages if not each.node or each.node in running]
    with reporter.phase("dial", "Dialling from every place", "Dialled from every place") as phase:
        dials = await dial_all(chosen(targets(subject.nodes, views), places, unlinked), subject.encryption)
        phase.done_title = f"Dialled {plural(len(dials), 'time')} from {plural(len(places), 'place')}"
    untried = tuple(
        f"from inside {each.node}: its server does not run" for each in subject.vantages if each not in places
    )
    return Evidence(
        views=views,
        dials=dials,
        before=before,
        nodes=subject.nodes,
        told=told,
        servers=subject.servers,
        places=subject.places,
        untried=(*subject.untried, *untried, *_refused(told)),
        announced=subject.announced,
        expected=subject.expected,
        cluster=subject.cluster,
    )
