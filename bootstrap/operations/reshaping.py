"""Brings a running cluster to another shape: looks, lets pure rules say what is next, does it, looks again.

Servers that join must run already, and servers that leave are dismissed by the caller, who knows whose they are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio

from bootstrap.errors import NotConverged
from bootstrap.events import PhaseReporter, Reporter
from bootstrap.formation.clients import Clients
from bootstrap.formation.reconcile import poll_seconds, run_steps
from bootstrap.formation.window import Tempo
from bootstrap.judging.agreement import Agreement, agree, summarize
from bootstrap.judging.steps import Failover, Meet, Replicate, SetEpoch, Step, confirmed
from bootstrap.judging.transition import Todo, acquainted, lost, transition
from bootstrap.judging.views import Views
from bootstrap.operations.deployment import Deployment
from bootstrap.operations.migrate import move_slots
from bootstrap.planning.addressing import Address
from bootstrap.planning.layout import Layout
from bootstrap.planning.moves import SlotMove
from bootstrap.planning.plan import PlannedNode
from bootstrap.planning.text import plural

FAILOVER_SECONDS = 6.0
"""When a failover that was asked for has failed: servers give it up after five seconds (``CLUSTER_MF_TIMEOUT``)."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a cluster is to get to.

    Args:
        members: the nodes that are to be in it.
        goal: who leads, with which slots and replicas.
        leaving: the nodes that are to be in it no more.
        given_up: those of them whose slots others get empty, since they do not answer.
    """

    members: Sequence[PlannedNode]
    goal: Layout
    leaving: Sequence[PlannedNode] = ()
    given_up: frozenset[str] = frozenset()

    def todo(self, views: Views) -> Todo:
        """What to do next."""
        return transition(self.members, self.goal, self.leaving, views, given_up=self.given_up)

    def agreement(self, views: Views, announced: Mapping[str, Address] | None = None) -> Agreement:
        """What the nodes agree on that have to agree."""
        return agree(acquainted(self.leaving, views), announced)


@dataclass(slots=True)
class Reshaping:
    """One cluster on its way.

    Args:
        deployment: all of its nodes, joining and leaving ones included.
        clients: the connections to them.
        reporter: told about the phases.
        dismiss: takes the servers away that nobody knows any more.
        timeout: seconds without any progress after which it is given up. How long slots take to move is up to their
            keys, and does not count as long as they move.
        at_once: see `move_slots`.
    """

    deployment: Deployment
    clients: Clients
    reporter: Reporter
    dismiss: Callable[[Sequence[str]], Awaitable[None]]
    timeout: float
    at_once: int | None = None
    _asked: dict[str, float] = field(default_factory=dict)
    _doubtful: frozenset[Step] = frozenset()
    _ran: set[Step] = field(default_factory=set)
    _parted: bool = False

    async def run(self, destination: Destination, tempo: Tempo) -> Views:
        """Get there; the last look, with which every member agrees.

        Raises:
            NodeFailed: a node refused a command, or does not answer.
            NotConverged: nothing has changed for too long.
        """
        stages = _Stages(self.reporter, len(destination.leaving))
        last: Views = {}
        with anyio.move_on_after(self.timeout) as scope, stages.open():
            while True:
                last = await self.clients.look()
                agreement, todo = destination.agreement(last, self.deployment.announced), destination.todo(last)
                if todo.done and agreement.healthy:
                    # Servers that were to join once, and never did, are forgotten by nobody.
                    if destination.leaving and not self._parted:
                        await self.dismiss([node.name for node in destination.leaving])
                    return last
                steps, self._doubtful = confirmed(self._due(todo.steps), self._doubtful)
                if not steps and todo.moves and _settled(agreement):
                    stages.close()
                    await self._move(todo.moves, scope)
                    continue
                stages.tell(steps, todo, summarize(agreement, len(destination.members)))
                if steps:
                    await run_steps(self.clients, self.reporter, steps)
                elif todo.farewell and _may_part(agreement, destination, last):
                    await self._part(todo, destination)
                    steps = todo.farewell
                if not self._ran.issuperset(steps):
                    # What is only repeated is no progress.
                    self._ran |= set(steps)
                    _extend(scope, self.timeout)
                if any(isinstance(step, SetEpoch) for step in steps):
                    continue
                if not await tempo.keep(last, agreement, met=any(isinstance(step, Meet) for step in steps)):
                    await anyio.sleep(poll_seconds(len(destination.members)))
        raise self._given_up(destination, last)

    def _due(self, steps: Sequence[Step]) -> list[Step]:
        """Without the failovers that were asked for just now."""
        now = anyio.current_time()
        due = [
            step
            for step in steps
            if not isinstance(step, Failover) or now - self._asked.get(step.node, -FAILOVER_SECONDS) >= FAILOVER_SECONDS
        ]
        self._asked |= {step.node: now for step in due if isinstance(step, Failover)}
        return due

    async def _move(self, moves: Sequence[SlotMove], scope: anyio.CancelScope) -> None:
        total = sum(move.count for move in moves)
        number = plural(total, "slot")
        with self.reporter.phase("move", f"Moving {number}", f"Moved {number}", total=total) as phase:
            lively = _Lively(
                self.reporter, phase.name, total, phase.done_title, moved=partial(_extend, scope, self.timeout)
            )
            lively.progress(0)
            await move_slots(self.deployment, self.clients, moves, lively, at_once=self.at_once)
        _extend(scope, self.timeout)

    async def _part(self, todo: Todo, destination: Destination) -> None:
        # All at once: an id is banned for a minute, and whoever has not heard of it yet would bring it back.
        await run_steps(self.clients, self.reporter, todo.farewell)
        await self.dismiss([node.name for node in destination.leaving])
        self._parted = True

    def _given_up(self, destination: Destination, views: Views) -> NotConverged:
        agreement, todo = destination.agreement(views, self.deployment.announced), destination.todo(views)
        what = summarize(agreement, len(destination.members)) or todo.missing or "by now every node agrees"
        return NotConverged(
            f'"{self.deployment.name}" is not what it is to be, and nothing has changed for {self.timeout:g} s: {what}',
            nodes=agreement.by_node(),
            hint="see `valkey-bootstrap doctor`; the same command again carries on from here",
        )


def _extend(scope: anyio.CancelScope, timeout: float) -> None:
    scope.deadline = anyio.current_time() + timeout


def _settled(agreement: Agreement) -> bool:
    """Whether nothing is missing but replicas in CLUSTER SLOTS, which come by and by and matter to readers alone."""
    return all(doubt.kind == "hidden" for doubt in agreement.doubts)


def _may_part(agreement: Agreement, destination: Destination, views: Views) -> bool:
    """Whether nodes may be forgotten: when all is well, or when it is a lost one that keeps it from being well."""
    names = {node.name for node in destination.leaving}
    # A primary that has handed over its last slot follows the new owner: nobody waits until it is in sync.
    others = Agreement(agreement.layout, tuple(d for d in agreement.doubts if not names & {d.node, d.about}))
    if lost(destination.leaving, views):
        return not others.of("silent", "mode", "identity", "unknown")
    return _settled(others)


@dataclass(slots=True)
class _Lively(PhaseReporter):
    """A phase that puts off the deadline with everything that it tells."""

    moved: Callable[[], None] = lambda: None

    def progress(self, done: int, reason: str = "") -> None:
        """See `PhaseReporter.progress`."""
        if (done, reason) != self._last:
            self.moved()
        PhaseReporter.progress(self, done, reason)


_STAGES: Mapping[str, tuple[str, str]] = {
    "join": ("Introducing", "Introduced"),
    "take-over": ("Promoting", "Promoted"),
    "replicas": ("Attaching", "Attached"),
    "forget": ("Forgetting", "Forgot"),
    "agree": ("Waiting for every node to agree", "Every node agrees"),
}
_OBJECTS = {"join": "node", "take-over": "replica", "replicas": "replica", "forget": "node"}


class _Stages:
    """Tells the loop's way as phases; each is finished when the next one begins, or with the block.

    Args:
        reporter: told about them.
        leaving: how many nodes are to be forgotten.
    """

    def __init__(self, reporter: Reporter, leaving: int) -> None:
        self._reporter, self._leaving = reporter, leaving
        self._now = ""
        self._who: set[str] = set()
        self._stack = ExitStack()
        self._phase: PhaseReporter | None = None

    @contextmanager
    def open(self) -> Iterator[None]:
        """For the time of the loop: an exception leaves a phase unfinished."""
        with ExitStack() as outer:
            self._outer = outer
            yield

    def close(self) -> None:
        """Finish the phase: what comes next tells of itself."""
        self._stack.close()
        self._now, self._phase = "", None

    def tell(self, steps: Sequence[Step], todo: Todo, reason: str) -> None:
        """Tell what one look has shown."""
        stage = _stage(steps, todo) or self._now or "agree"
        if stage != self._now:
            self.close()
            self._now, self._who, self._stack = stage, set(), self._outer.enter_context(ExitStack())
            self._count(steps)
            title, done = self._titles()
            self._phase = self._stack.enter_context(self._reporter.phase(stage, title, done))
        self._count(steps)
        if self._phase is not None:
            self._phase.done_title = self._titles()[1]
            self._phase.progress(0, reason or todo.missing)

    def _count(self, steps: Sequence[Step]) -> None:
        kinds = _KINDS.get(self._now, ())
        self._who |= {step.node for step in steps if isinstance(step, kinds)}

    def _titles(self) -> tuple[str, str]:
        title, done = _STAGES[self._now]
        if self._now not in _OBJECTS:
            return title, done
        what = _OBJECTS[self._now]
        number = self._leaving if self._now == "forget" else len(self._who)
        objects = plural(number, what) if number else f"{what}s"
        return f"{title} {objects}", f"{done} {objects}"


_KINDS: Mapping[str, tuple[type[Step], ...]] = {
    "join": (SetEpoch,),
    "take-over": (Failover,),
    "replicas": (Replicate,),
}


def _stage(steps: Sequence[Step], todo: Todo) -> str:
    if any(isinstance(step, (SetEpoch, Meet)) for step in steps):
        return "join"
    for stage in ("take-over", "replicas"):
        if any(isinstance(step, _KINDS[stage]) for step in steps):
            return stage
    return "forget" if todo.farewell else ""
