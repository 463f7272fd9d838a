"""Formation where packets get lost, and where they take long: slower, and still right by everybody's word."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketStream

from bootstrap.formation.base import Unreachable
from bootstrap.formation.client import connector
from bootstrap.formation.clients import TRIES, open_clients
from bootstrap.formation.prove import run_patiently
from bootstrap.judging.views import NodeView, Silent
from bootstrap.planning.addressing import Address

from .conftest import Command, ask, find_server
from .engines import Inside
from .judge import Case, Seat, configured
from .networks import judge_in, own_network, run_in
from .relay import Relay
from .scenarios import calm
from .servers import Servers
from .soaking import insist
from .worlds import Created

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(300)]

LOSS = "iptables -A INPUT -i lo -m statistic --mode random --probability 0.05 -j DROP"
DELAY = 0.05
PATIENCE = 150
"""Seconds for the command, which takes a tenth of it where nothing else is at work."""
SIZES = [("valkey-9.1", 6), ("valkey-8.1", 6), ("redis-7.0", 6), ("valkey-9.1", 12)]


def form(command: Command, *words: str | int) -> None:
    done = command(*words, "--timeout", PATIENCE, timeout=PATIENCE + 50)
    assert done.returncode == 0, done.stderr
    assert "is ready" in done.stderr


@pytest.mark.root
@pytest.mark.parametrize(("version", "nodes"), SIZES)
def test_one_packet_of_twenty_is_lost(version: str, nodes: int, tmp_path: Path) -> None:
    find_server(version)
    with own_network(LOSS) as pid:
        world = Created(calm("create", version, nodes, 1), tmp_path, Inside(tmp_path / "state", pid=pid))
        try:
            form(world.command, *world.words)
            insist(world.case(), world.logs(), partial(judge_in, pid))
            (lost,) = re.findall(r"(?m)^ *(\d+) .*statistic", run_in(pid, "iptables", "-L", "INPUT", "-v", "-n", "-x"))
            assert int(lost) > 0
            world.clear()
        finally:
            world.close()


def test_everything_takes_fifty_milliseconds_each_way(command: Command, server: str, tmp_path: Path) -> None:
    servers = Servers(tmp_path / "servers")
    with Relay(DELAY) as relay:
        doors: dict[int, int] = {}

        def announce(port: int) -> list[str]:
            doors[port] = relay.open(port)
            bus = str(relay.open(port + 10000))
            return ["cluster-announce-ip", "127.0.0.1", "cluster-announce-port", str(doors[port]),
                    "cluster-announce-bus-port", bus]  # fmt: skip

        try:
            started = [servers.start(binary=server, announce=announce) for _ in range(6)]
            seats = [Seat(each.address, each.port, doors[each.port], configured(each.port)) for each in started]
            given = [f"127.0.0.1:{doors[each.port]}" for each in started]
            form(command, "form", *given, "--replicas", 1)
            insist(Case(tuple(seats), (1, 1, 1)), [each.log for each in started])
            # Clients go the same way.
            sent = {tuple(node[:2]) for entry in ask(started[0].port, "CLUSTER", "SLOTS") for node in entry[2:]}
            assert sent == {("127.0.0.1", door) for door in (doors[each.port] for each in started)}
        finally:
            servers.close()


@dataclass
class Door:
    """Before a server; who comes through too early is heard, and gets no answer."""

    port: int
    opened: int = 0


@asynccontextmanager
async def silent_door(server: int, silent: int) -> AsyncIterator[Door]:
    """A port before that of the server, whose first connections stay without an answer."""

    async def serve(client: SocketStream) -> None:
        door.opened += 1
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", server) as upstream,
            anyio.create_task_group() as both,
        ):
            if door.opened > silent:
                both.start_soon(hand_on, upstream, client)
            await hand_on(client, upstream)
            both.cancel_scope.cancel()

    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as serving,
    ):
        door = Door(listener.extra(anyio.abc.SocketAttribute.local_port))
        serving.start_soon(listener.serve, serve)
        yield door
        serving.cancel_scope.cancel()


@pytest.mark.parametrize(("silent", "written"), [(TRIES - 1, True), (TRIES, False)])
async def test_a_proof_write_without_an_answer_is_tried_again(tmp_path: Path, silent: int, written: bool) -> None:
    servers = Servers(tmp_path)
    try:
        async with silent_door(servers.start(cluster=False).port, silent) as door:
            one = run_patiently([("SET", "key", "1")], Address("127.0.0.1", door.port), connector(timeout=0.3))
            if written:
                assert await one == ["OK"]
            else:
                with pytest.raises(Unreachable, match="does not answer in time"):
                    await one
        assert door.opened == TRIES
    finally:
        servers.close()


@pytest.mark.parametrize(("silent", "there"), [(0, True), (TRIES - 1, True), (TRIES, False)])
async def test_a_look_that_decides_asks_again_whoever_did_not_answer(tmp_path: Path, silent: int, there: bool) -> None:
    servers = Servers(tmp_path)
    try:
        late, prompt = servers.start(), servers.start()
        async with silent_door(late.port, silent) as door, silent_door(prompt.port, 0) as other:
            addresses = {"late": Address("127.0.0.1", door.port), "prompt": Address("127.0.0.1", other.port)}
            async with open_clients(connector(timeout=0.3), addresses) as clients:
                views = await clients.look_patiently()
        assert list(views) == ["late", "prompt"]
        assert (door.opened, other.opened) == (min(silent + 1, TRIES), 1)
        assert isinstance(views["prompt"], NodeView)
        if there:
            assert isinstance(views["late"], NodeView)
        else:
            assert views["late"] == Silent("does not answer in time", "no-answer")
    finally:
        servers.close()


async def hand_on(source: SocketStream, sink: SocketStream) -> None:
    async for piece in source:
        await sink.send(piece)
