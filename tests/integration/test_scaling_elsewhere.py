"""Clusters that are not plain processes of ours and change their shape: in containers, with TLS, of somebody else."""

from __future__ import annotations

import ipaddress
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from bootstrap.operations.certificates import hosts_of

# Modules, since tests that are imported by name would be collected here as well.
from . import test_containers as created
from . import test_tls as encrypted
from .conftest import Command, Line, ask, await_end, find_server, nodes_known_to, setting, until
from .containers import CLUSTER, Announced, Containers, make, remove
from .servers import Server, Servers
from .shapes import QUIET, Node, Shape, begins, replicas, roles, slots

pytestmark = pytest.mark.servers

KEYS = 300


# Containers.


@pytest.fixture(scope="module")
def contained(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """Two primaries with a replica each, and some keys; each test leaves them so."""
    containers = make(engine, tmp_path_factory.mktemp("scaled") / "state")
    try:
        Shape(containers.command, containers.name).create("--nodes", 4, "--replicas", 1).fill(KEYS)
        yield containers
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


@pytest.fixture
def four(contained: Containers) -> Iterator[Shape]:
    """The same, looked at after each test."""
    shape = Shape(contained.command, contained.name)
    before = shape.nodes()
    yield shape
    assert roles(assert_well(contained, shape)) == roles(before)
    assert shape.kept(KEYS)


def assert_well(containers: Containers, shape: Shape) -> dict[str, Node]:
    """Healthy, known alike by all, and at the engine exactly what belongs to its nodes; these."""
    document = shape.json("status")
    assert document["health"] == "ok", document["doubts"]
    nodes: dict[str, Node] = {node["name"]: node for node in document["nodes"]}
    assert_at_the_engine(containers, list(nodes))
    for node in nodes.values():
        port = port_of(node)
        assert_knows(nodes_known_to(port), nodes)
        # Older servers know only one of them.
        assert all(setting(port, key) in (value, None) for key, value in QUIET.items())
    return nodes


def port_of(node: Node) -> int:
    return int(node["addresses"]["host"].rpartition(":")[2])


def assert_knows(known: Mapping[str, Line], nodes: Mapping[str, Node]) -> None:
    """By one node's own word these are the members, all well, and no slot is on its way."""
    assert set(known) == {node["id"] for node in nodes.values()}
    for line in known.values():
        assert line.flags <= {"myself", "master", "slave"}
        assert not [slot for slot in line.slots if slot.startswith("[")]


def assert_at_the_engine(containers: Containers, names: list[str]) -> None:
    """A container that runs and a volume for each, all on the network, and beside them one record at most."""
    assert {each.name: each.status for each in containers.containers()} == dict.fromkeys(names, "running")
    api = containers.engine.api
    volumes = {each["Name"] for each in api.volumes(filters={"label": f"{CLUSTER}={containers.name}"})["Volumes"]}
    data = {f"{name}-data" for name in names}
    # One that was never changed is recorded by its network.
    records = {name for name in volumes if name.startswith(f"valkey-bootstrap.record.{containers.name}.")}
    assert volumes - records == data
    assert len(records) <= 1
    assert containers.locks() == []
    network = api.inspect_network(containers.network_name)
    assert {guest["Name"] for guest in network["Containers"].values()} == set(names)


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.xdist_group("scaling-containers")
def test_containers_come_with_addresses_of_the_network_and_go_without_a_trace(
    contained: Containers, four: Shape
) -> None:
    old = {each.id for each in contained.containers()}
    before = four.nodes()
    assert "Started 2 containers" in four.ok("scale", "--nodes", 6).stderr
    found = assert_well(contained, four)
    new = [f"{contained.name}{index}" for index in (4, 5)]
    assert [name for name in found if name not in before] == new
    assert {name: found[name]["id"] for name in before} == {name: node["id"] for name, node in before.items()}
    assert [len(each) for each in replicas(found).values()] == [1, 1, 1]
    assert sorted(slots(node) for node in found.values()) == [0, 0, 0, 5461, 5461, 5462]
    assert old < {each.id for each in contained.containers()}, "those that were there were not made anew"
    assert_fixed(contained, found)
    assert_reached(contained, found)
    assert four.kept(KEYS)
    assert "Forgot 2 nodes" in four.ok("scale", "--nodes", 4).stderr
    assert {each.id for each in contained.containers()} == old
    assert all(name not in left for left in contained.left() for name in new)


def assert_fixed(containers: Containers, nodes: Mapping[str, Node]) -> None:
    """Addresses that were asked for, of the network, each one's own, and announced."""
    (config,) = containers.engine.api.inspect_network(containers.network_name)["IPAM"]["Config"]
    network = ipaddress.ip_network(config["Subnet"])
    fixed: dict[str, str] = {}
    for container in containers.containers():
        mine = container.attrs["NetworkSettings"]["Networks"][containers.network_name]
        fixed[str(container.name)] = mine["IPAMConfig"]["IPv4Address"]
        assert mine["IPAddress"] == fixed[str(container.name)]
    assert all(ipaddress.ip_address(address) in network for address in fixed.values())
    assert len({config["Gateway"], *fixed.values()}) == len(fixed) + 1
    assert {name: node["addresses"]["announced"].rpartition(":")[0] for name, node in nodes.items()} == fixed


def assert_reached(containers: Containers, nodes: Mapping[str, Node]) -> None:
    """What holds of a cluster that was created with as many nodes."""
    found, ports = list(nodes.values()), [port_of(node) for node in nodes.values()]
    made = created.Made(containers, Announced("fixed-address"), "valkey-9.1", found, ports, "")
    created.test_a_node_has_one_port_everywhere(made)
    created.test_every_node_sends_clients_to_the_planned_addresses(made)
    created.test_every_address_of_every_node_answers(made)
    created.test_keys_from_this_machine(made, "redis-py")
    created.test_keys_from_a_container(made, "redis-py")


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.xdist_group("scaling-containers")
def test_a_killed_command_is_carried_on_in_containers(contained: Containers, four: Shape) -> None:
    four.ok("scale", "--nodes", 6)
    there = contained.left()
    # Whoever leaves gives to two others, one after the other: not all slots have arrived by then.
    code, told = four.disturbed(
        "scale", "--nodes", 4, when=begins("move", 1), then=lambda process: process.kill()
    )  # fmt: skip
    assert code == -signal.SIGKILL
    first = next(event for event in told if begins("move", 1)(event))
    assert first["done"] < first["total"] == 5461
    # Nobody is removed as long as somebody may need it.
    assert containers_and_data(contained.left()) == containers_and_data(there)
    assert four.kept(KEYS)
    assert f"scale --nodes 4 --name {contained.name}" in four.fails(4, "unfinished", "add-node")
    assert "Forgot 2 nodes" in four.ok("scale", "--nodes", 4).stderr


def containers_and_data(left: list[str]) -> list[str]:
    """Without the lock and the record of the command."""
    return [each for each in left if not each.startswith("valkey-bootstrap.")]


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.parametrize(("version", "strategy"), [("valkey-8.1", "fixed-address"), ("redis-7.0", "gateway")])
def test_keys_go_one_by_one_from_container_to_container(
    engine: docker.DockerClient, tmp_path: Path, version: str, strategy: str
) -> None:
    containers = make(engine, tmp_path / "state", version)
    try:
        shape = Shape(containers.command, containers.name)
        shape.create("--nodes", 3, "--replicas", 0, "--announce", strategy).fill(KEYS)
        one, two, three = shape.nodes()
        for source, target in ((one, two), (two, one), (three, one)):
            before = shape.ask(target, "DBSIZE")
            made = shape.json("reshard", "--from", source, "--to", target, "--count", 2000)
            assert [(move["source"], move["target"]) for move in made["moves"]] == [(source, target)]
            assert shape.ask(target, "DBSIZE") > before
            assert_well(containers, shape)
            assert shape.kept(KEYS)
        assert [slots(node) for node in shape.nodes().values()] == [7461, 5462, 3461]
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


# TLS and a password.


@pytest.mark.slow
@pytest.mark.parametrize(
    "version", [pytest.param(each, marks=pytest.mark.xdist_group(f"tls-{each}")) for each in encrypted.SERVERS]
)
def test_a_node_that_joins_speaks_tls_alone_and_wants_the_password(command: Command, version: str) -> None:
    command.ok(
        "--nodes", 3, "--replicas", 0, "--tls", "--generate-password", "--base-port", "auto",
        "--server", encrypted.server_with_tls(version),
    )  # fmt: skip
    before = encrypted.Tls(command)
    shown = [before.shown(port) for port in before.ports]
    fill(encrypted_client(before))
    done = command("scale", "--nodes", 4, "--progress", "json", "-vv")
    assert done.returncode == 0, done.stderr
    grown = encrypted.Tls(command)
    (new,) = set(grown.ports) - set(before.ports)
    assert (grown.password, grown.authority) == (before.password, before.authority)
    assert [grown.shown(port) for port in before.ports] == shown, "a certificate that holds is kept"
    assert hosts_of(grown.shown(new)) == {"127.0.0.1", "::1", "localhost"}
    assert_encrypted_well(grown, 4)
    encrypted.test_nothing_is_spoken_plainly(grown)
    assert_wants_the_password(grown, new)
    with grown.client(new) as client:
        config = client.config_get("tls-*")
        assert (config["tls-cluster"], config["tls-replication"]) == ("yes", "yes")
        assert client.dbsize() > 0
    assert_kept(encrypted_client(grown))
    server = Shape(command).process("valkey3")
    assert_hidden(grown, done.stdout + done.stderr, server)
    command.ok("remove-node", 3)
    shrunk = encrypted.Tls(command)
    assert shrunk.ports == before.ports
    assert_encrypted_well(shrunk, 3)
    assert_kept(encrypted_client(shrunk))
    await_end([server])
    assert not (command.root / "valkey" / "valkey3").exists()
    command.ok("delete")
    command.assert_nothing_left()


def encrypted_client(tls: encrypted.Tls) -> Any:
    ca = str(tls.secrets / "ca.crt")
    return RedisCluster(host="127.0.0.1", port=tls.ports[0], ssl=True, ssl_ca_certs=ca, password=tls.password)


def assert_encrypted_well(tls: encrypted.Tls, number: int) -> None:
    """Healthy, known alike by all, by their own words."""
    assert tls.document["health"] == "ok", tls.document["doubts"]
    assert len(tls.document["nodes"]) == number
    shares = [slots(node) for node in tls.document["nodes"]]
    assert sum(shares) == 16384
    assert max(shares) - min(shares) <= 1
    for port in tls.ports:
        with tls.client(port) as client:
            lines = client.execute_command("CLUSTER", "NODES").splitlines()
        assert {line.split()[0] for line in lines} == {node["id"] for node in tls.document["nodes"]}
        assert not [line for line in lines if "[" in line or "fail" in line or "handshake" in line]
    assert tls.command.ok("doctor").endswith(f"is healthy: {number} nodes\n")


def assert_wants_the_password(tls: encrypted.Tls, port: int) -> None:
    ca = str(tls.secrets / "ca.crt")
    for given, words in ((None, "required"), ("guessed", "invalid username-password")):
        # Once: redis-py takes a refusal for a lost connection, and tries again for seconds.
        once = Retry(NoBackoff(), 0)
        with (
            redis.Redis(port=port, ssl=True, ssl_ca_certs=ca, password=given, protocol=2, retry=once) as client,
            pytest.raises(redis.AuthenticationError, match=words),
        ):
            client.ping()


def assert_hidden(tls: encrypted.Tls, said: str, server: psutil.Process) -> None:
    """The password is in files for their owner alone, and neither on a command line nor in what was said."""
    everything = [said, *server.cmdline(), *server.environ().values()]
    assert [text for text in everything if tls.password in text or "PRIVATE KEY" in text] == []
    folder = Path(server.cwd())
    secret = {path for path in folder.rglob("*") if path.is_file() and holds_secret(path, tls.password)}
    assert {path.name for path in secret} == {"valkey.conf", "node.key"}
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}


def holds_secret(path: Path, password: str) -> bool:
    content = path.read_bytes()
    return password.encode() in content or b"PRIVATE KEY" in content


def fill(client: Any) -> None:
    with client:
        for index in range(KEYS):
            assert client.set(f"key{index}", index)


def assert_kept(client: Any) -> None:
    with client:
        assert [client.get(f"key{index}") for index in range(KEYS)] == [b"%d" % index for index in range(KEYS)]


# Servers of somebody else.

PASSWORD = "horse battery staple"
LOGIN = ("requirepass", PASSWORD, "masterauth", PASSWORD)
# Not to be changed here, and an owner's choice: replicas are attached at once.
SETTINGS = (*LOGIN, "repl-diskless-sync-delay", "0")


class Theirs:
    """Three primaries that somebody else runs, behind a password, and some keys."""

    def __init__(self, command: Command, servers: Servers, binary: str) -> None:
        self.command, self.servers, self.binary = command, servers, binary
        self.secret = servers.folder / "password"
        self.secret.parent.mkdir(parents=True, exist_ok=True)
        self.secret.write_text(PASSWORD + "\n")
        self.members = [self.start() for _ in range(3)]
        command.ok("form", *(each.address for each in self.members), "--replicas", 0, *self.login)
        fill(self.client())

    @property
    def login(self) -> tuple[str | Path, ...]:
        return "--password-file", self.secret

    @property
    def where(self) -> tuple[str | Path, ...]:
        """What every verb is told."""
        return "--address", self.members[0].address, *self.login

    def start(self) -> Server:
        """A blank server."""
        return self.servers.start(*SETTINGS, binary=self.binary)

    def client(self) -> Any:
        return RedisCluster(host="127.0.0.1", port=self.members[0].port, password=PASSWORD)

    def json(self, verb: str, *args: str) -> Any:
        return self.command.json(verb, *args, *self.where)

    def nodes(self) -> dict[str, Node]:
        """Address -> what it says now; healthy, and known alike by all."""
        document = self.command.json("status", self.members[0].address, *self.login)
        assert document["health"] == "ok", document["doubts"]
        nodes: dict[str, Node] = {node["name"]: node for node in document["nodes"]}
        for name in nodes:
            assert_knows(nodes_known_to(int(name.rpartition(":")[2]), PASSWORD), nodes)
        return nodes

    def ask(self, server: Server, *words: str | int) -> Any:
        return ask(server.port, *words, password=PASSWORD)

    def settings(self, server: Server) -> list[str]:
        """All that it is set to."""
        found: list[str] = self.ask(server, "CONFIG", "GET", "*")
        return found

    def known_to(self, server: Server) -> dict[str, Line]:
        return nodes_known_to(server.port, PASSWORD)


@pytest.fixture
def theirs(command: Command, tmp_path: Path) -> Iterator[Callable[[str], Theirs]]:
    servers = Servers(tmp_path / "theirs")
    yield lambda version: Theirs(command, servers, find_server(version))
    servers.close()


@pytest.mark.slow
@pytest.mark.parametrize("version", ["valkey-9.1", "redis-7.0"])
def test_servers_of_somebody_else_join_and_are_left_running_and_blank(
    theirs: Callable[[str], Theirs], version: str
) -> None:
    cluster = theirs(version)
    follower, leader = cluster.start(), cluster.start()
    given = {server: cluster.settings(server) for server in (*cluster.members, follower, leader)}
    ids = {server: cluster.ask(server, "CLUSTER", "MYID") for server in (follower, leader)}
    before = cluster.nodes()
    second = cluster.members[1].address
    made = cluster.json("add-node", follower.address, "--replica-of", second)
    assert (made["moves"], [change["node"] for change in made["changes"]]) == ([], [follower.address])
    assert roles(cluster.nodes()) == {**roles(before), follower.address: second}
    # What is asked for is there by now.
    assert not cluster.json("add-node", follower.address, "--replica-of", second)["changed"]
    cluster.json("add-node", leader.address, "--primary")
    found = roles(cluster.nodes())
    assert found == {
        **{each.address: 4096 for each in cluster.members}, leader.address: 4096, follower.address: second
    }  # fmt: skip
    assert cluster.ask(leader, "DBSIZE") > 0
    assert_kept(cluster.client())
    gone = cluster.json("remove-node", follower.address, leader.address)
    assert {change["node"] for change in gone["changes"] if change["action"] == "remove"} == {
        follower.address, leader.address
    }  # fmt: skip
    after = cluster.nodes()
    assert after.keys() == before.keys()
    assert sum(slots(node) for node in after.values()) == 16384
    assert_kept(cluster.client())
    for server, was in ids.items():
        assert server.process.poll() is None
        (alone,) = cluster.known_to(server).values()
        assert alone.flags == {"myself", "master"}
        assert (alone.slots, alone.epoch) == ((), 0)
        assert alone.id != was
        assert cluster.ask(server, "DBSIZE") == 0
        assert cluster.ask(server, "FUNCTION", "LIST") == []
    assert {server: cluster.settings(server) for server in given} == given
    # Nothing is left of it: another one may have it.
    assert cluster.json("add-node", leader.address)["changed"]
    # Nothing is kept here of servers that are not ours.
    cluster.command.assert_nothing_left()


def test_servers_that_somebody_uses_are_not_added(theirs: Callable[[str], Theirs]) -> None:
    cluster = theirs("valkey-9.1")
    keys, owner, friend, stranger = (cluster.start() for _ in range(4))
    cluster.ask(keys, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: "cluster_state:ok" in cluster.ask(keys, "CLUSTER", "INFO"))
    cluster.ask(keys, "SET", "key", "mine")
    cluster.ask(owner, "CLUSTER", "ADDSLOTS", 5)
    cluster.ask(friend, "CLUSTER", "MEET", "127.0.0.1", stranger.port)
    until(lambda: len(cluster.known_to(friend)) == len(cluster.known_to(stranger)) == 2)
    before = cluster.nodes()
    used = {server: shape(cluster.known_to(server)) for server in (keys, owner, friend, stranger)}
    for more in (), ("--primary", "--dry-run"):
        for server, words in (
            (keys, "holds 1 key in db0; owns slots 0-16383"),
            (owner, "owns slots 5"),
            (friend, f"at 127.0.0.1:{stranger.port}, which are not of this cluster"),
        ):
            told = cluster.command.fails(4, "add-node", server.address, *more, *cluster.where)
            assert f"error: {server.address} " in told
            assert f"{words} (not-empty)" in told
    # All at once, and nobody is taken where one of them cannot be.
    blank = cluster.start()
    told = cluster.command.fails(
        4, "add-node", *(each.address for each in (blank, keys, owner, friend)), *cluster.where
    )
    assert "3 nodes cannot be taken (not-empty)" in told
    assert blank.address not in told
    assert len(cluster.known_to(blank)) == 1
    assert cluster.nodes() == before
    assert {server: shape(cluster.known_to(server)) for server in used} == used
    assert cluster.ask(keys, "GET", "key") == "mine"


def shape(known: Mapping[str, Line]) -> dict[str, tuple[str, ...]]:
    return {line.id: line.slots for line in known.values()}
