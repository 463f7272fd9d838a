"""Formation where packets get lost, and where they take long: slower, and still right by everybody's word."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

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
