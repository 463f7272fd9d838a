"""The doctor on local processes: each cause is set up on real servers, and has to be named with its node."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from .conftest import (
    Command,
    ask,
    end_servers,
    find_server,
    free_block,
    nodes_known_to,
    require_root,
    setting,
    until,
)
from .engines import Inside
from .networks import own_network, run_in
from .servers import Server, Servers
from .verdicts import check, finding_in, plain

pytestmark = pytest.mark.servers

CREATE = ("--nodes", 6, "--replicas", 1, "--base-port", "auto")


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    """Servers of somebody else."""
    made = Servers(tmp_path / "servers")
    yield made
    made.close()


def ports(command: Command) -> list[int]:
    (record,) = command.json("list")["clusters"]
    return [int(node["addresses"]["host"].rpartition(":")[2]) for node in record["nodes"]]


def process(command: Command, node: str) -> Any:
    return next(each for each in command.processes() if Path(each.cwd()).name == node)


class Case:
    """One cluster, and what the doctor says of it."""

    def __init__(self, command: Command, *where: str, ports: list[int]) -> None:
        self.command, self.where, self.ports = command, where, ports

    def printed(self, *flags: str) -> str:
        """The text, after the same in JSON: both have the same findings."""
        done = self.command("doctor", *self.where, *flags)
        assert done.returncode in (0, 7), done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def found(self, *flags: str) -> dict[tuple[str | None, str], dict[str, Any]]:
        """The findings by node and cause; the exit code fits."""
        done = self.command("doctor", *self.where, *flags, "--output", "json")
        assert done.returncode in (0, 7), done.stderr
        document = json.loads(done.stdout)
        findings = {(each["node"], each["cause"]): each for each in document["findings"]}
        errors = [each for each in findings.values() if each["level"] == "error"]
        assert (done.returncode == 7, document["health"] == "not ok") == (bool(errors), bool(errors))
        return findings

    def errors(self, *flags: str) -> set[tuple[str | None, str]]:
        """Node and cause of the errors."""
        return {key for key, each in self.found(*flags).items() if each["level"] == "error"}

    def document(self, cause: str, title: str, **names: str) -> None:
        """Compare what is printed with docs/troubleshooting.md."""
        text = finding_in(self.printed(), cause)
        # In words first: a folder may hold a port.
        check(cause, title, plain(text, {str(self.command.root): "/state", **names}, self.ports))


@pytest.fixture
def ours(command: Command) -> Case:
    """A healthy cluster of ours."""
    command.ok(*CREATE)
    return Case(command, ports=ports(command))


def formed(command: Command, servers: Servers, count: int = 3, replicas: int = 0, *settings: str) -> Case:
    """A healthy cluster of somebody else's."""
    started = [servers.start(*settings) for _ in range(count)]
    where = [server.address for server in started]
    command.ok("form", *where, "--replicas", replicas)
    return Case(command, *where, ports=[server.port for server in started])


@pytest.mark.parametrize("version", ["valkey-9.1", "valkey-8.1", "redis-7.0"])
def test_nothing_is_found_where_nothing_is_wrong(command: Command, version: str) -> None:
    command.ok(*CREATE, "--server", find_server(version))
    case = Case(command, ports=ports(command))
    assert case.found() == {}
    assert case.found("--quick") == {}
    assert case.printed() == 'Cluster "valkey" is healthy: 6 nodes\n'
    assert case.printed("--client", "ioredis").startswith("Clients here need no address map")


@pytest.mark.parametrize("version", ["valkey-9.1", "valkey-8.1", "redis-7.0"])
def test_nothing_is_invented_about_clusters_that_valkey_cli_formed(
    command: Command, servers: Servers, valkey_cli: str, version: str
) -> None:
    started = [servers.start(binary=find_server(version)) for _ in range(6)]
    where = [server.address for server in started]
    subprocess.run([valkey_cli, "--cluster", "create", *where, "--cluster-replicas", "1", "--cluster-yes"],
                   check=True, capture_output=True)  # fmt: skip
    command.ok("wait", where[0], "--nodes", 6, "--timeout", 30)
    assert Case(command, where[0], ports=[]).found() == {}


def test_a_server_that_was_killed(ours: Case) -> None:
    process(ours.command, "valkey4").send_signal(signal.SIGKILL)
    until(lambda: ours.errors() == {("valkey4", "server-stopped")})
    ours.document("server-stopped", "a server does not run")


def test_a_server_that_is_frozen(ours: Case) -> None:
    process(ours.command, "valkey3").send_signal(signal.SIGSTOP)
    assert ("valkey3", "server-paused") in ours.errors()
    ours.document("server-paused", "a stopped process")
    process(ours.command, "valkey3").send_signal(signal.SIGCONT)
    until(lambda: ours.errors() == set())


def test_two_causes_at_once_are_both_named(ours: Case) -> None:
    process(ours.command, "valkey3").send_signal(signal.SIGSTOP)
    ask(ours.ports[1], "CONFIG", "SET", "requirepass", "other")
    found = ours.errors()
    assert {("valkey3", "server-paused"), ("valkey1", "password-differs")} <= found
    process(ours.command, "valkey3").send_signal(signal.SIGCONT)


def test_one_node_has_a_password(ours: Case) -> None:
    ask(ours.ports[1], "CONFIG", "SET", "requirepass", "other")
    assert ours.errors() == {("valkey1", "password-differs")}
    ours.document("password-differs", "the password is missing or different on one node")


def test_a_replica_that_cannot_log_in(ours: Case) -> None:
    for port in ours.ports:
        ask(port, "CONFIG", "SET", "masterauth", "secret")
        ask(port, "CONFIG", "SET", "requirepass", "secret")
    ask(ours.ports[4], "CONFIG", "SET", "masterauth", "wrong", password="secret")
    ask(ours.ports[4], "CLIENT", "KILL", "TYPE", "master", password="secret")
    case = Case(Command(ours.command.root, {"VALKEY_BOOTSTRAP_PASSWORD": "secret"}), ports=ours.ports)
    until(lambda: case.errors() == {("valkey4", "replica-login")})
    assert "secret" not in case.printed()
    case.document("replica-login", "a replica cannot log in to its primary")


def test_a_copied_nodes_conf(command: Command, servers: Servers) -> None:
    case = formed(command, servers)
    original = servers.started[2]
    copy = servers.start()
    copy.end()
    shutil.copy(original.folder / "nodes.conf", copy.folder / "nodes.conf")
    copy.restart()
    assert copy.await_start()
    both = Case(command, *case.where, copy.address, ports=[*case.ports, copy.port])
    found = {cause for _, cause in both.errors()}
    assert "same-node-id" in found
    both.document("same-node-id", "two nodes with one id")


def test_a_node_of_another_cluster(ours: Case, servers: Servers) -> None:
    stranger = servers.start()
    ask(stranger.port, "CLUSTER", "MEET", "127.0.0.1", ours.ports[0])
    until(lambda: all(len(nodes_known_to(port)) == 7 for port in ours.ports))
    assert {cause for _, cause in ours.errors()} == {"foreign-node"}
    Case(ours.command, ports=[*ours.ports, stranger.port]).document(
        "foreign-node", "a node of another cluster was met, by address reuse or by mistake"
    )


def test_a_lost_node_that_is_remembered(ours: Case, servers: Servers) -> None:
    stranger = servers.start()
    ask(stranger.port, "CLUSTER", "MEET", "127.0.0.1", ours.ports[0])
    until(lambda: all(len(nodes_known_to(port)) == 7 for port in ours.ports))
    stranger.end()
    until(lambda: {cause for _, cause in ours.errors()} == {"lost-node"}, 30)
    Case(ours.command, ports=[*ours.ports, stranger.port]).document("lost-node", "a node that is gone is remembered")


def test_another_node_timeout(ours: Case) -> None:
    ask(ours.ports[2], "CONFIG", "SET", "cluster-node-timeout", 1234)
    assert ours.errors() == set()
    assert ("valkey2", "node-timeout") in ours.found()
    ours.document("node-timeout", "different node timeouts")


def test_a_handshake_that_does_not_end(ours: Case) -> None:
    with socket.socket() as bound:
        # A port of our own would be another finding.
        bound.bind(("127.0.0.1", free_block(1) + 10000))
        shut = bound.getsockname()[1] - 10000
        ask(ours.ports[5], "CONFIG", "SET", "cluster-node-timeout", 15000)
        ask(ours.ports[5], "CLUSTER", "MEET", "127.0.0.1", shut, shut + 10000)
        assert ours.errors() == {("valkey5", "handshake")}
        Case(ours.command, ports=[*ours.ports, shut]).document("handshake", "a node stays in handshake for ever")


def test_slots_without_a_primary(ours: Case) -> None:
    for port in ours.ports:
        ask(port, "CLUSTER", "DELSLOTS", 100)
    until(lambda: (None, "slots-uncovered") in ours.errors())
    ours.document("slots-uncovered", "slots without a primary")


def test_slots_of_a_primary_that_is_down(command: Command) -> None:
    command.ok("--nodes", 3, "--replicas", 0, "--base-port", "auto")
    case = Case(command, ports=ports(command))
    process(command, "valkey1").send_signal(signal.SIGKILL)
    until(lambda: (None, "slots-down") in case.errors())
    case.document("slots-down", "slots of a primary that does not answer")


def test_slots_claimed_twice(command: Command, servers: Servers) -> None:
    first, second = servers.start(), servers.start()
    ask(first.port, "CLUSTER", "ADDSLOTSRANGE", 0, 9000)
    ask(second.port, "CLUSTER", "ADDSLOTSRANGE", 8000, 16383)
    case = Case(command, first.address, second.address, ports=[first.port, second.port])
    assert (None, "slots-twice") in case.errors()
    case.document("slots-twice", "slots claimed twice")


def test_a_half_moved_slot(ours: Case) -> None:
    known = nodes_known_to(ours.ports[0])
    other = next(key for key, line in known.items() if "master" in line.flags and "myself" not in line.flags)
    ask(ours.ports[0], "CLUSTER", "SETSLOT", 100, "MIGRATING", other)
    assert ours.errors() == {("valkey0", "open-slots")}
    ours.document("open-slots", "a slot is half moved")


def test_the_trap_of_epochs(command: Command, servers: Servers) -> None:
    """A node that has stored a higher epoch of a replica than its primary has ignores for ever that it is one."""
    case = formed(command, servers, 6, 1)
    known = nodes_known_to(case.ports[0])
    primary = next(key for key, line in known.items() if "myself" in line.flags)
    replica = next(line for line in known.values() if line.primary == primary)
    holder = servers.started[2]
    holder.end()
    remembered = holder.folder / "nodes.conf"
    lines = [line.split() for line in remembered.read_text().splitlines()]
    for words in lines:
        if words[0] == replica.id:
            words[2], words[3], words[6] = "master", "-", "25"
    remembered.write_text("".join(f"{' '.join(words)}\n" for words in lines))
    holder.restart()
    assert holder.await_start()
    where = f"127.0.0.1:{replica.port}"
    until(lambda: case.errors() == {(where, "epoch-trap")}, 30)
    assert case.errors("--quick") == {(where, "epoch-trap")}
    case.document("epoch-trap", "a replica that others show as a primary without slots")
    # What it says to do mends it.
    assert ask(case.ports[0], "CLUSTER", "BUMPEPOCH").startswith("BUMPED")
    until(lambda: case.errors() == set(), 30)


def test_an_address_that_it_does_not_listen_on(command: Command, servers: Servers) -> None:
    case = formed(command, servers)
    ask(case.ports[1], "CONFIG", "SET", "cluster-announce-ip", "127.0.0.2")
    until(lambda: "127.0.0.2:" in ask(case.ports[0], "CLUSTER", "NODES"))
    found = {cause for node, cause in case.errors() if node == case.where[1]}
    assert "not-bound" in found
    case.document("not-bound", "a server does not listen on the address that it announces")


def test_no_name_where_clients_are_sent_to_names(ours: Case) -> None:
    ask(ours.ports[2], "CONFIG", "SET", "cluster-preferred-endpoint-type", "hostname")
    assert ours.errors() == {("valkey2", "no-hostname")}
    ours.document("no-hostname", "clients are sent to host names, and there is none")


def test_a_replica_on_the_machine_of_its_primary(command: Command, servers: Servers) -> None:
    hosts = ["127.0.0.1", "127.0.0.2"] * 3
    for host in hosts:
        # The tests ask it at the first one.
        servers.start("bind", "127.0.0.1 127.0.0.2", "cluster-announce-ip", host)
    where = [f"{host}:{server.port}" for host, server in zip(hosts, servers.started, strict=True)]
    command.ok("form", *where, "--replicas", 1)
    case = Case(command, *where, ports=[server.port for server in servers.started])
    assert case.found() == {}
    known = sorted(nodes_known_to(case.ports[0]).values(), key=lambda line: line.port)
    host_of = dict(zip(case.ports, hosts, strict=True))
    replica = next(line for line in known if line.primary != "-")
    beside = next(line for line in known if line.primary == "-" and host_of[line.port] == host_of[replica.port])
    ask(replica.port, "CLUSTER", "REPLICATE", beside.id)
    guilty = f"{host_of[replica.port]}:{replica.port}"
    until(lambda: {key: each["level"] for key, each in case.found().items()} == {(guilty, "shares-host"): "warning"})
    case.document("shares-host", "a replica is on its primary's machine")


def test_what_a_node_refuses_to_tell_is_said(ours: Case) -> None:
    ask(ours.ports[2], "ACL", "SETUSER", "default", "-cluster|links")
    printed = ours.printed()
    assert "not tried by CLUSTER LINKS, which valkey2 refused: NOPERM" in printed
    assert "is healthy" in printed


@pytest.mark.root
def test_links_that_go_one_way_only(tmp_path: Path) -> None:
    with own_network("") as pid:
        command = Inside(tmp_path / "state", pid=pid)
        try:
            command.ok(*CREATE[:4], "--base-port", 7000)
            assert Case(command, ports=[]).found() == {}
            run_in(pid, "iptables", "-I", "INPUT", "-p", "tcp", "--dport", "17002", "-j", "REJECT",
                   "--reject-with", "tcp-reset")  # fmt: skip
            case = Case(command, ports=[])
            until(lambda: ("valkey2", "bus-port-blocked") in case.errors())

            def seen() -> list[str]:
                found: list[str] = case.found()["valkey2", "bus-port-blocked"]["evidence"]
                return found

            until(lambda: "valkey0 has a bus link from valkey2, and none to it" in seen(), 30)
        finally:
            end_servers(command)


def test_no_room_for_clients(ours: Case) -> None:
    ask(ours.ports[5], "CONFIG", "SET", "maxclients", 1)
    held = []
    try:
        for _ in range(3):
            held.append(socket.create_connection(("127.0.0.1", ours.ports[5])))
            held[-1].sendall(b"PING\r\n")
            held[-1].recv(100)
        assert ours.errors() == {("valkey5", "maxclients")}
        ours.document("maxclients", "maxclients is reached")
    finally:
        for each in held:
            each.close()


def test_a_user_without_the_commands(ours: Case) -> None:
    ask(ours.ports[2], "ACL", "SETUSER", "default", "-cluster")
    assert ours.errors() == {("valkey2", "acl-forbidden")}
    ours.document("acl-forbidden", "an ACL user lacks commands")


def test_a_replica_that_is_older_than_its_primary(command: Command, servers: Servers) -> None:
    new = [servers.start() for _ in range(3)]
    old = [servers.start(binary=find_server("valkey-8.1")) for _ in range(3)]
    where = [server.address for server in (*new, *old)]
    command("form", *where, "--replicas", "1", "--timeout", "20")
    case = Case(command, *where, ports=[server.port for server in (*new, *old)])
    found = case.found()
    assert {cause for _, cause in found} >= {"mixed-versions", "replica-older"}
    case.document("mixed-versions", "nodes have different versions")
    case.document("replica-older", "a replica is older than its primary")


def test_fewer_than_three_primaries(command: Command) -> None:
    command.ok("--nodes", 5, "--replicas", 1, "--base-port", "auto")
    case = Case(command, ports=ports(command))
    assert {key: each["level"] for key, each in case.found().items()} == {(None, "few-primaries"): "warning"}
    case.document("few-primaries", "fewer than three primaries")


def test_what_an_interrupted_formation_left(ours: Case) -> None:
    ask(ours.ports[2], "CONFIG", "SET", "repl-diskless-sync-delay", 0)
    assert ours.errors() == set()
    assert set(ours.found()) == {("valkey2", "formation-settings")}
    ours.document("formation-settings", "an interrupted formation left its settings")
    assert setting(ours.ports[2], "repl-diskless-sync-delay") == "0", "nothing is changed"
    ours.command.ok(*CREATE)
    assert ours.found() == {}


def test_a_server_without_cluster_mode(command: Command, servers: Servers) -> None:
    case = formed(command, servers)
    plain_server: Server = servers.start(cluster=False)
    both = Case(command, *case.where, plain_server.address, ports=[*case.ports, plain_server.port])
    assert both.errors() == {(plain_server.address, "no-cluster-mode")}
    both.document("no-cluster-mode", "a server is not in cluster mode")


def test_nobody_answers(command: Command) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        shut = bound.getsockname()[1]
        assert "connection refused" in command.fails(5, "doctor", f"127.0.0.1:{shut}")


def test_the_doctor_changes_nothing(ours: Case) -> None:
    def state() -> list[Any]:
        return [(nodes_known_to(port), ask(port, "DBSIZE"), ask(port, "CONFIG", "GET", "*")) for port in ours.ports]

    before = state()
    assert ours.found() == {}
    assert state() == before


@pytest.mark.root
def test_a_nodes_conf_that_cannot_be_saved(tmp_path: Path) -> None:
    require_root()
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(small)], check=True)
    command = Command(small / "state")
    try:
        command.ok("--nodes", 3, "--replicas", 0, "--base-port", "auto")
        case = Case(command, ports=ports(command))
        with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        with contextlib.suppress(redis.ConnectionError):
            # Bumped only where the epoch is not the highest: the last one has that.
            ask(case.ports[0], "CLUSTER", "BUMPEPOCH")
        until(lambda: ("valkey0", "server-nodes-conf-unsaved") in case.errors())
        case.document("server-nodes-conf-unsaved", "nodes.conf cannot be saved")
    finally:
        end_servers(command)
        # A thread of a server that has ended may still be in there.
        until(lambda: subprocess.run(["umount", str(small)], check=False, capture_output=True).returncode == 0)
