"""Many clusters made and deleted side by side from several processes: no collision, and nothing left."""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import anyio

import bootstrap
from bootstrap import ClusterSpec
from bootstrap.concurrency import together
from scripts._bench.cold import Kind
from scripts._bench.leftovers import Leftovers
from scripts._bench.results import spread

LANES = 2
"""How many clusters one process has at a time."""
HOLD_SECONDS = 1.0
"""How long a cluster stays at most."""


@dataclass(frozen=True, slots=True)
class Life:
    """One cluster: what it is, and when things are done to it.

    Args:
        kind: where its servers run.
        spec: what it is.
        before: seconds until it is created, after the one before.
        hold: seconds until it is deleted.
    """

    kind: Kind
    spec: ClusterSpec
    before: float
    hold: float


@dataclass(frozen=True, slots=True)
class Lived:
    """What became of it.

    Args:
        kind: where its servers ran.
        name: its name.
        ports: of its servers.
        began: when creating it began (`time.monotonic`, the same clock for all processes).
        created: seconds that creating took.
        deleted: seconds that deleting took.
        ended: when it was gone.
        error: what went wrong.
    """

    kind: Kind
    name: str
    ports: tuple[int, ...] = ()
    began: float = 0.0
    created: float = 0.0
    deleted: float = 0.0
    ended: float = 0.0
    error: str = ""


def draw(seed: int, count: int, specs: Sequence[tuple[Kind, ClusterSpec]], root: str) -> list[Life]:
    """Clusters of 1 to 6 nodes, some with replicas; each kind has its part of them."""
    drawn = random.Random(seed)  # noqa: S311 - to be drawn again, not to be secret
    suffix = secrets.token_hex(3)
    found = []
    for number in range(count):
        kind, spec = specs[number % len(specs)]
        nodes = drawn.randint(1, 6)
        replicas = drawn.randint(0, 1) if nodes > 1 else 0
        spec = replace(spec, name=f"churn{suffix}-{number}x", nodes=nodes, replicas=replicas, state_root=root)
        found.append(Life(kind, spec, drawn.uniform(0, 0.5), drawn.uniform(0, HOLD_SECONDS)))
    drawn.shuffle(found)
    return found


def live_all(lives: Sequence[Life]) -> list[Lived]:
    """Make and delete clusters, a few at a time; what one process does."""
    return anyio.run(_live_all, lives)


async def _live_all(lives: Sequence[Life]) -> list[Lived]:
    found: list[list[Lived]] = []

    async def lane(mine: Iterable[Life]) -> None:
        found.append([await _live(life) for life in mine])

    await together(partial(lane, lives[at::LANES]) for at in range(LANES))
    return [lived for lane_of_them in found for lived in lane_of_them]


async def _live(life: Life) -> Lived:
    name = life.spec.name
    await anyio.sleep(life.before)
    began = time.monotonic()
    try:
        cluster = await bootstrap.create(life.spec)
        created = time.monotonic() - began
        ports = tuple(address.port for address in cluster.endpoints())
        await anyio.sleep(life.hold)
        status = await cluster.status()
        deleting = time.monotonic()
        await cluster.delete()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        return Lived(life.kind, name, began=began, ended=time.monotonic(), error=f"{type(error).__name__}: {error}")
    ended = time.monotonic()
    strange = "" if status.healthy and len(status.nodes) == life.spec.nodes else "not healthy"
    return Lived(life.kind, name, ports, began, created, ended - deleting, ended, strange)


async def _remove(lives: Iterable[Life]) -> None:
    """What should be gone, once it has been told that it is not."""
    for life in lives:
        with suppress(bootstrap.BootstrapError):
            await bootstrap.delete(life.spec.name, runtime=life.kind, state_root=life.spec.state_root)


def run_churn(
    specs: Sequence[tuple[Kind, ClusterSpec]], count: int, processes: int, seed: int, tell: Callable[[str], None]
) -> tuple[list[str], bool]:
    """The lines of the result; whether nothing failed, collided or was left.

    Args:
        specs: for each kind what is common to its clusters.
        count: how many clusters.
        processes: from how many processes.
        seed: what sizes and moments are drawn from.
        tell: shown what went wrong.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        root = Path(folder) / "state"
        lives = draw(seed, count, specs, str(root))
        shares = [lives[at::processes] for at in range(processes)]
        # Fresh processes: what this one has open is not theirs.
        with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
            lived = [each for share in pool.map(live_all, shares) for each in share]
        took = time.monotonic() - began
        wrong = [f"{each.name}: {each.error}" for each in lived if each.error] + collisions(lived)
        with Leftovers(root, {kind for kind, _ in specs}) as leftovers:
            left = [f"{each.name}: left {what}" for each in lived for what in leftovers.of(each.name, each.ports)]
            left += [f"left at the end: {what}" for what in leftovers.anything()]
        if left:
            anyio.run(_remove, lives)
    for line in (*wrong, *left):
        tell(line)
    lines = [f"{'runtime':8} {'clusters':>8} {'failed':>6} {'create':20} {'delete':20}"]
    counts = Counter(each.kind for each in lived)
    for kind, _ in specs:
        good = [each for each in lived if each.kind == kind and not each.error]
        columns = (spread(each.created for each in good), spread(each.deleted for each in good))
        lines.append(f"{kind:8} {counts[kind]:8} {counts[kind] - len(good):6} {columns[0]!s:20} {columns[1]!s:20}")
    lines.append(
        f"{count} clusters from {processes} processes in {took:.1f} s, at most {most_at_once(lived)} at once:"
        f" {len(wrong)} failed or collided, {len(left)} left"
    )
    return lines, not wrong and not left


def collisions(lived: Iterable[Lived]) -> list[str]:
    """Clusters that had a port in common while both were there."""
    return [
        f"{one.name} and {other.name}: both had ports {sorted(shared)}"
        for one, other in combinations(lived, 2)
        if (shared := {*one.ports} & {*other.ports}) and one.began + one.created < other.ended
        and other.began + other.created < one.ended
    ]  # fmt: skip


def most_at_once(lived: Iterable[Lived]) -> int:
    """How many clusters there were at one time, half made ones included."""
    steps = sorted((at, change) for each in lived for at, change in ((each.began, 1), (each.ended, -1)))
    most = now = 0
    for _, change in steps:
        now += change
        most = max(most, now)
    return most
