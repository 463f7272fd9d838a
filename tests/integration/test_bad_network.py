"""Formation where packets get lost, and where they take long: slower, and still right by everybody's word."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.abc import SocketStream

from bootstrap.formation.base import Unreachable
from bootstrap.formation.client import connector
from bootstrap.formation.prove import WRITE_TRIES, run_patiently
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


@pytest.mark.parametrize(("silent", "written"), [(WRITE_TRIES - 1, True), (WRITE_TRIES, False)])
async def test_a_proof_write_without_an_answer_is_tried_again(tmp_path: Path, silent: int, written: bool) -> None:
    servers, opened = Servers(tmp_path), 0

    async def serve(client: SocketStream) -> None:
        nonlocal opened
        opened += 1
        async with (
            client,
            await anyio.connect_tcp("127.0.0.1", server.port) as upstream,
            anyio.create_task_group() as both,
        ):
            if opened > silent:
                both.start_soon(hand_on, upstream, client)
            await hand_on(client, upstream)
            both.cancel_scope.cancel()

    try:
        server = servers.start(cluster=False)
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as door,
            anyio.create_task_group() as serving,
        ):
            serving.start_soon(door.serve, serve)
            port = door.extra(anyio.abc.SocketAttribute.local_port)
            one = run_patiently([("SET", "key", "1")], Address("127.0.0.1", port), connector(timeout=0.3))
            if written:
                assert await one == ["OK"]
            else:
                with pytest.raises(Unreachable, match="does not answer in time"):
                    await one
            serving.cancel_scope.cancel()
        assert opened == WRITE_TRIES
    finally:
        servers.close()


async def hand_on(source: SocketStream, sink: SocketStream) -> None:
    async for piece in source:
        await sink.send(piece)
