"""Whose servers a cluster has, and so how nodes come and go: ours, which a runtime starts, or somebody else's."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import anyio

from bootstrap.concurrency import in_thread, to_the_end
from bootstrap.errors import NodeFailed, UsageError
from bootstrap.events import Reporter
from bootstrap.formation.clients import Clients
from bootstrap.formation.window import Window, foreign_window, gentle_window
from bootstrap.judging.admission import unfit
from bootstrap.judging.views import Views, seen
from bootstrap.operations.create import record_of, refuse_unfinished
from bootstrap.operations.deployment import Deployment, Node
from bootstrap.operations.formed import Deadline, Formation, refusal
from bootstrap.operations.login import Login, open_deployment
from bootstrap.operations.protection import protect
from bootstrap.operations.requests import AddNodes, RemoveNodes, Request, Scale
from bootstrap.operations.starting import start_nodes, watching
from bootstrap.planning.addressing import given, ports_used
from bootstrap.planning.layout import Layout, make_layout
from bootstrap.planning.plan import Plan, PlannedNode, Seat, Underway, bind, build_plan, seated_spec, seats_of
from bootstrap.planning.ports import next_ports
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec, parse_spec
from bootstrap.planning.text import listing
from bootstrap.runtimes.base import Record, Runtime

REMOVE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be done on a ground.

    Args:
        request: what is asked for.
        reporter: told about the phases.
        timeout: seconds without progress after which it is given up.
        at_once: how many slots of a source are on their way at once, at most; None leaves it to the size of its data.
    """

    request: Request
    reporter: Reporter
    timeout: float
    at_once: int | None = None


class OurGround:
    """Servers of ours; see `Ground`. Made by `our_ground`, which holds the cluster's name meanwhile.

    Args:
        deployment: the cluster.
        runtime: where its servers run.
        record: what is recorded of it.
        site: where new servers would be.
        work: what is to be done.
    """

    def __init__(self, deployment: Deployment, runtime: Runtime, record: Record, site: Site, work: Work) -> None:
        self.deployment = deployment
        self._runtime, self._record, self._site, self._work = runtime, record, site, work
        self._spec = spec_of(record)
        self._before = self._plan = replace(build_plan(self._spec, site, kept=record.kept), underway=record.underway)
        self.nodes = self._plan.nodes
        self.replicas = self._spec.replicas
        self.interrupted = record.underway is not None
        self.resumed = _resumed(record, self._plan, work.request)
        self.leaving = frozenset(record.underway.leaving if record.underway else ())
        # What a change has recorded that was interrupted may have joined or not.
        self.newcomers = frozenset(node.name for node in self.nodes) if self.interrupted else frozenset[str]()

    def recruits(self, number: int) -> tuple[PlannedNode, ...]:
        """See `Ground.recruits`: the lowest indexes and ports that are free."""
        if not number:
            return ()
        seats = seats_of(self._plan)
        used = {seat.index for seat in seats}
        free = [index for index in range(len(seats) + number) if index not in used][:number]
        use = ports_used(self._plan.announcement, publish=self._spec.publish)
        ports = next_ports(
            self._site, [seat.port for seat in seats], number, use, base=self._record.base_port
        )  # fmt: skip
        new = [self._recruit(index, port) for index, port in zip(free, ports, strict=True)]
        recruits = tuple(node for node in self._planned((*seats, *new)).nodes if node.index in free)
        self.newcomers |= {node.name for node in recruits}
        return recruits

    def admit(self, views: Views) -> None:
        """See `Ground.admit`: new servers were started for this cluster, and have nothing but what it gave them."""

    async def revive(self, names: Sequence[str]) -> None:
        """See `Ground.revive`."""
        self._plan = bind(self._plan, await self._runtime.prepare(self._plan))
        await self._start(self._plan, {node.name for node in self.nodes} - set(names))

    def _recruit(self, index: int, port: int) -> Seat:
        host = self._site.hosts[index % len(self._site.hosts)]
        zones = self._spec.zones
        return Seat(index, port, host.name, zones[index % len(zones)] if zones else host.zone)

    def _planned(self, seats: Sequence[Seat], underway: Underway | None = None) -> Plan:
        spec = replace(self._spec, replicas=self._replicas(seats))
        plan = build_plan(spec, self._site, kept=replace(self._record.kept, seats=tuple(seats)))
        return replace(plan, underway=underway)

    def _replicas(self, seats: Sequence[Seat]) -> int:
        """How many each primary is asked to have from now on."""
        request = self._work.request
        if isinstance(request, Scale) and request.replicas is not None:
            return request.replicas
        if isinstance(request, RemoveNodes) and request.fewer_replicas:
            return seated_spec(self._spec, [seat for seat in seats if not _empty(seat)]).replicas
        # A primary that comes without replicas is no wish for fewer of all the others.
        return min(self._spec.replicas, len(seats) - 1)

    async def receive(
        self, nodes: Sequence[PlannedNode], goal: Layout, leaving: Sequence[PlannedNode]
    ) -> tuple[PlannedNode, ...]:
        """See `Ground.receive`: records them first, so that a command that is killed is known to have begun."""
        underway = Underway(self._work.request.command, tuple(node.name for node in leaving))
        plan = self._planned([_seat(node, goal) for node in nodes], underway)
        await self._runtime.amend(plan)
        new = [node.name for node in nodes if node.name not in {each.name for each in self._before.nodes}]
        try:
            self._plan = plan = bind(plan, await self._runtime.prepare(plan))
            await self._start(plan, {node.name for node in leaving})
        except BaseException:
            # Nobody knows them yet: nothing is lost with them.
            await to_the_end(partial(self._take_back, new))
            raise
        return plan.nodes

    async def _take_back(self, new: Sequence[str]) -> None:
        with anyio.move_on_after(REMOVE_SECONDS):
            if new:
                self._work.reporter.mention("note.made", message=f"removing {listing(new)}, which nobody knows yet")
                await self._runtime.remove(self._before.name, new)
            await self._runtime.amend(self._before)

    async def _start(self, plan: Plan, leaving: set[str]) -> None:
        runtime = self._runtime
        record = await _recorded(plan.name, runtime)
        access = self.deployment.access
        kept = await runtime.kept(plan.name)
        protection = protect(plan.spec, Login(access.credentials.password), None, record, kept)
        if protection.tls is not None:
            await in_thread(protection.tls.prepare, plan.nodes)
        self.deployment = await open_deployment(record, runtime, access)
        # Whoever leaves and does not run is not started for that.
        staying = replace(plan, nodes=tuple(node for node in plan.nodes if node.name not in leaving))
        async with self.deployment.clients() as clients:
            deadline = Deadline.after(self._work.timeout)
            vantages = runtime.vantages(record)
            formation = Formation(staying, clients, access, self._work.reporter, deadline, vantages, ours=True)
            await start_nodes(formation, record, runtime, protection)
        if protection.kept:
            await runtime.keep(plan.name, protection.kept)

    def watching(self, leaving: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """See `Ground.watching`."""
        nodes = tuple(node for node in self._plan.nodes if node.name not in leaving)
        return watching(replace(self._plan, nodes=nodes), self._runtime)

    async def window(self, clients: Clients) -> Window:
        """See `Ground.window`."""
        return gentle_window(replace(self._plan, nodes=tuple(n for n in self._plan.nodes if n.name in clients.names)))

    async def dismiss(self, names: Sequence[str]) -> None:
        """See `Ground.dismiss`: removes them and their data.

        Raises:
            NodeFailed: something is left.
        """
        if left := await self._runtime.remove(self._plan.name, list(names)):
            raise NodeFailed(
                f"{listing(left)} could not be removed",
                code="not-removed",
                hint="remove it, and run the same command again",
            )

    async def finish(self, goal: Layout) -> None:
        """See `Ground.finish`."""
        self._plan = self._planned([_seat(node, goal) for node in self._plan.nodes if goal.shard_of(node.name)])
        await self._runtime.amend(self._plan)
        record = await _recorded(self._plan.name, self._runtime)
        self.deployment = await open_deployment(record, self._runtime, self.deployment.access)


class OthersGround:
    """Servers that somebody else runs; see `Ground`. Made by `others_ground`."""

    def __init__(self, deployment: Deployment, newcomers: Sequence[Node], ips: Mapping[str, str]) -> None:
        known = {str(node.addresses.control) for node in deployment.nodes}
        new = tuple(node for node in newcomers if str(node.addresses.control) not in known)
        asked = {str(node.addresses.control) for node in newcomers}
        self.deployment = replace(deployment, nodes=(*deployment.nodes, *new))
        self.nodes = tuple(_planned_node(node, ips.get(node.name)) for node in self.deployment.nodes)
        self.replicas = 0
        self.interrupted = False
        self.resumed: tuple[Layout, tuple[str, ...]] | None = None
        self.leaving = frozenset[str]()
        self._new = {node.name for node in new}
        # Also who is a member by now: a command that was killed may have introduced it, and no more.
        self.newcomers = frozenset(n.name for n in self.deployment.nodes if str(n.addresses.control) in asked)

    def recruits(self, number: int) -> tuple[PlannedNode, ...]:
        """See `Ground.recruits`: nobody, since nothing is started."""
        if number:
            raise UsageError(
                "somebody else runs these servers: none can be started for them",
                code="not-ours",
                hint="start servers in cluster mode, and give their addresses: `valkey-bootstrap add-node HOST:PORT`",
            )
        return ()

    def admit(self, views: Views) -> None:
        """See `Ground.admit`: newcomers must run, and be empty."""
        new = [node for node in self.nodes if node.name in self._new]
        members = {name: view for name, view in seen(views).items() if name not in self._new}
        functions = {name for view in members.values() if view.myself.slots for name in view.functions}
        ids = {view.id for view in members.values()}
        if faults := unfit(new, views, functions=functions, members=ids):
            raise refusal(faults)

    async def revive(self, names: Sequence[str]) -> None:
        """See `Ground.revive`: nothing is known of a change that was interrupted."""

    async def receive(
        self, nodes: Sequence[PlannedNode], goal: Layout, leaving: Sequence[PlannedNode]
    ) -> tuple[PlannedNode, ...]:
        """See `Ground.receive`: newcomers run already; by now they might have been given something.

        Raises:
            Conflict, NodeFailed: as `admit`.
        """
        del goal, leaving
        async with self.deployment.clients() as clients:
            self.admit(await clients.look_patiently())
        return tuple(nodes)

    @asynccontextmanager
    async def watching(self, leaving: Sequence[str]) -> AsyncIterator[None]:
        """See `Ground.watching`: what becomes of them is seen when they are asked."""
        del leaving
        yield

    async def window(self, clients: Clients) -> Window:
        """See `Ground.window`."""
        return await foreign_window(clients)

    async def dismiss(self, names: Sequence[str]) -> None:
        """See `Ground.dismiss`: they are left running, and know nobody any more."""
        async with self.deployment.clients() as clients:
            there = [name for name in names if name in seen(await clients.look_patiently())]
            # A replica drops its keys, and a primary has none any more: otherwise it refuses.
            await clients.run_checked({name: [("CLUSTER", "RESET", "HARD")] for name in there})

    async def finish(self, goal: Layout) -> None:
        """See `Ground.finish`."""
        members = tuple(node for node in self.deployment.nodes if goal.shard_of(node.name))
        self.deployment = replace(self.deployment, nodes=members)


@asynccontextmanager
async def our_ground(
    deployment: Deployment, runtime: Runtime, work: Work, *, claim: bool = True
) -> AsyncIterator[OurGround]:
    """The ground of a cluster of ours, with its name held for the block unless nothing is to be changed.

    Raises:
        Conflict: another command is at work on it, or another change was interrupted.
        UsageError: addresses were given.
    """
    if isinstance(work.request, AddNodes) and work.request.servers:
        raise UsageError(
            f'the servers of "{deployment.name}" are started by this program: no others can be added',
            code="ours",
            hint="leave out the address",
        )
    async with runtime.claim(deployment.name) if claim else nullcontext():
        record = await _recorded(deployment.name, runtime)
        _refuse_another_change(record, work.request)
        spec = spec_of(record)
        site = await runtime.survey(record, names=[name for name in (spec.announce_host, spec.expose) if name])
        yield OurGround(await open_deployment(record, runtime, deployment.access), runtime, record, site, work)


async def others_ground(deployment: Deployment, request: Request) -> OthersGround:
    """The ground of a cluster that somebody else runs.

    Raises:
        UsageError: new servers are asked for without their addresses; or a scale, which would start or end servers.
        NodeFailed: a name cannot be resolved.
    """
    if isinstance(request, Scale):
        raise UsageError(
            "somebody else runs these servers: they cannot be started or ended here",
            code="not-ours",
            hint="use add-node HOST:PORT and remove-node",
        )
    targets = request.servers if isinstance(request, AddNodes) else ()
    first = len(deployment.nodes)
    newcomers = [
        Node(str(t.address), first + at, t.machine or t.address.host, t.zone, given(t.address, t.address.host))
        for at, t in enumerate(targets)
    ]
    hosts = {node.name: node.addresses.meet.host for node in (*deployment.nodes, *newcomers)}
    return OthersGround(deployment, newcomers, await _resolved(hosts))


async def _resolved(hosts: Mapping[str, str]) -> dict[str, str]:
    """Node -> IP literal, since CLUSTER MEET and MIGRATE of servers take nothing else for sure."""
    found = {}
    for name, host in hosts.items():
        try:
            found[name] = str((await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM))[0][4][0])
        except OSError as error:
            raise NodeFailed(
                f"{name} cannot be resolved: {(error.strerror or str(error)).lower()}", nodes={name: str(error)}
            ) from error
    return found


def spec_of(record: Record) -> ClusterSpec:
    """What a cluster of ours was made of; that it has no password was decided when it was made."""
    return parse_spec({**record.spec, "insecure": True})


def _resumed(record: Record, plan: Plan, request: Request) -> tuple[Layout, tuple[str, ...]] | None:
    if record.underway is None or record.underway.command != request.command:
        return None
    leaving = record.underway.leaving
    staying = make_layout(shard for shard in plan.layout.shards if shard.primary not in leaving)
    return staying, leaving


def _refuse_another_change(record: Record, request: Request) -> None:
    # The whole shape can be asked for at any time, whatever another command was about.
    if record.underway is None or isinstance(request, Scale) or record.underway.command == request.command:
        return
    refuse_unfinished(record)


async def _recorded(name: str, runtime: Runtime) -> Record:
    record = await record_of(name, runtime)
    if record is None:
        raise NodeFailed(f'"{name}" was removed by somebody else', code="removed", hint="create it again")
    return record


def _seat(node: PlannedNode, goal: Layout) -> Seat:
    """What a node is on the way to; whoever leaves is recorded as a primary without slots until it is gone."""
    shard = goal.shard_of(node.name)
    leads = shard is None or shard.primary == node.name
    return Seat(
        node.index,
        node.addresses.control.port,
        node.host,
        node.zone,
        None if leads or shard is None else shard.primary,
        shard.slots if shard is not None and leads else (),
    )


def _empty(seat: Seat) -> bool:
    return seat.primary is None and not seat.slots


def _planned_node(node: Node, ip: str | None) -> PlannedNode:
    meet = replace(node.addresses.meet, host=ip or node.addresses.meet.host)
    addresses = replace(node.addresses, meet=meet)
    return PlannedNode(node.name, node.index, "primary", (), None, node.host, node.zone, node.index + 1, addresses)
