"""Moves slots between primaries of a running cluster, and finishes what a command that was killed left half moved."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio

from bootstrap.concurrency import together
from bootstrap.errors import NodeFailed
from bootstrap.events import PhaseReporter
from bootstrap.formation.base import Command, Unreachable
from bootstrap.formation.clients import Clients
from bootstrap.judging.batches import slots_in_job
from bootstrap.judging.migrations import holds_setslot, moves_ranges
from bootstrap.judging.open_slots import BringHome, Close, Finish, Stuck, mend, to_count
from bootstrap.judging.views import NodeView, Views, parse_info, seen
from bootstrap.operations.deployment import Deployment
from bootstrap.operations.migrate_jobs import JobMoves, wait_for_jobs
from bootstrap.operations.migrate_keys import CHUNK, HINT, Ends, KeyMove, Link, batched, bring_home, open_link
from bootstrap.planning.moves import SlotMove, split
from bootstrap.planning.slots import count, expand
from bootstrap.planning.text import listing

SIDE_BY_SIDE = 2
"""Chunks of slots that are on their way: while one is opened or closed, a source sends keys of another."""

LANES = 32
"""Connections to an end that holds SETSLOTs for its replicas. To one that does not, one is best: it writes its
nodes.conf once for all that it reads at once."""

ROUNDS = 5
"""How often open slots are looked at: one repair may make the next one possible, and news need a moment."""

ROUND_SECONDS = 0.3


async def move_slots(
    deployment: Deployment,
    clients: Clients,
    moves: Sequence[SlotMove],
    phase: PhaseReporter,
    *,
    at_once: int | None = None,
) -> None:
    """Make moves: sources side by side, the moves of each one after the other.

    When it is cancelled, servers give up what they do by themselves, and slots that are open are finished within some
    seconds; where that is not enough they stay open, and are served, until `settle`.

    Args:
        deployment: the cluster; moves name its nodes.
        clients: all of its nodes.
        moves: sources must be the owners.
        phase: told how many slots have arrived, and what goes on.
        at_once: how many slots of a source are on their way at once, at most; None leaves it to the size of its data.

    Raises:
        NodeFailed: a server refused a move or could not make it, or could not be reached; what has arrived stays.
    """
    if not moves:
        return
    views = await clients.look_patiently()
    nodes = _nodes(views, dict.fromkeys(name for move in moves for name in (move.source, move.target)))
    able = {name for name, view in nodes.items() if moves_ranges(view.flavor, view.version)}
    by_source: dict[str, list[SlotMove]] = {}
    for move in moves:
        by_source.setdefault(move.source, []).append(move)
    engine = _Engine(deployment, clients, seen(views), phase, at_once)
    await together(partial(engine.run, queue, able) for queue in by_source.values())


async def settle(deployment: Deployment, clients: Clients, views: Views, phase: PhaseReporter) -> bool:
    """Finish what another command left half done: jobs are waited for, open slots finished or closed.

    Args:
        deployment: the cluster.
        clients: all of its nodes.
        views: a look at them.
        phase: told what goes on.

    Returns:
        Whether anything was done.

    Raises:
        NodeFailed: a slot cannot be settled without risk to keys, or a server refused to; the rest is settled.
    """
    able = [name for name, view in seen(views).items() if moves_ranges(view.flavor, view.version)]
    waited = await wait_for_jobs(clients, able, phase.progress)
    done = waited
    for number in range(ROUNDS):
        views = await clients.look() if waited or number else views
        if not any(view.myself.role == "primary" and view.myself.open_slots for view in seen(views).values()):
            return done
        engine = _Engine(deployment, clients, seen(views), phase)
        last = number == ROUNDS - 1
        done = await engine.mend(views, last=last) or done
        await anyio.sleep(0 if number == 0 else ROUND_SECONDS)
    return done


def _nodes(views: Views, names: Mapping[str, None]) -> dict[str, NodeView]:
    """The nodes that take part, all of which must answer."""
    found = seen(views)
    absent = [name for name in names if name not in found]
    if missing := {name: str(getattr(views.get(name), "reason", "is no node of a cluster")) for name in absent}:
        node, reason = next(iter(missing.items()))
        raise Unreachable(f"{node} {reason}", nodes=missing, hint=HINT)
    return {name: found[name] for name in names}


@dataclass(slots=True)
class _Progress:
    """What the sources do, told as one."""

    phase: PhaseReporter
    slots: int = 0
    keys: dict[str, int] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)

    def job(self, pair: str, slots: int, text: str) -> None:
        """Take news of a job."""
        self._tell(pair, slots, text)

    def moved(self, pair: str, slots: int, keys: int) -> None:
        """Take news of keys."""
        self.keys[pair] = self.keys.get(pair, 0) + keys
        self._tell(pair, slots, f"{pair}: {self.keys[pair]:,} keys")

    def _tell(self, pair: str, slots: int, text: str) -> None:
        self.slots += slots
        self.texts[pair] = text
        self.phase.progress(self.slots, "; ".join(text for text in self.texts.values() if text))


@dataclass(slots=True)
class _Engine:
    """One call's means.

    Args:
        deployment, clients: the cluster.
        nodes: what the nodes said before.
        phase: told what goes on.
        at_once: see `move_slots`.
    """

    deployment: Deployment
    clients: Clients
    nodes: Mapping[str, NodeView]
    phase: PhaseReporter
    at_once: int | None = None
    ids: dict[str, str] = field(init=False)
    _progress: _Progress = field(init=False)
    _held: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self._progress = _Progress(self.phase)
        self.ids = {name: view.id for name, view in self.nodes.items()}
        followed = {view.myself.primary for view in self.nodes.values()}
        self._held = {
            name
            for name, view in self.nodes.items()
            if view.id in followed and holds_setslot(view.flavor, view.version)
        }

    async def run(self, queue: Sequence[SlotMove], able: set[str]) -> None:
        """The moves of one source."""
        for move in queue:
            if {move.source, move.target} <= able:
                pair = f"{move.source} to {move.target}"
                parts = split(move, self.at_once or await self._slots_in_job(move))
                await JobMoves(self.clients, self.ids, partial(self._progress.job, pair)).run(parts)
            else:
                await self._move_keys(move.source, move.target, sorted(expand(move.slots)))

    async def _slots_in_job(self, move: SlotMove) -> int:
        (reply,) = (await self.clients.run_checked({move.source: [("INFO", "memory")]}))[move.source]
        data = parse_info(str(reply)).get("used_memory", "")
        # Where it does not tell all go at once.
        known = int(data) if data.isdecimal() else 0
        return slots_in_job(move.count, count(self.nodes[move.source].myself.slots), known)

    async def _move_keys(self, source: str, target: str, slots: Sequence[int]) -> None:
        most = self.at_once or SIDE_BY_SIDE * CHUNK
        number = min(SIDE_BY_SIDE, most)
        chunks = batched(slots, min(CHUNK, most // number))
        tell = partial(self._progress.moved, f"{source} to {target}")
        async with AsyncExitStack() as stack:
            every = [await stack.enter_async_context(self._ends(source, target, number)) for _ in range(number)]
            await together(partial(KeyMove(ends, tell, number).run, chunks) for ends in every)

    @asynccontextmanager
    async def _ends(self, source: str, target: str, side_by_side: int = 1) -> AsyncIterator[Ends]:
        """Links for one of so many that share what the two ends can take."""
        access, addresses = self.deployment.access, self.deployment.addresses
        meet = {node.name: node.addresses.meet for node in self.deployment.nodes}
        async with AsyncExitStack() as stack:

            async def links(name: str, number: int) -> list[Link]:
                there = addresses[name]
                return [await stack.enter_async_context(open_link(access.connect, name, there)) for _ in range(number)]

            lanes = {name: LANES // side_by_side if name in self._held else 1 for name in (source, target)}
            giving, taking = [await links(name, number) for name, number in lanes.items()]
            (sender,) = await links(source, 1)
            yield Ends(giving[0], taking[0], sender, giving, taking, self.ids, meet[target], access.credentials)

    async def mend(self, views: Views, *, last: bool) -> bool:
        """One round of repairs; whether there was something to repair.

        Raises:
            NodeFailed: in the last round, if something is stuck; servers refused.
        """
        try:
            keys = await self._count(views)
            todo = mend(views, keys)
        except ValueError as error:
            raise NodeFailed(f"open slots cannot be read: {error}", code="garbage", hint=HINT) from error
        await self._close([one for one in todo if isinstance(one, Close)])
        for homeless, slots in _grouped([one for one in todo if isinstance(one, BringHome)]).items():
            async with self._ends(*homeless) as ends:
                await bring_home(ends, slots)
        finishing = _grouped([one for one in todo if isinstance(one, Finish)])
        queues: dict[str, list[tuple[str, list[int]]]] = {}
        for (source, target), slots in finishing.items():
            queues.setdefault(source, []).append((target, slots))
        await together(partial(self._finish, source, queue) for source, queue in queues.items())
        if last and (stuck := [one for one in todo if isinstance(one, Stuck)]):
            raise _stuck_error(stuck)
        return any(not isinstance(one, Stuck) for one in todo)

    async def _finish(self, source: str, queue: Sequence[tuple[str, list[int]]]) -> None:
        for target, slots in queue:
            await self._move_keys(source, target, slots)

    async def _count(self, views: Views) -> dict[tuple[str, int], int]:
        by_node: dict[str, list[int]] = {}
        for node, slot in to_count(views):
            by_node.setdefault(node, []).append(slot)
        replies = await self.clients.run_checked(
            {name: [("CLUSTER", "COUNTKEYSINSLOT", str(slot)) for slot in slots] for name, slots in by_node.items()}
        )
        return {
            (name, slot): int(count)
            for name, slots in by_node.items()
            for slot, count in zip(slots, replies[name], strict=True)
        }

    async def _close(self, closing: Sequence[Close]) -> None:
        """Whoever does not own a slot is told whose it is first: without its flag it might take it for its own."""
        commands: dict[str, list[Command]] = {}
        for one in closing:
            mine = commands.setdefault(one.node, [])
            slot = str(one.slot)
            if one.node != one.owner:
                mine.append(("CLUSTER", "SETSLOT", slot, "NODE", self.ids[one.owner]))
            mine.append(("CLUSTER", "SETSLOT", slot, "STABLE"))
        await self.clients.run_checked(commands)


def _grouped(todo: Sequence[Finish | BringHome]) -> dict[tuple[str, str], list[int]]:
    """Slots by whom they leave and whom they go to."""
    found: dict[tuple[str, str], list[int]] = {}
    for one in todo:
        pair = (one.source, one.target) if isinstance(one, Finish) else (one.node, one.owner)
        found.setdefault(pair, []).append(one.slot)
    return found


def _stuck_error(stuck: Sequence[Stuck]) -> NodeFailed:
    reasons: dict[str, list[str]] = {}
    for one in stuck:
        reasons.setdefault(one.node, []).append(one.reason)
    first = stuck[0]
    more = f", and {len(stuck) - 1} more slots are open" if len(stuck) > 1 else ""
    return NodeFailed(
        f"{first.node} {first.reason}{more}",
        code="open-slots",
        nodes={node: listing(found, 3, separator="; ") for node, found in reasons.items()},
        hint="start the nodes that do not answer, and run the same command again; see `valkey-bootstrap doctor`",
    )
