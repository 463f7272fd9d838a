"""What is wrong with a cluster: gathers evidence, and has it judged. Nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bootstrap.diagnosis.gathering import Subject, gather, glance
from bootstrap.errors import RuntimeUnavailable
from bootstrap.events import Reporter
from bootstrap.formation.window import DEFAULTS
from bootstrap.judging.causes import diagnose
from bootstrap.judging.connections import is_loopback
from bootstrap.judging.evidence import Evidence, Finding, Server
from bootstrap.operations.deployment import Deployment, Node
from bootstrap.operations.status import Status, make_status
from bootstrap.planning.addressing import Address
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import FORMAT_VERSION, NODE_TIMEOUT
from bootstrap.planning.text import plural
from bootstrap.runtimes.base import Vantage
from bootstrap.runtimes.dialling import LocalVantage


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found.

    Args:
        status: the cluster as every node tells it.
        findings: errors first.
        evidence: what they rest on.
        remap: announced address -> the one that works from here, for clients that can map addresses; empty where
            nothing has to be mapped.
    """

    status: Status
    findings: tuple[Finding, ...]
    evidence: Evidence
    remap: Mapping[Address, Address]

    @property
    def healthy(self) -> bool:
        """Nothing keeps the cluster from working; warnings may be left."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return tuple(finding for finding in self.findings if finding.level == "error")

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: that of `Status`, with ``findings``, ``dials``, ``untried`` and ``remap``."""
        return {
            **self.status.as_dict(),
            "format_version": FORMAT_VERSION,
            "health": "ok" if self.healthy else "not ok",
            "findings": [finding.as_dict() for finding in self.findings],
            "dials": [
                {
                    "node": dial.node,
                    "port": dial.port,
                    "address": str(dial.address),
                    "from": dial.vantage,
                    "outcome": dial.outcome,
                }
                for dial in self.evidence.dials
            ],
            "untried": list(self.evidence.untried),
            "remap": {str(announced): str(works) for announced, works in self.remap.items()},
        }


async def examine(deployment: Deployment, reporter: Reporter, *, quick: bool = False) -> Diagnosis:
    """Find out what is wrong with a cluster, ours or any.

    Args:
        deployment: the cluster.
        reporter: told about the phases.
        quick: only ask what the nodes believe of each other; nothing is dialled.

    Raises:
        RuntimeUnavailable: the runtime of a cluster of ours cannot be asked.
    """
    async with deployment.clients() as clients:
        subject = Subject(
            clients,
            {node.name: node.addresses for node in deployment.nodes},
            announced=deployment.announced,
            cluster=deployment.name if deployment.runtime else "",
            encryption=deployment.access.encryption,
        )
        total = len(deployment.nodes)
        if quick:
            with reporter.phase("ask", f"Asking {plural(total, 'node')}", f"Asked {plural(total, 'node')}"):
                evidence = await glance(subject)
        else:
            known = await _from_outside(deployment, subject)
            evidence = await gather(known, reporter)
    found = diagnose(evidence)
    return Diagnosis(make_status(deployment, evidence.views), found, evidence, remap(deployment.nodes, evidence))


async def _from_outside(deployment: Deployment, subject: Subject) -> Subject:
    """With what can be known without asking the servers: their processes or containers, and places to dial from."""
    if deployment.runtime is None:
        return await _others(subject)
    records = await deployment.runtime.inventory(deployment.name)
    servers = await deployment.runtime.inspect(deployment.name)
    vantages: Sequence[Vantage] = [each for record in records for each in deployment.runtime.vantages(record)]
    untried: tuple[str, ...] = ()
    if any(each.slow for each in vantages):
        untried = (
            "from inside the containers, but where nodes miss each other: only root on the engine's machine can",
        )
    places = {node.name: Place(node.host, node.zone) for node in deployment.nodes}
    configured = {**DEFAULTS, "cluster-node-timeout": NODE_TIMEOUT}
    for record in records:
        configured |= {key: str(value) for key, value in record.spec.get("settings", {}).items() if key in configured}
    return subject.knowing(
        servers=servers,
        vantages=vantages,
        places=places,
        untried=untried,
        expected={node.name: configured for node in deployment.nodes},
    )


async def _others(subject: Subject) -> Subject:
    """Servers of others may be containers of this machine's engine, which then knows more about them."""
    from bootstrap.runtimes.engine.runtime import EngineRuntime

    servers: dict[str, Server] = {}
    vantages: list[Vantage] = []
    untried = ["from inside the nodes' network: they run somewhere else"]
    try:
        found = await EngineRuntime().containers_at({name: where.control for name, where in subject.nodes.items()})
    except RuntimeUnavailable as error:
        found = {}
        untried = [f"from inside the nodes' network: {error.message}"]
    for name, (server, vantage) in found.items():
        servers[name] = server
        if vantage is not None:
            vantages.append(vantage)
    beside = not servers
    local = all(is_loopback(where.control.host) for where in subject.nodes.values())
    if servers or local:
        untried = []
    return subject.knowing(
        servers=servers, vantages=[LocalVantage(beside=beside), *vantages], places={}, untried=tuple(untried)
    )


def remap(nodes: Sequence[Node], evidence: Evidence) -> dict[Address, Address]:
    """Where clients here should go instead of what is announced, where that does not work and another way does."""
    reached = {(dial.node, dial.address) for dial in evidence.dials if not dial.source and dial.outcome == "open"}
    found: dict[Address, Address] = {}
    for dial in evidence.dials:
        if dial.source or dial.port != "data" or dial.outcome == "open":
            continue
        node = next((each for each in nodes if each.name == dial.node), None)
        server = evidence.servers.get(dial.node)
        ways = [place for places in server.published.values() for place in places] if server is not None else []
        ways += [node.addresses.control] if node is not None else []
        for way in ways:
            here = Address("127.0.0.1" if way.host in ("0.0.0.0", "::", "") else way.host, way.port)  # noqa: S104
            works = (dial.node, here) in reached or (node is not None and here == node.addresses.control)
            if here != dial.address and works:
                found.setdefault(dial.address, here)
    return found
