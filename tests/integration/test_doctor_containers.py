"""The doctor on containers: what is published, what is announced, and what is dialled from inside."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
import redis
from docker.models.containers import Container

import bootstrap
from bootstrap.runtimes.engine.sidecar import PROBE

from .conftest import free_block, require_root, until
from .containers import CLIENT, Containers, make, remove
from .engines import Inside, into
from .libraries import CLIENTS, SNIPPETS, snippet_command
from .networks import own_network, run_in
from .test_doctor import Case
from .verdicts import check, finding_in, plain

# Dials from inside need root, as does what blocks a port there.
pytestmark = [pytest.mark.servers, pytest.mark.docker, pytest.mark.root]

SIX = ("--nodes", 6, "--replicas", 1)


class Ours(Case):
    """A cluster of ours in containers."""

    def __init__(self, containers: Containers) -> None:
        super().__init__(containers.command, ports=containers.ports())
        self.containers = containers

    def set(self, index: int, name: str, value: str) -> None:
        """CONFIG SET on a node, wherever it can be asked."""
        host, _, port = self.addresses[index].rpartition(":")
        with redis.Redis(host=host, port=int(port), socket_timeout=5) as client:
            client.config_set(name, value)

    @property
    def addresses(self) -> list[str]:
        return [node["addresses"]["host"] for node in self.containers.nodes()]

    def known_as(self, index: int, by: int) -> str:
        """How a node's address is known to another one."""
        ids = self.containers.ids()
        name = list(ids)[index]
        host, _, port = self.addresses[by].rpartition(":")
        with redis.Redis(host=host, port=int(port), socket_timeout=5, decode_responses=True) as client:
            client.set_response_callback("CLUSTER NODES", str)
            lines = [line.split() for line in client.execute_command("CLUSTER NODES").splitlines()]
        return str(next(words[1] for words in lines if words[0] == ids[name]))

    def document(self, cause: str, title: str, **names: str) -> None:
        text = finding_in(self.printed(), cause)
        network = self.containers.engine.api.inspect_network(self.containers.network_name)["IPAM"]["Config"][0]
        prefix = network["Subnet"].rpartition(".")[0]
        check(
            cause, title, plain(text, {self.containers.name: "valkey", f"{prefix}.": "172.28.0.", **names}, self.ports)
        )


@pytest.fixture
def ours(containers: Containers) -> Ours:
    require_root()
    containers.ok(*SIX)
    return Ours(containers)


@pytest.fixture
def gateway(containers: Containers) -> Ours:
    """The same, published on the gateway."""
    require_root()
    containers.ok(*SIX, "--announce", "gateway")
    return Ours(containers)


@pytest.mark.parametrize("strategy", ["fixed-address", "gateway", "client-address", "same-port"])
def test_nothing_is_found_where_nothing_is_wrong(containers: Containers, strategy: str) -> None:
    require_root()
    containers.ok(*SIX, "--announce", strategy)
    case = Ours(containers)
    assert case.found() == {}
    assert "dialled" not in case.printed()


@pytest.mark.parametrize("version", ["valkey-8.1", "redis-7.0"])
def test_nothing_is_found_on_older_servers(engine: docker.DockerClient, tmp_path: Path, version: str) -> None:
    require_root()
    containers = make(engine, tmp_path / "state", version)
    try:
        containers.ok(*SIX)
        assert Ours(containers).found() == {}
    finally:
        remove(containers)


@contextlib.contextmanager
def blocked(container: Container, port: int, how: str = "DROP") -> Iterator[None]:
    """A firewall in a container's network, which is its own."""
    container.reload()
    pid = container.attrs["State"]["Pid"]
    rule = ["INPUT", "-p", "tcp", "--dport", str(port), "-j", how]
    subprocess.run([*into(pid), "iptables", "-w", "10", "-I", *rule], check=True, timeout=20)
    try:
        yield
    finally:
        subprocess.run([*into(pid), "iptables", "-w", "10", "-D", *rule], check=True, timeout=20)


def test_a_bus_port_behind_a_firewall(ours: Ours) -> None:
    with blocked(ours.containers.container(4), ours.ports[4] + 10000):
        until(lambda: any(cause == "bus-port-blocked" for _, cause in ours.errors()))
        assert {node for node, cause in ours.errors()} == {ours.containers.nodes()[4]["name"]}
        ours.document("bus-port-blocked", "the bus port is blocked by a firewall")
    until(lambda: ours.errors() == set(), 30)


def test_a_data_port_behind_a_firewall(ours: Ours) -> None:
    with blocked(ours.containers.container(1), ours.ports[1], "REJECT"):
        assert any(cause == "data-port-blocked" for _, cause in ours.errors())
        ours.document("data-port-blocked", "the data port is blocked by a firewall")


async def test_without_root_containers_beside_the_nodes_dial(ours: Ours, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bootstrap.runtimes.engine.runtime.can_enter", lambda: False)
    cluster = await bootstrap.attach(ours.containers.name, runtime="docker")
    healthy = await cluster.doctor()
    assert healthy.findings == ()
    assert "only root" in healthy.evidence.untried[0]
    names = [node.name for node in cluster.nodes]
    with blocked(ours.containers.container(4), ours.ports[4] + 10000):
        found = await cluster.doctor()
        while found.healthy or not any(dial.vantage.startswith("beside") for dial in found.evidence.dials):
            found = await cluster.doctor()
    assert [(finding.node, finding.cause) for finding in found.errors] == [(names[4], "bus-port-blocked")]
    beside = [dial for dial in found.evidence.dials if dial.vantage.startswith("beside")]
    assert {dial.outcome for dial in beside if (dial.node, dial.port) == (names[4], "bus")} == {"silent"}
    assert {dial.outcome for dial in beside if (dial.node, dial.port) == (names[4], "data")} == {"open"}
    assert ours.containers.engine.containers.list(all=True, filters={"label": PROBE}) == []


def test_two_causes_at_once(ours: Ours) -> None:
    names = [node["name"] for node in ours.containers.nodes()]
    with blocked(ours.containers.container(4), ours.ports[4] + 10000):
        ours.set(0, "protected-mode", "yes")
        found = ours.errors()
        assert {(names[4], "bus-port-blocked"), (names[0], "protected-mode")} <= found


def test_protected_mode(ours: Ours) -> None:
    ours.set(2, "protected-mode", "yes")
    assert ours.errors() == {(ours.containers.nodes()[2]["name"], "protected-mode")}
    ours.document("protected-mode", "protected mode is on")


def test_a_frozen_container(ours: Ours) -> None:
    ours.containers.container(5).pause()
    assert (ours.containers.nodes()[5]["name"], "server-paused") in ours.errors()
    ours.containers.container(5).unpause()


def test_an_announced_loopback_address(ours: Ours) -> None:
    ours.set(3, "cluster-announce-ip", "127.0.0.1")
    until(lambda: ours.known_as(3, by=0).startswith("127.0.0.1:"), 30)
    assert (ours.containers.nodes()[3]["name"], "announced-loopback") in ours.errors()
    ours.document("announced-loopback", "127.0.0.1 is announced")


def test_an_announced_name_that_containers_do_not_know(ours: Ours) -> None:
    ours.set(3, "cluster-announce-ip", "valkey.invalid")
    until(lambda: ours.known_as(3, by=0).startswith("valkey.invalid:"), 30)
    assert (ours.containers.nodes()[3]["name"], "announce-host-unresolvable") in ours.errors()
    ours.document("announce-host-unresolvable", "the announced name cannot be resolved in containers")


def test_an_announced_name_that_leads_elsewhere(ours: Ours) -> None:
    """The name of another node, which all containers resolve; its port is another one, too."""
    names = [node["name"] for node in ours.containers.nodes()]
    ours.set(3, "cluster-announce-ip", names[0])
    ours.set(3, "cluster-announce-port", str(ours.ports[0]))
    until(lambda: ours.known_as(3, by=1).startswith(f"{names[0]}:{ours.ports[0]}"), 30)
    assert (names[3], "announce-host-elsewhere") in ours.errors()
    ours.document("announce-host-elsewhere", "the announced name leads to another server")


def test_an_announced_address_that_leads_elsewhere(ours: Ours) -> None:
    names = [node["name"] for node in ours.containers.nodes()]
    other = ours.known_as(0, by=1).partition(":")[0]
    ours.set(3, "cluster-announce-ip", other)
    ours.set(3, "cluster-announce-port", str(ours.ports[0]))
    until(lambda: ours.known_as(3, by=1).startswith(f"{other}:{ours.ports[0]}"), 30)
    assert (names[3], "leads-elsewhere") in ours.errors()
    ours.document("leads-elsewhere", "two nodes announce one address")


def test_an_announced_port_that_is_not_the_published_one(gateway: Ours) -> None:
    gateway.set(3, "cluster-announce-port", "7777")
    until(lambda: ":7777" in gateway.known_as(3, by=0), 30)
    assert (gateway.containers.nodes()[3]["name"], "announced-port-differs") in gateway.errors()
    gateway.document("announced-port-differs", "the announced port differs from the published one")


def test_an_announced_bus_port_that_is_not_the_published_one(gateway: Ours) -> None:
    gateway.set(3, "cluster-announce-bus-port", "17777")
    until(lambda: "@17777" in gateway.known_as(3, by=0), 30)
    node = gateway.containers.nodes()[3]["name"]
    assert gateway.found()[node, "announced-port-differs"]["setting"] == "cluster-announce-bus-port"


class Theirs:
    """Containers that somebody started by hand, on a network without fixed addresses."""

    def __init__(self, containers: Containers) -> None:
        self.containers = containers
        self.engine = containers.engine
        self.network = self.engine.networks.create(f"{containers.name}-theirs", labels={CLIENT: containers.name})
        self.made: list[Container] = []

    def run(self, *settings: str, ports: Mapping[str, int | tuple[str, int]] | None = None) -> Container:
        name = f"{self.containers.name}-t{len(self.made)}"
        container = self.engine.containers.run(
            self.containers.command.environment["VALKEY_BOOTSTRAP_IMAGE"],
            ["valkey-server", "--cluster-enabled", "yes", "--protected-mode", "no", "--save", "", *settings],
            name=name,
            detach=True,
            network=self.network.name,
            ports=dict(ports or {}),
            labels={CLIENT: self.containers.name},
        )
        self.made.append(container)
        return container

    def address(self, container: Container) -> str:
        container.reload()
        found: str = container.attrs["NetworkSettings"]["Networks"][self.network.name]["IPAddress"]
        return found

    def close(self) -> None:
        for container in self.made:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True, v=True)
        self.network.remove()


@pytest.fixture
def theirs(containers: Containers) -> Iterator[Theirs]:
    require_root()
    made = Theirs(containers)
    yield made
    made.close()


def asked(host: str, *command: str, port: int = 6379) -> Any:
    with redis.Redis(host=host, port=port, socket_timeout=5) as client:
        return client.execute_command(*command)


def answers(host: str, port: int = 6379) -> bool:
    try:
        return bool(asked(host, "PING", port=port))
    except redis.ConnectionError:
        return False


def test_containers_of_others_are_entered_too(theirs: Theirs) -> None:
    for _ in range(3):
        theirs.run()
    addresses = [theirs.address(each) for each in theirs.made]
    for address in addresses:
        until(partial(answers, address))
    command = theirs.containers.command
    command.ok("form", *(f"{address}:6379" for address in addresses))
    case = Case(command, f"{addresses[0]}:6379", ports=[])
    assert case.found() == {}
    document = command.json("doctor", f"{addresses[0]}:6379")
    places = {dial["from"] for dial in document["dials"]}
    assert places == {"this machine", *(f"inside {each.name}" for each in theirs.made)}


def test_stale_addresses_after_a_restart(theirs: Theirs) -> None:
    for _ in range(3):
        theirs.run("--cluster-node-timeout", "2000")
    before = [theirs.address(each) for each in theirs.made]
    for address in before:
        until(partial(answers, address))
    command = theirs.containers.command
    command.ok("form", *(f"{address}:6379" for address in before))
    for each in theirs.made:
        each.stop(timeout=5)
    # Others take their addresses while they are down.
    nodes, theirs.made = theirs.made, [*theirs.made]
    for _ in nodes:
        theirs.run("--port", "7000")
    for each in nodes:
        each.start()
    after = [theirs.address(each) for each in nodes]
    assert not set(before) & set(after)
    for address in after:
        until(partial(answers, address))
    case = Case(command, *(f"{address}:6379" for address in after), ports=[])
    until(lambda: any(cause == "stale-address" for _, cause in case.errors()), 30)
    text = finding_in(case.printed(), "stale-address")
    names = {f"{old}": f"172.28.0.{index + 2}" for index, old in enumerate(before)}
    names |= {f"{new}": f"172.28.0.{index + 8}" for index, new in enumerate(after)}
    check(
        "stale-address", "stale addresses after a restart", plain(text, {theirs.containers.name: "valkey", **names}, [])
    )


@pytest.mark.parametrize(
    ("published", "cause", "title"),
    [
        ((), "data-port-not-published", "the data port is not published"),
        ((6379,), "bus-port-not-published", "the bus port is not published"),
    ],
)
def test_a_port_that_is_not_published(theirs: Theirs, published: tuple[int, ...], cause: str, title: str) -> None:
    """The gateway is announced, and not all of it is published there."""
    theirs.network.reload()
    gateway = theirs.network.attrs["IPAM"]["Config"][0]["Gateway"]
    theirs.run("--cluster-announce-ip", gateway, ports={f"{port}/tcp": (gateway, port) for port in published})
    address = theirs.address(theirs.made[0])
    until(partial(answers, address))
    asked(address, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    case = Case(theirs.containers.command, f"{address}:6379", ports=[])
    assert {each for _, each in case.errors()} >= {cause}
    names = {theirs.containers.name: "valkey", f"{gateway.rpartition('.')[0]}.": "172.28.0."}
    check(cause, title, plain(finding_in(case.printed(), cause), names, []))


@contextlib.contextmanager
def other_machine() -> Iterator[tuple[str, Inside]]:
    """An address of this machine, and the command on one that reaches this one and nothing behind it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    # 198.18.0.0/15 is for measurements (RFC 2544): nobody has it.
    net = f"198.19.{os.getpid() % 256}.{4 * (worker % 64)}"
    ours, theirs = (f"{net.rpartition('.')[0]}.{int(net.rpartition('.')[2]) + at}" for at in (1, 2))
    here, there = f"vbd{os.getpid()}a", f"vbd{os.getpid()}b"
    with own_network("") as pid:
        for words in (
            ("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", str(pid)),
            ("ip", "address", "add", f"{ours}/30", "dev", here),
            ("ip", "link", "set", here, "up"),
            (*into(pid), "ip", "address", "add", f"{theirs}/30", "dev", there),
            (*into(pid), "ip", "link", "set", there, "up"),
        ):
            subprocess.run(words, check=True, capture_output=True, timeout=10)
        try:
            yield ours, Inside(Path("/nonexistent"), pid=pid)
        finally:
            subprocess.run(["ip", "link", "delete", here], check=False, capture_output=True, timeout=10)


def test_container_addresses_seen_from_another_machine(theirs: Theirs) -> None:
    """The nodes are well among themselves; clients elsewhere are sent to addresses that only they can reach."""
    first = free_block(3)
    for index in range(3):
        theirs.run(ports={"6379/tcp": first + index})
    addresses = [theirs.address(each) for each in theirs.made]
    for address in addresses:
        until(partial(answers, address))
    theirs.containers.command.ok("form", *(f"{address}:6379" for address in addresses))
    with other_machine() as (machine, command):
        where = [f"{machine}:{first + index}" for index in range(3)]
        case = Case(command, *where, ports=[])
        assert case.errors() == {(each, "announced-container-address") for each in where}
        # One address alone does not tell which other ones work.
        one = Case(command, where[0], ports=[])
        assert (f"{addresses[1]}:6379", "announced-unreachable") in one.errors()
        names = {f"{old}": f"172.28.0.{index + 2}" for index, old in enumerate(addresses)}
        names |= {machine: "192.0.2.1", theirs.containers.name: "valkey"}
        printed = finding_in(case.printed(), "announced-container-address")
        ports = {str(first + index): str(7000 + index) for index in range(3)}
        check(
            "announced-container-address",
            "container addresses are announced to clients elsewhere",
            plain(printed, names | ports, []),
        )
        document = json.loads(command("doctor", *where, "-o", "json").stdout)
        assert document["remap"] == {f"{a}:6379": b for a, b in zip(addresses, where, strict=True)}
        # What is printed to paste works: real client libraries write and read through it, on every node.
        for client, key in zip(SNIPPETS, ("key", "a", "b", "c", "d"), strict=True):
            text = snippet_of(command("doctor", *where, "--client", client).stdout.splitlines())
            argv = snippet_command(client, text.replace('"key"', f'"{key}"'), sys.executable)
            assert run_in(command.pid, *argv, cwd=CLIENTS) == "value\n"


def snippet_of(lines: list[str]) -> str:
    """The lines to paste, of what the doctor prints."""
    start = next(index for index, line in enumerate(lines) if line.startswith("Clients here"))
    block = itertools.takewhile(lambda line: not line or line.startswith("    "), lines[start + 2 :])
    return "\n".join(line.removeprefix("    ") for line in block)
