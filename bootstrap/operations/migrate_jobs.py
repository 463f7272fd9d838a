"""Moves slots between servers of Valkey 9.0 and newer, which move whole ranges by themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import anyio

from bootstrap.concurrency import each, to_the_end
from bootstrap.formation.base import ServerError
from bootstrap.formation.clients import Clients
from bootstrap.judging.migrations import Migration, newest, read_migrations
from bootstrap.judging.views import parse_nodes
from bootstrap.operations.migrate_keys import failed
from bootstrap.planning.moves import SlotMove
from bootstrap.planning.slots import count, expand
from bootstrap.planning.text import plural

POLL_SECONDS = 0.02
"""How often a source is first asked how far it is; less and less often, the longer it takes."""

SLOWEST_POLL = 0.25

CANCEL_SECONDS = 5.0
"""How long servers may take to give up what is under way, when we are told to stop."""

AGREE_SECONDS = 15.0
"""How long the two ends may take to say that the slots have changed hands, once the job has succeeded."""

Tell = Callable[[int, str], None]
"""Told how many slots have arrived, and what goes on."""


async def jobs_of(clients: Clients, node: str) -> tuple[Migration, ...]:
    """All jobs that a node tells of, the newest first.

    Raises:
        NodeFailed: it does not tell, or in a way that cannot be read.
    """
    (reply,) = await clients.run(node, ("CLUSTER", "GETSLOTMIGRATIONS"))
    if isinstance(reply, ServerError):
        raise failed(f"{node} refused `CLUSTER GETSLOTMIGRATIONS`: {reply}", node, reply.text)
    try:
        return read_migrations(reply)
    except ValueError as error:
        raise failed(
            f"{node} tells of slot migrations in a way that cannot be read: {error}", node, str(error)
        ) from error


async def wait_for_jobs(clients: Clients, nodes: Sequence[str], tell: Tell) -> bool:
    """Wait until no job is under way; whether one was.

    Raises:
        NodeFailed: a node does not tell.
    """
    waited, pause = False, POLL_SECONDS
    while True:
        found, errors = await each(nodes, lambda node: jobs_of(clients, node))
        for error in errors.values():
            raise error
        running = [(node, job) for node, jobs in found.items() for job in jobs if not job.ended]
        if not running:
            return waited
        waited = True
        tell(0, "; ".join(f"{node}: {_state(job)}" for node, job in running))
        await anyio.sleep(pause)
        pause = min(SLOWEST_POLL, pause * 1.5)


@dataclass(slots=True)
class JobMoves:
    """The moves of one source, one job after the other: a source sends a snapshot of one at a time.

    Args:
        clients: all nodes.
        ids: node name -> node id.
        tell: told how far it is.
    """

    clients: Clients
    ids: Mapping[str, str]
    tell: Tell
    _under_way: SlotMove | None = field(default=None)

    async def run(self, moves: Sequence[SlotMove]) -> None:
        """Make the moves; on cancellation the servers give up the one under way, and what has arrived stays.

        Raises:
            NodeFailed: a server refused a move or could not make it.
        """
        try:
            for number, move in enumerate(moves, 1):
                self._under_way = move
                await self._run_one(move, f"job {number} of {len(moves)}, " if len(moves) > 1 else "")
                self._under_way = None
        except BaseException:
            if self._under_way is not None:
                await to_the_end(self._give_up)
            raise

    async def _run_one(self, move: SlotMove, which: str) -> None:
        source, target = move.source, self.ids[move.target]
        known = {job.name for job in await jobs_of(self.clients, source)}
        bounds = [str(bound) for pair in move.slots for bound in pair]
        await self.clients.run_checked({source: [("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *bounds, "NODE", target)]})
        pause = POLL_SECONDS
        while True:
            job = newest(await jobs_of(self.clients, source), known, target)
            if job is None or job.state == "success":
                # A server forgets old jobs; whether the slots have arrived is seen in the end.
                break
            if job.ended:
                why = job.message or job.state
                raise failed(
                    f"{source} could not move {plural(move.count, 'slot')} to {move.target}: {why}", source, why
                )
            self.tell(0, f"{source} to {move.target}: {which}{_state(job)}")
            await anyio.sleep(pause)
            pause = min(SLOWEST_POLL, pause * 1.2)
        await self._await_agreement(move)
        self.tell(move.count, "")

    async def _await_agreement(self, move: SlotMove) -> None:
        """Until both ends say that the target has the slots."""
        waiting = [move.target, move.source]
        with anyio.move_on_after(AGREE_SECONDS):
            while waiting:
                if await self._says_so(waiting[-1], move):
                    waiting.pop()
                else:
                    await anyio.sleep(POLL_SECONDS)
        if waiting:
            raise failed(
                f"{waiting[-1]} does not say that {move.target} has the {plural(move.count, 'slot')} that"
                f" {move.source} has sent",
                waiting[-1],
                "shows another owner",
            )

    async def _says_so(self, node: str, move: SlotMove) -> bool:
        (reply,) = await self.clients.run(node, ("CLUSTER", "NODES"))
        if isinstance(reply, ServerError):
            raise failed(f"{node} refused `CLUSTER NODES`: {reply}", node, reply.text)
        try:
            peer = parse_nodes(str(reply)).get(self.ids[move.target])
        except ValueError as error:
            raise failed(f"{node} shows nodes in a way that cannot be read: {error}", node, str(error)) from error
        return peer is not None and expand(move.slots) <= expand(peer.slots)

    async def _give_up(self) -> None:
        """The server knows no way to cancel one job: it cancels all of the node, and it has one at a time by us."""
        move = self._under_way
        assert move is not None
        with anyio.move_on_after(CANCEL_SECONDS):
            await each([move.source], self._cancel)
            # The target hears of it from the source.
            await each([move.source, move.target], self._await_end)

    async def _cancel(self, node: str) -> None:
        # One that has nothing to cancel says so.
        await self.clients.run(node, ("CLUSTER", "CANCELSLOTMIGRATIONS"))

    async def _await_end(self, node: str) -> None:
        while any(not job.ended and self._ours(job) for job in await jobs_of(self.clients, node)):
            await anyio.sleep(POLL_SECONDS)

    def _ours(self, job: Migration) -> bool:
        move = self._under_way
        return move is not None and (job.source, job.target) == (self.ids[move.source], self.ids[move.target])


def _state(job: Migration) -> str:
    words = job.state.replace("-", " ").replace("_", " ")
    left = f", {job.remaining:,} bytes to send" if job.remaining else ""
    return f"{plural(count(job.slots), 'slot')}, {words}{left}"
