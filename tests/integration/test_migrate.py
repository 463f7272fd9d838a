"""Slots on their way between primaries: what is in them, who uses them meanwhile, and what cuts the way short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

import bootstrap
from bootstrap.errors import NodeFailed
from bootstrap.events import Event, PhaseReporter, Reporter
from bootstrap.formation.clients import Clients
from bootstrap.judging.agreement import agree
from bootstrap.judging.views import seen
from bootstrap.operations.deployment import Deployment
from bootstrap.operations.migrate import move_slots, settle
from bootstrap.planning.moves import SlotMove
from bootstrap.planning.slots import expand, key_slot
from tests.integration.checker import Checker
from tests.integration.conftest import VERSIONS, Command, find_server

pytestmark = pytest.mark.servers

SLOTS = 600
"""That are moved: the first ones of the first node."""


@dataclass
class Made:
    """Three primaries, and how slots of theirs are moved."""

    command: Command
    options: dict[str, Any] = field(default_factory=dict)
    """What redis-py needs to log in."""

    @cached_property
    def ports(self) -> list[int]:
        nodes = self.command.json("status")["nodes"]
        return [int(node["addresses"]["host"].rpartition(":")[2]) for node in nodes]

    def server(self, index: int, **more: Any) -> redis.Redis:
        return redis.Redis(port=self.ports[index], protocol=2, socket_timeout=30, **self.options, **more)

    def kill(self, index: int) -> None:
        folder = str(self.command.root / "valkey" / f"valkey{index}")
        (process,) = [each for each in self.command.processes() if each.cwd() == folder]
        process.kill()
        process.wait(10)

    @asynccontextmanager
    async def moving(
        self, observer: Callable[[Event], object] | None = None
    ) -> AsyncIterator[tuple[Deployment, Clients, PhaseReporter]]:
        cluster = await bootstrap.attach("valkey", state_root=str(self.command.root), runtime="process")
        with Reporter("valkey", observer).phase("move", "Moving", "Moved", total=SLOTS) as phase:
            async with cluster._deployment.clients() as clients:
                yield cluster._deployment, clients, phase

    async def move(self, *moves: SlotMove, observer: Callable[[Event], object] | None = None) -> None:
        async with self.moving(observer) as (deployment, clients, phase):
            await move_slots(deployment, clients, moves, phase)

    async def settle(self) -> bool:
        async with self.moving() as (deployment, clients, phase):
            return await settle(deployment, clients, await clients.look(), phase)

    async def owned(self) -> list[set[int]]:
        """The slots of each node; all nodes agree, and none is open."""
        async with self.moving() as (deployment, clients, _):
            while True:
                views = await clients.look()
                found = agree(views, deployment.announced)
                if found.healthy:
                    return [set(expand(view.myself.slots)) for view in seen(views).values()]
                await anyio.sleep(0.05)

    async def move_rest(self) -> None:
        """Make the first move, or what is left of it."""
        mine = await self.owned()
        if left := sorted(set(range(SLOTS)) & mine[0]):
            await self.move(SlotMove("valkey0", "valkey1", tuple((slot, slot) for slot in left)))
        assert set(range(SLOTS)) <= (await self.owned())[1]


FIRST = SlotMove("valkey0", "valkey1", ((0, SLOTS - 1),))


def tags(slots: int = SLOTS) -> list[str]:
    """A hash tag of each of the first slots."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < slots:
        tag = f"{{{number}}}"
        if (slot := key_slot(tag)) < slots:
            found.setdefault(slot, tag)
        number += 1
    return [found[slot] for slot in range(slots)]


TAGS = tags()


def fill(made: Made, each: int) -> dict[str, bytes]:
    """Some small keys in each slot; what they are."""
    written = {f"{tag}{number}": b"%d" % number for tag in TAGS for number in range(each)}
    with made.server(0) as client:
        pipe = client.pipeline(transaction=False)
        for name, value in written.items():
            pipe.set(name, value)
        pipe.execute()
    return written


def read(made: Made, index: int, names: Sequence[str]) -> dict[str, bytes]:
    with made.server(index) as client:
        pipe = client.pipeline(transaction=False)
        for name in names:
            pipe.get(name)
        return dict(zip(names, pipe.execute(), strict=True))


@pytest.fixture(
    scope="module", params=[pytest.param(version, marks=pytest.mark.xdist_group(version)) for version in VERSIONS]
)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    command = Command(tmp_path_factory.mktemp("migrate") / "state")
    command.ok("--nodes", 3, "--replicas", 0, "--base-port", "auto", "--server", find_server(request.param))
    yield Made(command)
    command.ok("delete")


@pytest.fixture
async def made(shared: Made) -> Made:
    """The cluster with its slots where they were, and empty."""
    await shared.settle()
    mine = await shared.owned()
    for index in (1, 2):
        if away := sorted(set(range(SLOTS)) & mine[index]):
            await shared.move(SlotMove(f"valkey{index}", "valkey0", tuple((slot, slot) for slot in away)))
    for index in range(3):
        with shared.server(index) as client:
            client.flushall()
    return shared


# What is in the slots.


def everything(client: redis.Redis, names: dict[str, str]) -> dict[str, Any]:
    return {
        "string": client.get(names["string"]),
        "binary": client.get(names["string"].encode() + b"\xff\x00\r\n*3\r\n"),
        "large": client.get(names["large"]),
        "hash": client.hgetall(names["hash"]),
        "list": client.lrange(names["list"], 0, -1),
        "set": client.smembers(names["set"]),
        "sorted": client.zrange(names["sorted"], 0, -1, withscores=True),
        "stream": client.xrange(names["stream"]),
        "hyperloglog": client.pfcount(names["hyperloglog"]),
    }


def write_everything(client: redis.Redis, names: dict[str, str]) -> None:
    client.set(names["string"], b"\x00\xff\r\n", px=86_400_000)
    client.set(names["string"].encode() + b"\xff\x00\r\n*3\r\n", b"$1\r\nx")
    client.set(names["large"], os.urandom(1 << 20))
    for first in range(0, 100_000, 5000):
        client.hset(names["hash"], mapping={str(number): b"\xfe" for number in range(first, first + 5000)})
    client.rpush(names["list"], *range(1000))
    client.sadd(names["set"], *range(1000), "text")
    client.zadd(names["sorted"], {str(number): number / 7 for number in range(1000)})
    client.xadd(names["stream"], {"field": "value"})
    client.xgroup_create(names["stream"], "group", "0")
    client.pfadd(names["hyperloglog"], *range(1000))


async def test_keys_of_every_kind_arrive(made: Made) -> None:
    kinds = ("string", "large", "hash", "list", "set", "sorted", "stream", "hyperloglog")
    names = {kind: f"{TAGS[index * 7]}{kind}" for index, kind in enumerate(kinds)}
    with made.server(0) as client:
        write_everything(client, names)
        # More keys in one slot than go in one command, and more bytes.
        client.mset({f"{TAGS[99]}{number}": number for number in range(2500)})
        client.mset({f"{TAGS[98]}{number}": os.urandom(1 << 19) for number in range(8)})
        before, size = everything(client, names), client.dbsize()
        ends = client.pexpiretime(names["string"])
    told: list[Event] = []
    await made.move(FIRST, observer=told.append)
    with made.server(1) as client, made.server(0) as source:
        assert everything(client, names) == before
        assert (client.dbsize(), source.dbsize()) == (size, 0)
        assert abs(client.pexpiretime(names["string"]) - ends) < 60_000
        assert client.pttl(names["large"]) == -1
        assert [group["name"] for group in client.xinfo_groups(names["stream"])] == [b"group"]
    assert [event.fields["done"] for event in told if event.name == "phase.progressed"][-1] == SLOTS
    assert set(range(SLOTS)) <= (await made.owned())[1]


async def test_one_source_for_two_targets_and_two_sources_for_one(made: Made) -> None:
    written = fill(made, 3)
    half = SLOTS // 2
    away = [SlotMove("valkey0", "valkey1", ((0, half - 1),)), SlotMove("valkey0", "valkey2", ((half, SLOTS - 1),))]
    await made.move(*away)
    names = list(written)
    assert read(made, 1, names[: half * 3]) | read(made, 2, names[half * 3 :]) == written
    await made.move(*(SlotMove(move.target, move.source, move.slots) for move in away))
    assert read(made, 0, names) == written
    assert not await made.settle()


async def test_nothing_to_move(made: Made) -> None:
    await made.move()
    assert not await made.settle()


async def test_a_move_by_somebody_who_has_not_the_slots_is_refused(made: Made) -> None:
    with pytest.raises(NodeFailed, match=r"valkey2 .*refused|valkey1 .*refused"):
        await made.move(SlotMove("valkey2", "valkey1", ((0, 9),)))
    await made.settle()
    assert set(range(SLOTS)) <= (await made.owned())[0]


# Who uses them meanwhile.


async def test_clients_miss_nothing(made: Made) -> None:
    fill(made, 10)
    third = min((await made.owned())[2])
    with Checker(made.ports) as checker:
        other = SlotMove("valkey2", "valkey1", ((third, third + SLOTS - 1),))
        await made.move(FIRST, other)
        await made.move(
            *(SlotMove(move.target, move.source, move.slots) for move in (FIRST,)),
            SlotMove("valkey1", "valkey2", other.slots),
        )
        verdict = await anyio.to_thread.run_sync(checker.verdict)
    assert verdict.clean, verdict
    assert verdict.errors == 0, verdict
    assert verdict.writes > 2000, verdict


# What cuts the way short.


@pytest.mark.parametrize("how", ["scope", "task"])
@pytest.mark.parametrize("after", [1, 4])
async def test_cancelled_in_the_middle(made: Made, how: str, after: int) -> None:
    import asyncio

    written = fill(made, 100)
    seen_ = 0
    scope = anyio.CancelScope()
    task = asyncio.current_task()
    assert task is not None

    def observe(event: Event) -> None:
        nonlocal seen_
        seen_ += event.name == "phase.progressed"
        if seen_ == after:
            scope.cancel() if how == "scope" else running.cancel()

    async def move() -> None:
        with scope:
            await made.move(FIRST, observer=observe)

    running = asyncio.ensure_future(move())
    await asyncio.wait([running])
    await made.settle()
    assert not await made.settle()
    mine = await made.owned()
    found = {index: read(made, index, [n for n in written if key_slot(n) in mine[index]]) for index in (0, 1)}
    assert found[0] | found[1] == written
    await made.move_rest()
    assert read(made, 1, list(written)) == written


CHILD = """
import sys, anyio, bootstrap
from bootstrap.events import Reporter
from bootstrap.operations.migrate import move_slots
from bootstrap.planning.moves import SlotMove

async def main():
    cluster = await bootstrap.attach("valkey", state_root=sys.argv[1], runtime="process")
    def tell(event):
        print(event.name, flush=True)
    with Reporter("valkey", tell).phase("move", "", "") as phase:
        async with cluster._deployment.clients() as clients:
            move = SlotMove("valkey0", "valkey1", ((0, int(sys.argv[2]) - 1),))
            await move_slots(cluster._deployment, clients, [move], phase)

anyio.run(main)
"""


def move_until_killed(made: Made, after: int) -> None:
    """A process that moves, and is killed after so many words of progress."""
    argv = [sys.executable, "-c", CHILD, str(made.command.root), str(SLOTS)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as child:
        assert child.stdout
        for _ in range(after + 1):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("after", [1, 2, 5, 9])
async def test_killed_in_the_middle(made: Made, after: int) -> None:
    written = fill(made, 100)
    await anyio.to_thread.run_sync(move_until_killed, made, after)
    await made.settle()
    assert not await made.settle()
    await made.move_rest()
    assert read(made, 1, list(written)) == written


async def test_a_target_that_is_killed_is_named_and_the_rest_is_moved_later(made: Made) -> None:
    written = fill(made, 200)
    killed = False
    with made.server(1) as target:
        # Otherwise it answers while a write still waits for an fsync that is under way, up to two seconds, and a kill
        # takes what was answered: what the server's own setting gives up, whoever wrote it.
        target.config_set("appendfsync", "always")

    def observe(event: Event) -> None:
        nonlocal killed
        if event.name == "phase.progressed" and not killed:
            killed = True
            made.kill(1)

    with pytest.raises(NodeFailed, match="valkey1") as caught:
        await made.move(FIRST, observer=observe)
    assert caught.value.hint
    made.command.ok("--nodes", 3, "--replicas", 0)
    await made.settle()
    await made.move_rest()
    assert read(made, 1, list(written)) == written


@pytest.mark.parametrize(
    "version", [pytest.param(each, marks=pytest.mark.xdist_group(each)) for each in ("valkey-8.1", "redis-7.0")]
)
async def test_what_came_before_without_the_sources_knowledge_gives_way(command: Command, version: str) -> None:
    command.ok("--nodes", 3, "--replicas", 0, "--base-port", "auto", "--server", find_server(version))
    made = Made(command)
    written = fill(made, 3)
    with made.server(0) as source, made.server(1) as target:
        mine = source.execute_command("CLUSTER", "MYID")
        for slot in range(0, SLOTS, 7):
            target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", mine)
            # Of other kinds, and of the same: the last one of a slot, and so after some that are taken.
            for number, words in ((1, ("RPUSH", "item")), (2, ("SET", "old"))):
                pipe = target.pipeline(transaction=False)
                pipe.execute_command("ASKING")
                pipe.execute_command(words[0], f"{TAGS[slot]}{number}", words[1])
                pipe.execute()
    await made.move(FIRST)
    assert read(made, 1, list(written)) == written
    with made.server(0) as source:
        assert source.dbsize() == 0
    command.ok("delete")


# With a login.


@pytest.mark.parametrize(
    ("version", "flags", "user"),
    [
        pytest.param("valkey-8.1", ("--generate-password",), None, marks=pytest.mark.xdist_group("valkey-8.1")),
        pytest.param(
            "valkey-8.1", ("--generate-password", "--user", "app"), "app", marks=pytest.mark.xdist_group("valkey-9.1")
        ),
        pytest.param("valkey-9.1", ("--generate-password",), None, marks=pytest.mark.xdist_group("valkey-9.1")),
        pytest.param("redis-7.0", ("--tls", "--generate-password"), None, marks=pytest.mark.xdist_group("redis-7.0")),
    ],
)
async def test_with_a_login(command: Command, version: str, flags: tuple[str, ...], user: str | None) -> None:
    command.ok("--nodes", 3, "--replicas", 0, "--base-port", "auto", "--server", find_server(version), *flags)
    document = command.json("status")
    secret = await anyio.Path(document["login"]["password_file"]).read_text()
    options: dict[str, Any] = {"password": secret, "username": user} if user else {"password": secret}
    if document.get("tls"):
        options |= {"ssl": True, "ssl_ca_certs": document["tls"]["ca_file"]}
    made = Made(command, options)
    written = fill(made, 2)
    told: list[Event] = []
    await made.move(FIRST, observer=told.append)
    assert read(made, 1, list(written)) == written
    with pytest.raises(NodeFailed) as caught:
        await made.move(FIRST)
    assert secret not in f"{caught.value.as_dict()}{told}"
    command.ok("delete")
