"""Grows, shrinks and spreads a running cluster: decides first, then does it, and proves it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio

from bootstrap.errors import Conflict, NodeFailed, UsageError
from bootstrap.events import PhaseReporter, Reporter
from bootstrap.formation.clients import Clients
from bootstrap.formation.reconcile import poll_seconds
from bootstrap.formation.window import Window, fast_window
from bootstrap.judging.agreement import Agreement, DoubtKind, agree, summarize
from bootstrap.judging.transition import acquainted, apart_from, lost, shape, strangers
from bootstrap.judging.views import Views, seen
from bootstrap.operations.carrying import carry_over
from bootstrap.operations.deployment import Deployment, resolve_node
from bootstrap.operations.grounds import Work, others_ground, our_ground
from bootstrap.operations.migrate import settle
from bootstrap.operations.requests import AddNodes, RemoveNodes, Request, Scale, Scene, check, decide
from bootstrap.operations.reshaping import Destination, Reshaping
from bootstrap.operations.status import Status, make_status
from bootstrap.planning.layout import Layout
from bootstrap.planning.moves import SlotMove
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import FORMAT_VERSION, PlannedNode
from bootstrap.planning.scaling import Change, Standing, changes, moves_between
from bootstrap.planning.text import listing

_MENDED_ON_THE_WAY: frozenset[DoubtKind] = frozenset(
    {"unknown", "stranger", "link", "flag", "state", "belief", "open", "replication", "hidden", "address"}
)
"""Doubts that a change which was interrupted leaves behind, and which carrying on clears."""

CALM_SECONDS = 10.0
"""How long servers that were started again may take to tell what has become of their roles and slots."""

_CARRY_ON = "the same command again carries on from here"


@dataclass(frozen=True, slots=True)
class Scaled:
    """The outcome of a change, or what it would be.

    Args:
        deployment: the cluster, with the nodes that it has now.
        changes: what becomes of which node.
        moves: the slots that move.
        changed: whether this call changed something.
        seconds: how long it took.
        status: what every node said at the end; None where nothing was done yet.
    """

    deployment: Deployment
    changes: tuple[Change, ...]
    moves: tuple[SlotMove, ...]
    changed: bool
    seconds: float = 0.0
    status: Status | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: that of a status, where there is one, with ``changed``, ``changes[]`` and ``moves[]``."""
        told = (
            self.status.as_dict() if self.status else {"format_version": FORMAT_VERSION, "name": self.deployment.name}
        )
        return told | {
            "changed": self.changed,
            "seconds": round(self.seconds, 3),
            "changes": [change.as_dict() for change in self.changes],
            "moves": [
                {"source": move.source, "target": move.target, "slots": [list(pair) for pair in move.slots]}
                for move in self.moves
            ],
        }


class Ground(Protocol):
    """Whose servers they are, and so how nodes come and go.

    Args:
        deployment: the cluster with all nodes that are known, those included that have not joined yet.
        nodes: the same as planned nodes, in the order of their indexes.
        replicas: how many replicas each primary is asked to have.
        interrupted: a change began and did not come to its end.
        resumed: the layout that this very request was on its way to then, and who was leaving.
        leaving: who was leaving in the interrupted change, whatever is asked for now.
        newcomers: nodes that need not be members yet: those asked for, and in an interrupted change all.
    """

    deployment: Deployment
    nodes: tuple[PlannedNode, ...]
    replicas: int
    interrupted: bool
    resumed: tuple[Layout, tuple[str, ...]] | None
    leaving: frozenset[str]
    newcomers: frozenset[str]

    def recruits(self, number: int) -> tuple[PlannedNode, ...]:
        """Nodes that can be added beside `nodes`; newcomers from then on."""

    def admit(self, views: Views) -> None:
        """Refuse newcomers that may not join, before anything is made of what they say.

        Raises:
            Conflict, NodeFailed: with all faults of all of them.
        """

    async def revive(self, names: Sequence[str]) -> None:
        """Start servers of an interrupted change that do not run any more. Sets `deployment`."""

    async def receive(
        self, nodes: Sequence[PlannedNode], goal: Layout, leaving: Sequence[PlannedNode]
    ) -> tuple[PlannedNode, ...]:
        """Have all members running, newcomers included; all nodes, as they are now planned. Sets `deployment`."""

    def watching(self, leaving: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """A block that ends when one of the servers dies meanwhile, those that leave excepted."""

    async def window(self, clients: Clients) -> Window:
        """The settings that are different meanwhile."""

    async def dismiss(self, names: Sequence[str]) -> None:
        """Take away servers that nobody knows any more."""

    async def finish(self, goal: Layout) -> None:
        """Record what there is now. Sets `deployment`."""


async def reshape(
    deployment: Deployment,
    request: Request,
    reporter: Reporter,
    *,
    timeout: float = 60.0,
    dry_run: bool = False,
    slots_at_once: int | None = None,
) -> Scaled:
    """Change the shape of a running cluster; nothing where it is what it is to be.

    Args:
        deployment: the cluster.
        request: what is asked for.
        reporter: told about the phases.
        timeout: seconds without progress after which it is given up. How long slots take to move does not count.
        dry_run: only decide.
        slots_at_once: how many slots of a primary are on their way at once, at most; None leaves it to the size of its
            data.

    Raises:
        UsageError, SpecError: the request cannot be carried out as it is worded.
        Conflict: the nodes do not agree beforehand, another command is at work, or data or replicas would be lost.
        NodeFailed: a server died, refused a command or does not answer.
        NotConverged: nothing changed for too long.
    """
    check(request)
    if slots_at_once is not None and slots_at_once < 1:
        raise UsageError(f"{slots_at_once} slots at once move nothing", hint="1 or more")
    work = Work(request, reporter, timeout, slots_at_once)
    if deployment.runtime is None:
        return await _Change(await others_ground(deployment, request), work, dry_run).run()
    async with our_ground(deployment, deployment.runtime, work, claim=not dry_run) as ground:
        return await _Change(ground, work, dry_run).run()


@dataclass(slots=True)
class _Change:
    """One request on its ground."""

    ground: Ground
    work: Work
    dry_run: bool
    settled: bool = False

    async def run(self) -> Scaled:
        ground = self.ground
        views = await self._look()
        known = {node.name: node for node in ground.nodes}
        recruits = ground.recruits(self._wanted())
        nodes = (*ground.nodes, *recruits)
        leaving = [known[name] for name in self._leaving(views, recruits)]
        goal, now = self._decide(nodes, leaving, views)
        absent = [node for node in nodes if goal.shard_of(node.name) and node.name not in seen(views)]
        where = {node.name: str(node.addresses.host) for node in nodes}
        order = list(where)
        told = tuple(
            replace(change, address=where[change.node])
            for change in sorted(changes(now, goal), key=lambda change: order.index(change.node))
        )
        moves = moves_between(now, goal)
        if self.dry_run:
            return Scaled(ground.deployment, told, moves, changed=False, seconds=self.work.reporter.elapsed)
        if not told and not moves and not absent and not leaving and ground.resumed is None:
            status = make_status(ground.deployment, views)
            seconds = self.work.reporter.elapsed
            return Scaled(ground.deployment, (), (), changed=self.settled, seconds=seconds, status=status)
        nodes = await ground.receive(nodes, goal, leaving)
        names = {node.name for node in leaving}
        destination = Destination(
            [node for node in nodes if goal.shard_of(node.name)],
            goal,
            [node for node in nodes if node.name in names],
            given_up=frozenset(names - seen(views).keys()) if self._loses_data else frozenset(),
        )
        try:
            last = await self._go(destination)
            await ground.finish(goal)
        except NodeFailed as error:
            if "again" not in error.hint:
                error.hint = f"{error.hint}; {_CARRY_ON}" if error.hint else _CARRY_ON
            raise
        status = make_status(ground.deployment, {name: last[name] for name in ground.deployment.addresses})
        return Scaled(ground.deployment, told, moves, changed=True, seconds=self.work.reporter.elapsed, status=status)

    @property
    def _loses_data(self) -> bool:
        """Whether keys may be given up that nobody has who answers."""
        return isinstance(self.work.request, RemoveNodes) and self.work.request.lose_data

    async def _look(self) -> Views:
        """What everybody says; what another command left half done is finished before."""
        async with self.ground.deployment.clients() as clients:
            views = await clients.look_patiently()
        # What somebody else has on a server is not for this command to settle, and no fault of the members.
        self.ground.admit(views)
        if self.dry_run:
            return views
        if self.ground.interrupted and (idle := self._missed(views)):
            await self.ground.revive(idle)
        async with self.ground.deployment.clients() as clients:
            with self.work.reporter.phase("settle", "Looking at every node", "Looked at every node") as phase:
                views = await self._calm(clients, phase) if self.ground.interrupted else await clients.look_patiently()
                while await settle(self.ground.deployment, clients, views, phase):
                    self.settled = True
                    views = await clients.look_patiently()
        return views

    def _missed(self, views: Views) -> list[str]:
        """Who does not answer, and is needed: members and newcomers, and whoever has slots that it was to hand over."""
        silent = [node for node in self.ground.nodes if node.name not in seen(views)]
        if not seen(views):
            return [node.name for node in silent]
        leaving = self.ground.leaving
        needed = {name for name, found in lost(silent, views).items() if found.slots and not self._loses_data}
        return [node.name for node in silent if node.name not in leaving or node.name in needed]

    async def _calm(self, clients: Clients, phase: PhaseReporter) -> Views:
        """A look at servers that were just started again: what they say of each other is not old any more."""
        with anyio.move_on_after(CALM_SECONDS):
            while True:
                views = await clients.look()
                doubts = agree(views, self.ground.deployment.announced).of("belief", "coverage", "flag")
                if not doubts:
                    return views
                phase.progress(0, str(doubts[0]))
                await anyio.sleep(poll_seconds(len(views)))
        return await clients.look()

    def _wanted(self) -> int:
        """How many servers there have to be beside those that are known."""
        match self.work.request:
            case Scale(nodes=number):
                return max(0, number - len(self.ground.nodes))
            case AddNodes(number=number, servers=()) if self.ground.resumed is None:
                return number
            case _:
                return 0

    def _leaving(self, views: Views, recruits: Sequence[PlannedNode]) -> list[str]:
        if self.ground.resumed is not None:
            return list(self.ground.resumed[1])
        match self.work.request:
            case RemoveNodes(nodes=refs):
                return list(dict.fromkeys(self._name(ref, views) for ref in refs))
            case Scale(nodes=number):
                # Those of the highest indexes, as they came last.
                return [node.name for node in self.ground.nodes[number - len(recruits) :]]
            case _:
                return []

    def _name(self, ref: str | int, views: Views) -> str:
        ids = {name: view.id for name, view in seen(views).items()}
        return resolve_node(ref, self.ground.deployment.nodes, ids).name

    def _decide(
        self, nodes: Sequence[PlannedNode], leaving: Sequence[PlannedNode], views: Views
    ) -> tuple[Layout, Layout]:
        """The layout to get to, and the one that there is."""
        gone = {node.name for node in leaving}
        # Where nobody answers, nobody is known: then nothing can be told of them.
        outside = [
            node
            for node in (strangers(nodes, views) if seen(views) else ())
            if node.name not in gone and node.name in self.ground.newcomers
        ]
        names = {node.name for node in outside}
        self._refuse_disagreement(acquainted(leaving, apart_from(outside, views)), leaving)
        absent = lost(leaving, views)
        self._refuse_losses({name: found.slots for name, found in absent.items() if found.slots})
        now = shape({name: view for name, view in seen(views).items() if name not in names}, absent)
        zones = {name: view.zone for name, view in seen(views).items()}
        places = {node.name: Place(node.host, node.zone or zones.get(node.name, "")) for node in nodes}
        if self.ground.resumed is not None:
            return self.ground.resumed[0], now
        scene = Scene(
            Standing(now, places),
            newcomers=self._newcomers(nodes, outside),
            leaving=[node.name for node in leaving],
            replicas=self.ground.replicas,
            resolve=lambda ref: self._name(ref, views),
        )
        return decide(self.work.request, scene), now

    def _newcomers(self, nodes: Sequence[PlannedNode], outside: Sequence[PlannedNode]) -> list[str]:
        """Who is asked to be added: also those that were introduced by now, where that is all that is known."""
        wanted = {node.name for node in outside} if self.ground.interrupted else self.ground.newcomers
        return [node.name for node in nodes if node.name in wanted]

    def _refuse_disagreement(self, views: Views, leaving: Sequence[PlannedNode]) -> None:
        """Raise `Conflict` where the members do not agree beforehand: what is not known cannot be changed safely."""
        agreement = agree(views, self.ground.deployment.announced)
        mended = _MENDED_ON_THE_WAY if self.ground.interrupted else frozenset({"open"})
        if any(node.name not in views for node in leaving):
            # Whoever is lost and leaves is what keeps it from being well.
            mended |= {"state", "coverage", "flag"}
        doubts = tuple(doubt for doubt in agreement.doubts if doubt.kind not in mended)
        if not doubts:
            return
        found = Agreement(agreement.layout, doubts)
        raise Conflict(
            f'the nodes of "{self.ground.deployment.name}" do not agree: {summarize(found, len(views))}',
            code="not-healthy",
            hint="`valkey-bootstrap doctor` says what is wrong, and how to mend it",
            nodes=found.by_node(),
        )

    def _refuse_losses(self, slots: Mapping[str, object]) -> None:
        if not slots or self._loses_data:
            return
        name = next(iter(slots))
        raise Conflict(
            f"{listing(list(slots))} {'does' if len(slots) == 1 else 'do'} not answer, and nobody else has "
            f"{'its' if len(slots) == 1 else 'their'} keys",
            code="data-loss",
            hint=f"start {name} again, or give its keys up with --lose-data",
            nodes=dict.fromkeys(slots, "does not answer"),
        )

    async def _go(self, destination: Destination) -> Views:
        ground = self.ground
        names = [node.name for node in destination.leaving]
        async with ground.deployment.clients() as clients, ground.watching(names):
            members = clients.only([node.name for node in destination.members])
            await carry_over(members, destination.goal, self.work.reporter)
            work = self.work
            reshaping = Reshaping(
                ground.deployment, clients, work.reporter, ground.dismiss, work.timeout, at_once=work.at_once
            )
            async with fast_window(await ground.window(members), members, self.work.reporter) as tempo:
                return await reshaping.run(destination, tempo)
