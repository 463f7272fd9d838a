"""Forming servers that somebody else runs: taken as they are, left as they are, and never when something is in them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import VERSIONS, Command, ask, find_server, free_block, nodes_known_to, setting, until
from .libraries import LIBRARIES, keys_through, printed_by
from .relay import Relay
from .servers import Server, Servers

pytestmark = pytest.mark.servers

PASSWORD = "horse battery staple"
LOGIN = ("requirepass", PASSWORD, "masterauth", PASSWORD)
# Replication that does not wait for more replicas makes most of these tests quick; it is the owner's to choose.
QUICK = ("repl-diskless-sync-delay", "0")


Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server with settings given as words; all are ended afterwards."""
    servers = Servers(tmp_path)
    yield servers.start
    servers.close()


def addresses(servers: list[Server]) -> list[str]:
    return [server.address for server in servers]


def assert_formed(servers: list[Server], primaries: int, valkey_cli: str, password: str | None = None) -> None:
    """By every server's own words, and by valkey-cli's."""
    for server in servers:
        known = nodes_known_to(server.port, password)
        assert {line.port for line in known.values()} == {each.port for each in servers}
        owners = [line for line in known.values() if line.slots]
        assert len(owners) == primaries
        assert len({line.epoch for line in owners}) == primaries
        assert not any(line.flags & {"fail", "fail?", "handshake", "noaddr"} for line in known.values())
    login = ["-a", password, "--no-auth-warning"] if password else []
    done = subprocess.run(
        [valkey_cli, *login, "--cluster", "check", servers[0].address], capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "[OK] All 16384 slots covered" in done.stdout
    assert "[ERR]" not in done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [0, 1])
def test_servers_of_each_version(command: Command, start: Start, server: str, replicas: int, valkey_cli: str) -> None:
    count = 3 * (replicas + 1)
    servers = [start(binary=server) for _ in range(count)]
    document = command.json("form", *addresses(servers), "--replicas", replicas)
    assert [node["role"] for node in document["nodes"]] == ["primary"] * 3 + ["replica"] * (count - 3)
    assert document["health"] == "ok"
    assert document["runtime"] == "none"
    assert_formed(servers, 3, valkey_cli)
    # Nothing of it is kept here: these servers are not ours.
    command.assert_nothing_left()


def test_replicas_are_kept_apart_from_their_primaries(command: Command, start: Start, valkey_cli: str) -> None:
    servers = [start(*QUICK) for _ in range(6)]
    places = ["m1/a", "m1/a", "m2/b", "m2/b", "m3/c", "m3/c"]
    given = [f"{each.address}@{place}" for each, place in zip(servers, places, strict=True)]
    document = command.json("form", *given, "--replicas", 1)
    assert_formed(servers, 3, valkey_cli)
    place_of = dict(zip(addresses(servers), places, strict=True))
    primaries = [node["name"] for node in document["nodes"] if node["role"] == "primary"]
    assert sorted(place_of[name] for name in primaries) == ["m1/a", "m2/b", "m3/c"]
    followed = {node["name"]: node["primary"] for node in document["nodes"] if node["role"] == "replica"}
    assert sorted(followed.values()) == sorted(primaries)
    assert [place_of[name] for name, primary in followed.items() if place_of[name] == place_of[primary]] == []


def test_addresses_of_ipv6(command: Command, start: Start, server: str) -> None:
    # At the other address the tests see whether it has started.
    servers = [start("bind", "127.0.0.1 ::1", *QUICK, binary=server) for _ in range(6)]
    where = [f"[::1]:{each.port}" for each in servers]
    command.ok("form", *where, "--replicas", 1)
    for each in servers:
        assert {f"[{host}]" for host in re.findall(r"(?m)^\w+ (\S+):\d+@", ask(each.port, "CLUSTER", "NODES"))} == {
            "[::1]"
        }
    assert command.ok("doctor", where[3]) == f'Cluster "{where[3]}" is healthy: 6 nodes\n'
    for library in LIBRARIES:
        assert printed_by(keys_through(library, ("::1", servers[0].port), library, 100)) == "100\n"


# Servers that may not be taken.


def test_all_faults_of_all_servers_are_told_at_once(command: Command, start: Start) -> None:
    keys, slots, functions, befriended, standalone, stranger = (
        start(), start(), start(), start(), start(cluster=False), start(),
    )  # fmt: skip
    ask(keys.port, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: "cluster_state:ok" in ask(keys.port, "CLUSTER", "INFO"))
    for number in range(3):
        ask(keys.port, "SET", f"key{number}", "mine")
    ask(slots.port, "CLUSTER", "ADDSLOTS", 5)
    ask(functions.port, "FUNCTION", "LOAD", "#!lua name=mylib\nserver.register_function('f', function() return 1 end)")
    ask(befriended.port, "CLUSTER", "MEET", "127.0.0.1", stranger.port)
    until(lambda: len(nodes_known_to(stranger.port)) == 2)
    given = [keys, slots, functions, befriended, standalone]
    before = [shape(each) for each in given[:4]]
    told = command.fails(4, "form", *addresses(given))
    lines = {line.strip().partition(": ")[0]: line.strip() for line in told.splitlines() if line.startswith("  ")}
    assert set(lines) == set(addresses(given))
    assert "holds 3 keys in db0" in lines[keys.address]
    assert "owns slots" in lines[keys.address]
    assert "owns slots 5" in lines[slots.address]
    assert "has function libraries: mylib" in lines[functions.address]
    assert f"at 127.0.0.1:{stranger.port}" in lines[befriended.address]
    assert "is not in cluster mode" in lines[standalone.address]
    assert "5 nodes cannot be taken" in told
    assert "hint: " in told
    assert [shape(each) for each in given[:4]] == before
    assert ask(keys.port, "DBSIZE") == 3


def shape(server: Server) -> dict[str, tuple[str, ...]]:
    return {line.id: line.slots for line in nodes_known_to(server.port).values()}


def test_servers_that_cannot_be_asked(command: Command, start: Start, tmp_path: Path) -> None:
    locked, empty = start(*LOGIN), start()
    nobody = f"127.0.0.1:{free_block(1)}"
    file = tmp_path / "password"
    file.write_text("guessed\n")
    no_password: tuple[str | Path, ...] = ()
    for options in (no_password, ("--password-file", file)):
        told = command.fails(5, "form", locked.address, nobody, empty.address, "unknown.invalid:7000", *options)
        lines = {line.strip().partition(": ")[0]: line.strip() for line in told.splitlines() if line.startswith("  ")}
        assert "refuses the login" in lines[locked.address]
        assert "connection refused" in lines[nobody]
        assert "cannot be resolved" in lines["unknown.invalid:7000"]
        assert "(login-failed)" in told
        assert "--password-file" in told.partition("hint: ")[2]
        assert "guessed" not in told
    assert len(nodes_known_to(empty.port)) == 1


def test_the_same_server_twice(command: Command, start: Start) -> None:
    one, other = start(), start()
    told = command.fails(4, "form", one.address, f"localhost:{one.port}", other.address)
    assert f"localhost:{one.port} is the same server as {one.address}" in told
    told = command.fails(4, "form", one.address, other.address, one.address)
    assert f"{one.address} is given twice" in told
    assert "(same-node-twice)" in told
    assert len(nodes_known_to(one.port)) == 1


@pytest.mark.parametrize("text", ["127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", "a b:1", ":7000"])
def test_addresses_that_are_none(command: Command, text: str) -> None:
    told = command.fails(2, "form", "127.0.0.1:7000", text)
    assert f"{text!r} is not HOST:PORT" in told
    assert "hint: give HOST:PORT" in told


def test_too_few_servers(command: Command) -> None:
    assert "counts that work: 3" in command.fails(2, "form", "127.0.0.1:1", "127.0.0.1:2", "--replicas", 2)
    assert command.fails(2, "form")


# Passwords.


@pytest.mark.parametrize("way", ["file", "environment"])
def test_a_password(command: Command, start: Start, tmp_path: Path, valkey_cli: str, way: str) -> None:
    servers = [start(*LOGIN, *QUICK) for _ in range(4)]
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    options: tuple[str | Path, ...] = ("--password-file", file) if way == "file" else ()
    caller = Command(command.root, {} if way == "file" else {"VALKEY_BOOTSTRAP_PASSWORD": PASSWORD})
    said = []
    for more in (("-vv",), ("--progress", "json"), ("--output", "json", "-v")):
        done = caller("form", *addresses(servers), "--replicas", 1, *options, *more)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout + done.stderr)
    assert_formed(servers, 2, valkey_cli, PASSWORD)
    assert_lines_to_copy_log_in(caller, said[0], valkey_cli)
    waited = caller("wait", servers[3].address, "--nodes", 4, *options, "-vv")
    assert waited.returncode == 0, waited.stderr
    assert PASSWORD not in "".join([*said, waited.stdout, waited.stderr])
    # No flag takes the password itself, which every user of the machine could read from the process list.
    told = command.fails(2, "form", *addresses(servers), "--password", PASSWORD)
    assert PASSWORD not in told


def assert_lines_to_copy_log_in(caller: Command, printed: str, valkey_cli: str) -> None:
    """They read the password from where it was given."""
    lines = dict(re.findall(r"^(python|shell) +(.*)$", printed, re.MULTILINE))
    program = f"import os, redis.cluster\nprint({lines['python']}.set('key', 'value'))"
    done = subprocess.run(
        [sys.executable, "-c", program], env=caller.env(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout == "True\n", done.stderr
    path = f"{Path(valkey_cli).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", lines["shell"].replace("redis-cli", "valkey-cli")],
        env={**caller.env(), "PATH": path}, input="GET key\n", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.stdout.split()[-1] == "value", done.stderr


@pytest.mark.parametrize(("content", "words"), [("", "holds no password"), ("\nsecond", "holds no password")])
def test_a_file_without_a_password(command: Command, tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "password"
    file.write_text(content)
    assert words in command.fails(2, "form", "127.0.0.1:1", "--password-file", file)
    assert "cannot be read" in command.fails(2, "form", "127.0.0.1:1", "--password-file", tmp_path / "none")


# Half done, done, and in use.


@pytest.mark.parametrize("events", [3, 6, 8, 10, 12])
def test_half_done_is_carried_on(command: Command, start: Start, valkey_cli: str, events: int) -> None:
    servers = [start(*QUICK) for _ in range(4)]
    form: tuple[str | int, ...] = ("form", *addresses(servers), "--replicas", 1)
    with subprocess.Popen(
        command.argv(*form, "--progress", "json"), env=command.env(), text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        names = [json.loads(process.stderr.readline())["event"] for _ in range(events)]
        process.kill()
    assert process.returncode == -signal.SIGKILL, names
    assert "cluster.ready" not in names
    document = command.json(*form)
    assert document["health"] == "ok"
    assert [node["role"] for node in document["nodes"]] == ["primary", "primary", "replica", "replica"]
    assert_formed(servers, 2, valkey_cli)
    assert {setting(each.port, "cluster-ping-interval") for each in servers} == {"0"}


def test_a_formed_cluster_is_verified_and_keeps_its_keys(command: Command, start: Start, valkey_cli: str) -> None:
    servers = [start() for _ in range(3)]
    first = command("form", *addresses(servers))
    assert "is ready" in first.stderr
    port = next(each.port for each in servers if 12539 in slots_of(each.port))
    ask(port, "SET", "key", "kept")
    again = command("form", *addresses(servers), "--progress", "json")
    assert again.returncode == 0, again.stderr
    events = [json.loads(line)["event"] for line in again.stderr.splitlines()]
    assert "steps.ran" not in events
    assert "settings.restored" not in events
    assert "is healthy, nothing was changed" in command("form", *addresses(servers)).stderr
    assert ask(port, "GET", "key") == "kept"
    assert_formed(servers, 3, valkey_cli)
    # Another shape is not made of it.
    more = start()
    assert "cannot be taken" in command.fails(4, "form", *addresses([*servers, more]), "--replicas", 1)
    assert ask(port, "GET", "key") == "kept"
    assert len(nodes_known_to(more.port)) == 1


def slots_of(port: int) -> range:
    mine = next(line for line in nodes_known_to(port).values() if "myself" in line.flags)
    low, high = map(int, mine.slots[0].split("-"))
    return range(low, high + 1)


def test_the_owners_settings_are_left_alone(command: Command, start: Start) -> None:
    own = [
        {"cluster-node-timeout": "15000", "repl-diskless-sync-delay": "1", "cluster-ping-interval": "333"},
        {"cluster-node-timeout": "8000", "repl-diskless-sync-delay": "0", "cluster-ping-interval": "0"},
        {"cluster-node-timeout": "15000", "repl-ping-replica-period": "7", "cluster-ping-interval": "0"},
    ]
    servers = [start(*(word for pair in settings.items() for word in pair)) for settings in own]
    before = [everything_set(each.port) for each in servers]
    command.ok("form", *addresses(servers), "--replicas", 1)
    assert [everything_set(each.port) for each in servers] == before
    for each, chosen in zip(servers, own, strict=True):
        # By name: a hidden setting is not among all of them.
        assert {name: setting(each.port, name) for name in chosen} == chosen


def everything_set(port: int) -> dict[str, str]:
    reply = ask(port, "CONFIG", "GET", "*")
    found = dict(zip(reply[::2], reply[1::2], strict=True))
    # The servers write it themselves when they are made replicas.
    return {name: value for name, value in found.items() if name not in ("replicaof", "slaveof")}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_meeting_that_only_one_of_two_knows_of_is_repeated(command: Command, tmp_path: Path, version: str) -> None:
    servers = Servers(tmp_path / "servers")
    with Relay() as relay:
        try:
            one = servers.start(binary=find_server(version))
            doors: list[int] = []

            def announce(port: int) -> list[str]:
                doors.append(relay.open(port + 10000))
                return ["cluster-announce-bus-port", str(doors[-1])]

            other = servers.start(binary=find_server(version), announce=announce)
            door = doors[-1]
            relay.swallow(door)
            ask(one.port, "CLUSTER", "SET-CONFIG-EPOCH", 1)
            ask(other.port, "CLUSTER", "SET-CONFIG-EPOCH", 2)
            ask(one.port, "CLUSTER", "MEET", "127.0.0.1", other.port, door)
            # The MEET is sent, and lost; what follows it goes through.
            until(lambda: "cluster_stats_messages_meet_sent" in str(ask(one.port, "CLUSTER", "INFO")))
            relay.let_pass(door)
            until(lambda: not any("handshake" in line.flags for line in nodes_known_to(one.port).values()))
            command.ok("form", one.address, other.address, "--timeout", 20)
            assert [len(nodes_known_to(each.port)) for each in (one, other)] == [2, 2]
        finally:
            servers.close()


def test_a_server_that_is_down_is_blamed_alone(command: Command, start: Start) -> None:
    started = [start(*QUICK) for _ in range(4)]
    form = ("form", *addresses(started), "--replicas", "1")
    command.ok(*form)
    started[0].end()
    told = command.fails(5, *form)
    assert f"{started[0].address} cannot be reached" in told
    assert "already knows" not in told
