"""Cancels the asynchronous API at any moment: nothing may be left, and cleaning up takes a bounded time."""

from __future__ import annotations

import asyncio
import random
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import anyio

import bootstrap
from bootstrap import ClusterSpec
from bootstrap.concurrency import together
from bootstrap.events import Event
from scripts._bench.cold import Kind
from scripts._bench.leftovers import Leftovers
from scripts._bench.results import spread

Call = Literal["create", "cluster", "leave"]
CALLS: tuple[Call, ...] = get_args(Call)
Way = Literal["scope", "task"]
WAYS: tuple[Way, ...] = get_args(Way)

BEYOND = 1.2
"""Moments are drawn up to so much of the time that the whole takes."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When and how a call is cancelled.

    Args:
        number: in the series.
        call: ``create``, ``cluster`` with its block, or leaving that block.
        way: ``scope`` cancels a scope of anyio; ``task`` is `asyncio.Task.cancel`, as `asyncio.timeout` does it.
        part: of the time that the whole takes.
    """

    number: int
    call: Call
    way: Way
    part: float

    @classmethod
    def draw(cls, seed: int, number: int) -> Moment:
        """The same for the same seed and number."""
        drawn = random.Random(f"{seed}-{number}")  # noqa: S311 - to be drawn again, not to be secret
        call = drawn.choices(CALLS, weights=(2, 2, 1))[0]
        return cls(number, call, drawn.choice(WAYS), drawn.uniform(0, BEYOND))


@dataclass(slots=True)
class Outcome:
    """What a cancellation came to.

    Args:
        moment: which.
        seconds: from the cancellation until the call was over; 0 where it was over before.
        after: the last event that was told before.
        left: what was still there afterwards.
        error: an exception that is no cancellation.
    """

    moment: Moment
    seconds: float = 0.0
    after: str = "nothing"
    left: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Whole:
    """How long creating and deleting take when nobody cancels."""

    create: float
    delete: float

    def until(self, moment: Moment) -> float:
        """Seconds that a moment stands for."""
        return moment.part * (self.delete if moment.call == "leave" else self.create)


class _Trial:
    """One call that is cancelled."""

    def __init__(self, moment: Moment, spec: ClusterSpec) -> None:
        self.moment, self.spec = moment, spec
        self.ports: set[int] = set()
        self.last = "nothing"
        self._begun = asyncio.Event()
        self._scope = anyio.CancelScope()

    async def carry_out(self, wait: float) -> Outcome:
        task = asyncio.create_task(self._work())
        begun = asyncio.create_task(self._begun.wait())
        await asyncio.wait([task, begun], return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        await asyncio.sleep(wait)
        found = Outcome(self.moment, after=self.last)
        over, cancelled = task.done(), time.monotonic()
        if not over:
            task.cancel() if self.moment.way == "task" else self._scope.cancel()
        try:
            made = await task
        except asyncio.CancelledError:
            made = None
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            found.error, made = f"{type(error).__name__}: {error}", None
        if not over:
            found.seconds = time.monotonic() - cancelled
        if made is not None:
            await made.delete()
        return found

    async def _work(self) -> bootstrap.Cluster | None:
        """The cluster, where it was made to stay."""
        with self._scope:
            if self.moment.call == "create":
                self._begun.set()
                return await bootstrap.create(self.spec, observer=self._hear)
            if self.moment.call == "cluster":
                self._begun.set()
            async with bootstrap.cluster(self.spec, observer=self._hear):
                if self.moment.call == "cluster":
                    await anyio.sleep_forever()
                self._begun.set()
        return None

    def _hear(self, event: Event) -> None:
        self.last = event.fields.get("phase") or event.name
        if event.name == "node.started":
            self.ports.add(int(event.fields["address"].rpartition(":")[2]))


async def whole(spec: ClusterSpec) -> Whole:
    """What it takes when nobody cancels."""
    began = time.monotonic()
    made = await bootstrap.create(spec)
    created = time.monotonic()
    await made.delete()
    return Whole(created - began, time.monotonic() - created)


def run_cancel(
    kind: Kind, spec: ClusterSpec, moments: Sequence[Moment], at_once: int, tell: Callable[[str], None]
) -> tuple[list[str], bool]:
    """The lines of the result; whether nothing was left and nothing failed.

    Args:
        kind: where servers run.
        spec: what is created; its name and state root are set here.
        moments: when it is cancelled.
        at_once: how many moments are tried side by side, each on a cluster of its own.
        tell: shown a line for each moment where something is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        root = Path(folder) / "state"
        with Leftovers(root, [kind]) as leftovers:
            found = asyncio.run(_series(replace(spec, state_root=str(root)), moments, at_once, leftovers, tell))
            at_last = leftovers.anything()
    for each in at_last:
        tell(f"left at the end: {each}")
    lines = []
    for way in WAYS:
        for call in CALLS:
            chosen = [each for each in found if (each.moment.way, each.moment.call) == (way, call)]
            if chosen:
                took = spread(each.seconds for each in chosen)
                wrong = sum(bool(each.left) for each in chosen)
                failed = sum(bool(each.error) for each in chosen)
                lines.append(f"{kind:8} {way:6} {call:8} {len(chosen):7} {took!s:20} {wrong:5} {failed:7}")
    return lines, not at_last and not any(each.left or each.error for each in found)


HEADER = f"{'runtime':8} {'cancel':6} {'call':8} {'moments':>7} {'cleaning up':20} {'left':>5} {'errors':>7}"


async def _series(
    spec: ClusterSpec, moments: Sequence[Moment], at_once: int, leftovers: Leftovers, tell: Callable[[str], None]
) -> list[Outcome]:
    takes = await whole(replace(spec, name=_name("whole")))
    tell(f"{spec.runtime}: creating takes {takes.create:.2f} s, deleting {takes.delete:.2f} s")
    outcomes = []

    async def lane(mine: Iterable[Moment]) -> None:
        for moment in mine:
            outcome = await _try(moment, spec, takes, leftovers)
            outcomes.append(outcome)
            if outcome.left or outcome.error:
                when = f"{moment.call} cancelled by {moment.way} at {takes.until(moment):.3f} s, after {outcome.after}"
                tell(f"{moment.number}: {when}: {outcome.error or 'left'} {', '.join(outcome.left)}")

    await together(partial(lane, moments[at::at_once]) for at in range(at_once))
    return outcomes


async def _try(moment: Moment, spec: ClusterSpec, takes: Whole, leftovers: Leftovers) -> Outcome:
    spec = replace(spec, name=_name(str(moment.number)))
    trial = _Trial(moment, spec)
    outcome = await trial.carry_out(takes.until(moment))
    outcome.left = await asyncio.to_thread(leftovers.of, spec.name, trial.ports)
    if outcome.left:
        with suppress(bootstrap.BootstrapError):
            await bootstrap.delete(spec.name, runtime=spec.runtime, state_root=spec.state_root)
    return outcome


def _name(of: str) -> str:
    return f"cancel{secrets.token_hex(3)}-{of}x"
