"""Form a cluster of servers that somebody else runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import anyio

from bootstrap.concurrency import each
from bootstrap.errors import NodeFailed, SpecError, UsageError
from bootstrap.events import Observer, Reporter
from bootstrap.formation.clients import Clients, open_clients
from bootstrap.formation.window import foreign_window
from bootstrap.judging.admission import Fault, admit
from bootstrap.judging.views import NodeView, Views, seen
from bootstrap.operations.create import Created, announce_plan
from bootstrap.operations.deployment import Access, Node, deployment_of_others
from bootstrap.operations.formed import Deadline, Formation, form_and_prove, refusal
from bootstrap.planning.addressing import Address
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import Member, Plan, plan_members
from bootstrap.planning.site import ServerInfo
from bootstrap.planning.spec import BUS_OFFSET, ClusterSpec
from bootstrap.planning.text import listing
from bootstrap.runtimes.dialling import LocalVantage


@dataclass(frozen=True, slots=True)
class Target:
    """A server as it was given: ``HOST:PORT``, or ``HOST:PORT@MACHINE[/ZONE]`` to declare its failure domain."""

    address: Address
    machine: str = ""
    zone: str = ""

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read one.

        Raises:
            ValueError: not of that form.
        """
        where, _, domain = text.partition("@")
        machine, _, zone = domain.partition("/")
        return cls(Address.parse(where), machine, zone)

    @property
    def place(self) -> Place:
        """Its failure domain; an address stands for its machine where none is declared, as in valkey-cli."""
        return Place(self.machine or self.address.host, self.zone)


def parse_targets(texts: Sequence[str]) -> tuple[Target, ...]:
    """Read all; raises `UsageError` that names every one that is wrong."""
    found, wrong = [], []
    for text in texts:
        try:
            found.append(Target.parse(text))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise UsageError("; ".join(wrong), code="bad-address", hint="give HOST:PORT, or HOST:PORT@MACHINE/ZONE")
    return tuple(found)


def plan_form(targets: Sequence[Target], replicas: int) -> Plan:
    """The plan for these servers by their addresses alone, nothing asked: what `form --dry-run` prints.

    Raises:
        SpecError: the counts do not work.
    """
    members = [Member(t.address, t.address.host, t.address.port + BUS_OFFSET, t.place) for t in targets]
    assumed = ServerInfo("valkey", (9, 1, 0), "", "assumed")
    plan = plan_members(members, replicas, assumed)
    return replace(plan, assumptions=("no server was asked: each is empty and in cluster mode", *_machines(targets)))


async def form(
    targets: Sequence[Target],
    replicas: int,
    access: Access,
    *,
    observer: Observer | None = None,
    timeout: float = 60.0,
) -> Created:
    """Form a cluster of these servers, or carry on with this very plan half done, and prove it.

    Args:
        targets: the servers.
        replicas: replicas of each primary.
        access: how they are reached.
        observer: told every event.
        timeout: seconds for all of it.

    Raises:
        SpecError: the counts do not work.
        Conflict: servers that may not be taken, with all faults of all of them.
        NodeFailed: servers that cannot be asked, a refused command, or a failed proof.
        NotConverged: the deadline passed.
    """
    if problems := ClusterSpec(nodes=len(targets), replicas=replicas).problems():
        raise SpecError(problems)
    deadline = Deadline.after(timeout)
    reporter = Reporter(str(targets[0].address), observer)
    names = {str(target.address): target for target in targets}
    async with open_clients(access.connect, {name: target.address for name, target in names.items()}) as clients:
        with reporter.phase("survey", "Asking the servers", "Asked the servers", total=len(names)):
            plan, exists = await _survey(targets, names, clients, replicas)
        announce_plan(plan, reporter, exists=exists)
        for assumption in _machines(targets):
            reporter.emit("note.made", message=assumption)
        formation = Formation(plan, clients, access, reporter, deadline, vantages=(LocalVantage(),), ours=False)
        views, formed = await form_and_prove(formation, await foreign_window(clients))
    seconds = reporter.elapsed
    reporter.emit("cluster.ready", seconds=round(seconds, 3), created=formed, floor=None)
    nodes = tuple(Node(n.name, n.index, n.host, n.zone, n.addresses) for n in plan.nodes)
    deployment = deployment_of_others(reporter.cluster, access, nodes)
    return Created(deployment, plan, views, formed, formed, seconds, reporter.timeline)


async def _survey(
    targets: Sequence[Target], names: Mapping[str, Target], clients: Clients, replicas: int
) -> tuple[Plan, bool]:
    """The plan for what the servers say of themselves, and whether there was something of a cluster before.

    Raises:
        Conflict: servers that may not be taken, with all faults of all of them.
        NodeFailed: servers that cannot be asked are among them.
    """
    ips, unresolved = await _resolve(names)
    views = await clients.look_patiently()
    plan = plan_members(_members(names, ips, views), replicas, _oldest(views), name="cluster")
    if faults := (*_given_twice(targets), *unresolved, *_others(admit(plan, views, ours=False), unresolved)):
        order = list(names)
        raise refusal(sorted(faults, key=lambda fault: order.index(fault.node)))
    return plan, not all(view.blank for view in seen(views).values())


def _machines(targets: Sequence[Target]) -> tuple[str, ...]:
    undeclared = sorted({target.address.host for target in targets if not target.machine})
    if len(undeclared) < 2:
        return ()
    return (
        f"each address is a machine of its own ({listing(undeclared, 3)}); declare others as HOST:PORT@MACHINE/ZONE",
    )


async def _resolve(names: Mapping[str, Target]) -> tuple[dict[str, str], tuple[Fault, ...]]:
    """Name -> IP literal, since CLUSTER MEET takes nothing else; and a fault for each that cannot be resolved."""

    async def one(name: str) -> str:
        host = names[name].address.host
        try:
            found = await anyio.getaddrinfo(host, names[name].address.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise NodeFailed(f"cannot be resolved: {(error.strerror or str(error)).lower()}") from error
        return str(found[0][4][0])

    ips, errors = await each(names, one)
    return ips, tuple(Fault(name, "silent", error.message) for name, error in errors.items())


def _members(names: Mapping[str, Target], ips: Mapping[str, str], views: Views) -> list[Member]:
    members = []
    for name, target in names.items():
        view = views[name]
        known = isinstance(view, NodeView) and view.cluster_mode
        zone = target.zone or (view.zone if isinstance(view, NodeView) else "")
        bus_port = view.myself.bus_port if known and isinstance(view, NodeView) else 0
        members.append(
            Member(
                target.address,
                ips.get(name, ""),
                bus_port or target.address.port + BUS_OFFSET,
                replace(target.place, zone=zone),
            )
        )
    return members


def _oldest(views: Views) -> ServerInfo:
    servers = [ServerInfo(v.flavor, v.version, "") for v in views.values() if isinstance(v, NodeView)]
    return min(servers, key=lambda server: server.version, default=ServerInfo("valkey", (9, 1, 0), ""))


def _given_twice(targets: Sequence[Target]) -> tuple[Fault, ...]:
    names = [str(target.address) for target in targets]
    return tuple(Fault(name, "twice", "is given twice") for name in dict.fromkeys(names) if names.count(name) > 1)


def _others(faults: Sequence[Fault], told: Sequence[Fault]) -> Iterator[Fault]:
    """Without the silence of nodes whose name could not even be resolved."""
    names = {fault.node for fault in told}
    return (fault for fault in faults if fault.node not in names)
