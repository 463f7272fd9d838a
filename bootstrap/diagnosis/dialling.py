"""Which addresses are dialled from where, and the dialling itself."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import anyio

from bootstrap.concurrency import together
from bootstrap.judging.evidence import Dial, Port
from bootstrap.judging.views import Views, seen
from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.spec import BUS_OFFSET
from bootstrap.runtimes.base import Ask, Vantage

DIAL_SECONDS = 1.0
"""How long a port may take to answer: on one machine it does within a millisecond."""

DIALS_AT_ONCE = 64

SLOW_DIALS = 24
"""How many dials are made from places where each takes a good part of a second."""

PAIRS_UP_TO = 16
"""Up to so many nodes every one dials every other one; larger clusters are dialled from a few places each."""

PLACES_EACH = 3
"""From how many places each node of a larger cluster is dialled."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of a node that somebody is told to use."""

    node: str
    port: Port
    address: Address
    beside: bool


def targets(nodes: Mapping[str, NodeAddresses], views: Views) -> tuple[Target, ...]:
    """Every address by which some node or client is told to reach a node, each once.

    Args:
        nodes: what is known of their addresses.
        views: what nodes say of each other.
    """
    here = seen(views)
    names = {view.id: name for name, view in here.items()}
    found: dict[Target, None] = {}
    # Equal lines are one object in all views.
    for peer in {id(peer): peer for view in here.values() for peer in view.peers.values()}.values():
        # Who a handshake is with comes with the handshake: until then it is known by its address.
        name = str(peer.address) if peer.handshake else names.get(peer.id, "")
        if not name or not peer.address.host:
            continue
        if name in nodes and _for_clients(peer.address, nodes[name]):
            found |= _both(name, nodes[name].meet, nodes[name].bus)
        else:
            bus = Address(peer.address.host, peer.bus_port or peer.address.port + BUS_OFFSET)
            found |= _both(name, peer.address, bus)
    known = {target.node for target in found}
    for name, where in nodes.items():
        # Nobody has told an address of it yet: then the one where it is to be met.
        if name not in known:
            found |= _both(name, where.meet, where.bus)
    for view in here.values():
        for node_id, address in view.listed.items():
            if node_id in names and address.host:
                found[Target(names[node_id], "data", address, False)] = None
    return tuple(found)


def _both(name: str, data: Address, bus: Address) -> dict[Target, None]:
    """What other nodes are told of a node."""
    return dict.fromkeys((Target(name, "data", data, True), Target(name, "bus", bus, True)))


def _for_clients(address: Address, where: NodeAddresses) -> bool:
    """Whether CLUSTER NODES shows the address for clients (`cluster-announce-client-ipv4`) and not the nodes' own."""
    return where.announced is not None and address == where.announced != where.meet


def chosen(found: Sequence[Target], vantages: Sequence[Vantage], unlinked: Iterable[tuple[str, str]]) -> Iterator[
    tuple[Vantage, Target]
]:  # fmt: skip
    """Which targets are dialled from which places.

    Args:
        found: all targets.
        vantages: all places.
        unlinked: nodes that say that they have no link to another one: those are tried in any case.
    """
    beside = [each for each in vantages if each.beside and not each.slow]
    suspects = set(unlinked)
    slow = (
        (vantage, target)
        for vantage in vantages
        for target in found
        if vantage.slow and target.beside and (vantage.node, target.node) in suspects
    )
    yield from islice(slow, SLOW_DIALS)
    nodes = {name: index for index, name in enumerate(dict.fromkeys(target.node for target in found))}
    # What clients are told is dialled by all where clients are beside the servers.
    everywhere = all(each.beside for each in vantages)
    for vantage in vantages:
        yield from ((vantage, target) for target in found if not target.beside and not vantage.beside)
    for index, vantage in enumerate(beside):
        for target in found:
            if vantage.node == target.node and len(nodes) > 1:
                continue
            far = (nodes[target.node] - index) % max(len(beside), 1) > PLACES_EACH
            if len(nodes) > PAIRS_UP_TO and far and (vantage.node, target.node) not in suspects:
                continue
            if target.beside or everywhere:
                yield vantage, target


async def dial_all(
    pairs: Iterable[tuple[Vantage, Target]], encryption: ssl.SSLContext | None = None
) -> tuple[Dial, ...]:
    """Dial, many at once; in the order of the pairs, each once.

    Args:
        pairs: which targets are dialled from where.
        encryption: how data ports are spoken to; None in plain text.
    """
    # Clients and nodes may be told the same address.
    distinct = {(id(vantage), target.node, target.port, target.address): (vantage, target) for vantage, target in pairs}
    limit = anyio.CapacityLimiter(DIALS_AT_ONCE)
    question: Ask = encryption or "plain"
    results: dict[int, Dial] = {}

    async def one(index: int, vantage: Vantage, target: Target) -> None:
        async with limit:
            contact = await vantage.dial(
                target.address.host,
                target.address.port,
                timeout=DIAL_SECONDS,
                ask=question if target.port == "data" else None,
            )
        results[index] = Dial(
            target.node, target.port, target.address, vantage.name, contact, vantage.node, vantage.beside
        )

    await together(partial(one, index, *pair) for index, pair in enumerate(distinct.values()))
    return tuple(results[index] for index in sorted(results))
