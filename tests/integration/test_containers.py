"""Clusters in containers, by strategy and server: what they are, and who reaches them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest
import redis

from .conftest import VERSIONS, ask, nodes_known_to, setting, until
from .containers import (
    STRATEGIES,
    Announced,
    Containers,
    announced_by,
    cli_inside,
    docker_cli,
    make,
    python_inside,
    remove,
    run_inside,
    slots_listed,
    strategy_params,
)
from .libraries import LIBRARIES, keys_through, printed_by
from .test_cluster import SETTINGS, TROUBLE

pytestmark = [pytest.mark.servers, pytest.mark.docker]

KEYS = 1000
"""One by one, and through the engine's proxy with gateway and host-name."""
SAME_SLOT = 4
"""How many keys in a row are in one slot: the client connects anew for each redirection."""
CHECKED = ("[OK] All nodes agree about slots configuration.", "[OK] All 16384 slots covered.")
WRONG = re.compile(r"\[ERR\]|\[WARNING\]|WARNING|Could not connect|not reachable")


@dataclass(frozen=True, slots=True)
class Made:
    """A cluster of six nodes."""

    containers: Containers
    announced: Announced
    version: str
    nodes: list[dict[str, Any]]
    ports: list[int]
    told: str

    @property
    def inside(self) -> dict[str, Any]:
        return self.announced.inside(self.containers)

    def address(self, index: int, audience: str = "host") -> tuple[str, int]:
        host, _, port = self.nodes[index]["addresses"][audience].rpartition(":")
        return host, int(port)

    def of(self, role: str) -> list[int]:
        return [port for port, node in zip(self.ports, self.nodes, strict=True) if node["role"] == role]

    def planned(self) -> dict[str, tuple[str, int]]:
        """Where clients are to be sent: node id -> host and port, found without the command's help."""
        network = self.containers.engine.api.inspect_network(self.containers.network_name)
        name = {
            "gateway": network["IPAM"]["Config"][0]["Gateway"],
            "host-name": self.announced.name,
            "client-address": "127.0.0.1",
            "same-port": "localhost",
        }
        found = {}
        for index, port in enumerate(self.ports):
            mine = self.containers.container(index).attrs["NetworkSettings"]["Networks"][self.containers.network_name]
            host = name.get(self.announced.strategy) or mine["IPAMConfig"]["IPv4Address"]
            found[ask(port, "CLUSTER", "MYID")] = host, port
        return found


def made_for(
    request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Made]:
    strategy, version = request.param
    announced = announced_by(strategy, request)
    containers = make(engine, tmp_path_factory.mktemp("containers") / "state", version)
    try:
        done = containers("--nodes", 6, *announced.flags)
        assert done.returncode == 0, done.stderr
        nodes, ports = containers.nodes(), containers.ports()
        yield Made(containers, announced, version, nodes, ports, done.stderr)
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


made = pytest.fixture(scope="module", params=strategy_params(STRATEGIES, VERSIONS, group="containers"))(made_for)
HOST_ONLY = [
    *strategy_params(["client-address"], VERSIONS[:2], group="containers"),
    *strategy_params(["same-port"], VERSIONS, group="containers"),
]
host_only = pytest.fixture(scope="module", params=HOST_ONLY)(made_for)


def keys_from_here(made: Made, library: str) -> None:
    prefix = f"here-{library}"
    assert printed_by(keys_through(library, made.address(0), prefix, KEYS)) == f"{KEYS}\n"
    assert_on_all_primaries(made, prefix)


def assert_on_all_primaries(made: Made, prefix: str) -> None:
    counts = [len(ask(port, "KEYS", f"{prefix}:*")) for port in made.of("primary")]
    assert sum(counts) == KEYS
    assert min(counts) > KEYS / 4, counts


def write_and_read_by_cli(output: str, keys: int) -> None:
    """The replies to as many SETs, then as many GETs of the numbers."""
    replies = [line for line in output.splitlines() if line and not line.startswith("-> Redirected")]
    assert replies == ["OK"] * keys + [str(number) for number in range(keys)]
    assert output.count("-> Redirected") > keys / SAME_SLOT / 2


def commands(prefix: str, keys: int) -> str:
    names = [f"{prefix}{{{number // SAME_SLOT}}}:{number}" for number in range(keys)]
    lines = [f"SET {name} {number}" for number, name in enumerate(names)]
    return "\n".join([*lines, *(f"GET {name}" for name in names), ""])


def checked(output: str) -> None:
    assert all(line in output for line in CHECKED), output
    assert not WRONG.search(output), output


def check_here(valkey_cli: str, address: tuple[str, int]) -> str:
    done = subprocess.run(
        [valkey_cli, "--cluster", "check", "{}:{}".format(*address)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# What reaches a cluster.


@pytest.mark.parametrize("library", LIBRARIES)
def test_keys_from_this_machine(made: Made, library: str) -> None:
    keys_from_here(made, library)


@pytest.mark.parametrize("library", ["redis-py", "ioredis"])
def test_keys_from_a_container(made: Made, library: str) -> None:
    prefix = f"inside-{library}"
    argv = keys_through(library, made.address(0, "network"), prefix, KEYS)
    assert run_inside(made.containers, argv, **made.inside) == f"{KEYS}\n"
    assert_on_all_primaries(made, prefix)


def test_the_client_of_the_image_follows_redirections(made: Made) -> None:
    host, port = made.address(0, "network")
    told = cli_inside(
        made.containers, "-c", "-h", host, "-p", str(port), lines=commands("cli", KEYS), **made.inside
    )  # fmt: skip
    write_and_read_by_cli(told, KEYS)


def test_every_address_of_every_node_answers(made: Made) -> None:
    hosts = [made.address(index, audience) for index in range(6) for audience in ("host", "network")]
    here = [address for address in hosts if address[0] not in {node["name"] for node in made.nodes}]
    for host, port in here:
        with redis.Redis(host=host, port=port) as client:
            assert client.ping()
    source = f"""
import json, redis
print(json.dumps([redis.Redis(host=host, port=port).ping() for host, port in {hosts[1::2]}]))
"""
    assert python_inside(made.containers, source, **made.inside) == [True] * 6


def test_valkey_cli_finds_nothing_to_complain_about(made: Made, valkey_cli: str) -> None:
    checked(check_here(valkey_cli, made.address(0)))
    host, port = made.address(0, "network")
    checked(cli_inside(made.containers, "--cluster", "check", f"{host}:{port}", **made.inside))


def test_a_replica_serves_reads(made: Made) -> None:
    node = next(node for node in made.nodes if node["role"] == "replica" and node["primary"] == made.nodes[2]["name"])
    assert ask(made.ports[2], "SET", "key", "there") is True
    host, port = made.address(node["index"])
    with redis.Redis(host=host, port=port, decode_responses=True) as replica:
        with pytest.raises(redis.ResponseError, match="12539"):
            replica.get("key")
        assert replica.execute_command("READONLY") in ("OK", True)
        until(lambda: replica.get("key") == "there")
    host, port = made.address(node["index"], "network")
    told = cli_inside(
        made.containers, "-h", host, "-p", str(port), lines="READONLY\nGET key\n", **made.inside
    )  # fmt: skip
    assert told.split() == ["OK", "there"]


# What a cluster is.


def test_every_node_sends_clients_to_the_planned_addresses(made: Made) -> None:
    planned = made.planned()
    assert {f"{host}:{port}" for host, port in planned.values()} == {
        node["addresses"]["announced"] for node in made.nodes
    }
    for port in made.ports:
        assert slots_listed(port) == planned


def test_roles_and_slots_are_the_planned_ones(made: Made) -> None:
    assert [node["role"] for node in made.nodes] == ["primary"] * 3 + ["replica"] * 3
    slots = [node["slots"] for node in made.nodes[:3]]
    assert slots == [[[0, 5460]], [[5461, 10922]], [[10923, 16383]]]
    for port in made.ports:
        known = nodes_known_to(port).values()
        assert [line.flags - {"myself", "master", "slave"} for line in known] == [frozenset()] * 6
        epochs = [line.epoch for line in known if "master" in line.flags]
        assert len(set(epochs)) == 3
        assert min(epochs) > 0


def test_settings_are_the_configured_ones(made: Made) -> None:
    wanted = dict(SETTINGS)
    if made.version == "valkey-9.1":
        wanted["cluster-ping-interval"] = "0"
    for port in made.ports:
        assert {name: setting(port, name) for name in wanted} == wanted


def test_a_node_has_one_port_everywhere(made: Made) -> None:
    assert made.ports == list(range(made.ports[0], made.ports[0] + 6))
    for index, port in enumerate(made.ports):
        assert setting(port, "port") == str(port)
        assert {made.address(index, audience)[1] for audience in ("host", "network", "announced")} == {port}
        assert {line.bus_port - line.port for line in nodes_known_to(port).values()} == {10000}


def test_logs_tell_of_no_trouble(made: Made) -> None:
    for container in made.containers.containers():
        log = container.logs().decode()
        assert "Ready to accept connections" in log
        assert [line for line in log.splitlines() if TROUBLE.search(line)] == []


def test_the_plan_says_how_it_is_announced(made: Made) -> None:
    assert f"note: announced by {made.announced.strategy}, for clients on this machine" in made.told


# Strategies for clients of this machine alone.


@pytest.mark.parametrize("library", LIBRARIES)
def test_host_only_keys_from_this_machine(host_only: Made, library: str) -> None:
    keys_from_here(host_only, library)


def test_host_only_nodes_send_clients_to_the_planned_addresses(host_only: Made) -> None:
    planned = host_only.planned()
    assert {f"{host}:{port}" for host, port in planned.values()} == {
        node["addresses"]["announced"] for node in host_only.nodes
    }
    for port in host_only.ports:
        assert slots_listed(port) == planned


def test_host_only_is_healthy_and_quiet(host_only: Made, valkey_cli: str) -> None:
    checked(check_here(valkey_cli, host_only.address(0)))
    for port in host_only.ports:
        assert {name: setting(port, name) for name in SETTINGS} == SETTINGS
    for container in host_only.containers.containers():
        log = container.logs().decode()
        assert [line for line in log.splitlines() if TROUBLE.search(line)] == []


def test_host_only_says_that_containers_are_not_served(host_only: Made) -> None:
    assert {node["addresses"]["network"] for node in host_only.nodes} == {None}
    assert f"note: announced by {host_only.announced.strategy}, for clients on this machine only" in host_only.told


@pytest.mark.slow
def test_host_only_ports_are_kept_over_restarts(host_only: Made) -> None:
    """Those of the other strategies: test_containers_resume.py."""
    containers = host_only.containers
    names = [node["name"] for node in host_only.nodes]
    docker_cli("stop", *names)
    docker_cli("start", *reversed(names))
    assert containers("wait", "--nodes", 6, "--timeout", 30).returncode == 0
    docker_cli("stop", *names)
    done = containers("--nodes", 6, *host_only.announced.flags)
    assert done.returncode == 0, done.stderr
    assert [node["addresses"] for node in containers.nodes()] == [node["addresses"] for node in host_only.nodes]
    assert slots_listed(host_only.ports[0]) == host_only.planned()


# Refusals.


def test_what_is_chosen_on_a_linux_machine(containers: Containers) -> None:
    plan = containers.json("--nodes", 6, "--dry-run", "--survey")
    assert plan["announce"] == "fixed-address"
    assert all(node["published"] == [node["addresses"]["host"]] for node in plan["nodes"])
    containers.assert_nothing_left()


@pytest.mark.parametrize(
    ("version", "flags", "code"),
    [
        ("redis-7.0", ("--announce", "client-address"), "announce-impossible"),
        ("valkey-9.1", ("--announce", "same-port", "--no-publish"), "announce-impossible"),
        ("valkey-9.1", ("--announce-host", "nowhere.invalid"), "announce-host-unknown"),
        ("valkey-9.1", ("--announce-host", "nowhere.invalid", "--no-publish"), "invalid-spec"),
    ],
)
def test_an_impossible_announcement_is_refused(
    engine: docker.DockerClient, tmp_path: Any, version: str, flags: tuple[str, ...], code: str
) -> None:
    containers = make(engine, tmp_path / "state", version)
    assert f"({code})" in containers.fails(2, "--nodes", 6, *flags)
    containers.assert_nothing_left()
