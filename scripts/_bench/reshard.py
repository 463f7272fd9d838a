"""How long slots take to another primary: with this project, with valkey-cli, and by the server's own job alone."""

from __future__ import annotations

import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from statistics import median
from typing import Any, Literal, get_args

import redis
from redis.cluster import RedisCluster
from redis.exceptions import RedisError

from bootstrap import ClusterSpec, blocking
from bootstrap.events import Reporter
from bootstrap.operations.migrate import move_slots
from bootstrap.planning.moves import SlotMove
from bootstrap.planning.slots import key_slot
from scripts._bench.failures import Failure
from scripts._bench.machine import version_of
from scripts._bench.results import spread

Tool = Literal["ours", "valkey-cli", "one job"]
TOOLS: tuple[Tool, ...] = get_args(Tool)

SLOTS = 4096
LIMIT = 300.0
"""Seconds that a move may take."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One move on fresh data: seconds, and the milliseconds that a client's requests took meanwhile."""

    tool: Tool
    keys: int
    seconds: float
    requests: Sequence[float]
    errors: int


@cache
def tags() -> list[str]:
    """A hash tag of each slot that is moved, in the order of the slots."""
    found: dict[int, str] = {}
    for number in count():
        tag = f"{{{number}}}"
        slot = key_slot(tag)
        if slot < SLOTS and slot not in found:
            found[slot] = tag
            if len(found) == SLOTS:
                break
    return [found[slot] for slot in range(SLOTS)]


def fill(port: int, keys: int) -> None:
    """Write small keys, spread over the slots."""
    each, rest = divmod(keys, SLOTS)
    with redis.Redis(port=port, protocol=2, socket_timeout=60) as client:
        pipe = client.pipeline(transaction=False)
        for index, tag in enumerate(tags()):
            if number := each + (index < rest):
                pipe.execute_command("MSET", *(word for n in range(number) for word in (f"{tag}{n}", f"value-{n:08}")))
            if index % 64 == 63:
                pipe.execute()
        pipe.execute()


def _use(ports: Sequence[int], stop: Event, told: Connection) -> None:
    """A client that reads and writes keys of the slots that move, one after the other."""
    client: Any = RedisCluster(host="127.0.0.1", port=ports[0], protocol=2)
    names = [f"{tag}client" for tag in tags()[::7]]
    taken, errors, number = [], 0, 0
    told.send("ready")
    while not stop.is_set():
        name = names[number * 31 % len(names)]
        began = time.perf_counter()
        try:
            if number % 2:
                client.set(name, number)
            else:
                client.get(name)
        except RedisError:
            errors += 1
        taken.append((time.perf_counter() - began) * 1000)
        number += 1
        time.sleep(0.0005)
    told.send((taken, errors))


@contextmanager
def client_of(ports: Sequence[int]) -> Iterator[Callable[[], tuple[list[float], int]]]:
    """A client in a process of its own; the function ends it and gives what it saw."""
    context = multiprocessing.get_context("spawn")
    stop, (ours, theirs) = context.Event(), context.Pipe()
    process = context.Process(target=_use, args=(ports, stop, theirs), daemon=True)
    process.start()

    def end() -> tuple[list[float], int]:
        stop.set()
        found: tuple[list[float], int] = ours.recv()
        process.join(10)
        return found

    try:
        if not ours.poll(20):
            raise Failure("the client does not start", "see the lines above")
        ours.recv()
        yield end
    finally:
        stop.set()
        process.kill()
        process.join(10)


def measure(tool: Tool, keys: int, replicas: int, server: str, cli: str) -> Turn:
    """One move on a fresh cluster of two primaries with so many replicas each."""
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        spec = ClusterSpec(
            name="bench-reshard", nodes=2 + 2 * replicas, replicas=replicas, runtime="process", base_port="auto",
            server=server, state_root=folder,
        )  # fmt: skip
        with blocking.cluster(spec) as cluster:
            ports = [node.addresses.control.port for node in cluster.nodes[:2]]
            fill(ports[0], keys)
            with client_of(ports) as end:
                began = time.monotonic()
                _MOVES[tool](cluster, cli)
                seconds = time.monotonic() - began
                requests, errors = end()
            _insist(ports, keys)
            return Turn(tool, keys, seconds, requests, errors)


def _move_ours(cluster: blocking.Cluster, cli: str) -> None:
    del cli
    deployment = cluster._deployment  # noqa: SLF001 - what moves slots is measured without a command around it

    async def move() -> None:
        names = [node.name for node in deployment.nodes]
        reporter = Reporter(cluster.name)
        with reporter.phase("move", "Moving", "Moved", total=SLOTS) as phase:
            async with deployment.clients() as clients:
                await move_slots(deployment, clients, [SlotMove(names[0], names[1], ((0, SLOTS - 1),))], phase)

    blocking.run(move)


def _move_cli(cluster: blocking.Cluster, cli: str) -> None:
    where = [str(node.addresses.control) for node in cluster.nodes[:2]]
    ids = [_ask(cluster, index, "CLUSTER", "MYID") for index in (0, 1)]
    argv = [cli, "--cluster", "reshard", where[0], "--cluster-from", ids[0], "--cluster-to", ids[1],
            "--cluster-slots", str(SLOTS), "--cluster-yes"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode:
        raise Failure(f"valkey-cli ended with {done.returncode}: {done.stdout[-200:]}", "run it again")


def _move_raw(cluster: blocking.Cluster, cli: str) -> None:
    del cli
    target = _ask(cluster, 1, "CLUSTER", "MYID")
    _ask(cluster, 0, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", "0", str(SLOTS - 1), "NODE", target)
    end = time.monotonic() + LIMIT
    while (state := _ask(cluster, 0, "CLUSTER", "GETSLOTMIGRATIONS")[0][17]) != "success":
        if state in ("failed", "cancelled") or time.monotonic() > end:
            raise Failure(f"the server's own job ended as {state}", "see its log")
        time.sleep(0.01)


_MOVES: dict[Tool, Callable[[blocking.Cluster, str], None]] = {
    "ours": _move_ours,
    "valkey-cli": _move_cli,
    "one job": _move_raw,
}


def _ask(cluster: blocking.Cluster, index: int, *command: str) -> Any:
    with redis.Redis(port=cluster.nodes[index].addresses.control.port, protocol=2, decode_responses=True) as client:
        return client.execute_command(*command)


def _insist(ports: Sequence[int], keys: int) -> None:
    """All keys are at the target, those of the client beside them."""
    sizes = []
    for port in ports:
        with redis.Redis(port=port, protocol=2) as client:
            sizes.append(int(client.dbsize()))
    if sizes[0] or not keys <= sizes[1] <= keys + SLOTS:
        raise Failure(f"{keys} keys were moved, and now there are {sizes[0]} and {sizes[1]}", "run it again")


def run_reshard(
    servers: Sequence[str], cli: str, sizes: Sequence[int], replicas: int, runs: int, tell: Callable[[str], None]
) -> list[str]:
    """The lines of the tables."""
    lines = []
    for server in servers:
        version = version_of(server, "--version")
        tools = [tool for tool in TOOLS if tool != "one job" or int(version.split(".")[0]) >= 9]
        lines += [version, f"{'keys':>8}  {'tool':10}  {'seconds':20} {'ours is faster':15} p50/p99/max ms   errors"]
        for keys in sizes:
            turns = []
            for number in range(runs):
                for tool in tools if number % 2 == 0 else tools[::-1]:
                    turns.append(turn := measure(tool, keys, replicas, server, cli))
                    tell(f"{keys:8}  {number + 1}/{runs}  {tool:10}  {_line(turn)}")
            ours = median(turn.seconds for turn in turns if turn.tool == "ours")
            for tool in tools:
                mine = [turn for turn in turns if turn.tool == tool]
                found = spread(turn.seconds for turn in mine)
                assert found is not None
                lines.append(
                    f"{keys:8}  {tool:10}  {found!s:20} {found.median / ours:<15.2f}"
                    f" {_latencies([each for turn in mine for each in turn.requests]):16}"
                    f" {sum(turn.errors for turn in mine)}"
                )
    return lines


def _line(turn: Turn) -> str:
    return f"{turn.seconds:.2f} s, client {_latencies(turn.requests)} ms, {len(turn.requests)} requests"


def _latencies(requests: Sequence[float]) -> str:
    ordered = sorted(requests)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return f"{p50:.1f}/{p99:.1f}/{ordered[-1]:.1f}"
