"""The same command on what is left of a cluster in containers: stopped, removed, wiped, failed over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import pytest
from redis.cluster import RedisCluster

from bootstrap import Address

from .conftest import Line, ask, free_block, nodes_known_to, setting, until
from .containers import (
    Announced,
    Containers,
    announced_by,
    docker_cli,
    make,
    remove,
    slots_listed,
    strategy_params,
)
from .test_resume import SETTINGS

pytestmark = [pytest.mark.servers, pytest.mark.docker]

KEYS = 300
CREATE = ("--nodes", 6, "--replicas", 1)


@dataclass(frozen=True, slots=True)
class Kept:
    """A cluster with keys that every test of this module leaves as it was: healthy, all keys there."""

    containers: Containers
    announced: Announced
    first: Address
    ports: list[int]

    @property
    def names(self) -> list[str]:
        return [f"{self.containers.name}{index}" for index in range(6)]

    def again(self, *more: str | int) -> list[dict[str, Any]]:
        """The same command, insisted on; its events."""
        done = self.containers(*CREATE, *self.announced.flags, *more, "--progress", "json")
        assert done.returncode == 0, done.stderr
        self.check()
        return [json.loads(line) for line in done.stderr.splitlines()]

    def check(self) -> None:
        """Healthy, and every key is found where the nodes send clients for it."""
        # Valkey 9.1 makes a link anew, within a tick of its timer, when it is met by a node that gossip told it of.
        self.containers.ok("wait", "--timeout", 5)
        done = self.containers("status", "--exit-code")
        assert done.returncode == 0, done.stdout
        client = RedisCluster(host=self.first.host, port=self.first.port, decode_responses=True)
        try:
            reads = client.pipeline()  # type: ignore[no-untyped-call]
            for number in range(KEYS):
                reads.get(f"key:{number}")
            assert reads.execute() == [str(number) for number in range(KEYS)]
        finally:
            client.close()

    def facts(self) -> tuple[dict[str, str], list[int], dict[str, tuple[str, int]]]:
        """What stays: ids, ports, announced addresses."""
        nodes = self.containers.nodes()
        ports = [Address.parse(node["addresses"]["host"]).port for node in nodes]
        return {node["name"]: node["id"] for node in nodes}, ports, slots_listed(ports[0])

    def stop(self) -> None:
        docker_cli("stop", *self.names)


@pytest.fixture(scope="module", params=strategy_params(group="resumed"))
def kept(
    request: pytest.FixtureRequest, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kept]:
    announced = announced_by(request.param[0], request)
    containers = make(engine, tmp_path_factory.mktemp("resumed") / "state", request.param[1])
    try:
        yield filled(containers, announced)
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


def filled(containers: Containers, announced: Announced) -> Kept:
    containers.ok(*CREATE, *announced.flags)
    addresses = [Address.parse(node["addresses"]["host"]) for node in containers.nodes()]
    client = RedisCluster(host=addresses[0].host, port=addresses[0].port)
    try:
        for number in range(KEYS):
            client.set(f"key:{number}", number)
    finally:
        client.close()
    return Kept(containers, announced, addresses[0], [address.port for address in addresses])


def names(events: list[dict[str, Any]]) -> set[str]:
    return {event["event"] for event in events}


def started(events: list[dict[str, Any]]) -> list[str]:
    return sorted(event["node"] for event in events if event["event"] == "node.started")


def test_the_same_command_again_changes_nothing(kept: Kept) -> None:
    ids = [each.id for each in kept.containers.containers()]
    done = kept.containers(*CREATE, *kept.announced.flags)
    assert done.returncode == 0
    assert f'Cluster "{kept.containers.name}" is healthy, nothing was changed' in done.stderr
    events = kept.again()
    assert not names(events) & {"node.started", "steps.ran", "settings.restored", "warning.raised"}
    assert events[-1]["event"] == "cluster.ready"
    assert events[-1]["created"] is False
    assert [each.id for each in kept.containers.containers()] == ids


@pytest.mark.slow
def test_stopped_and_started_by_hand_it_heals_by_itself(kept: Kept) -> None:
    before = kept.facts()
    kept.stop()
    assert kept.containers("status", "--exit-code").returncode == 7
    # Another order than that of its creation: an address that an engine deals out would move now.
    docker_cli("start", *(kept.names[index] for index in (5, 2, 0, 4, 1, 3)))
    done = kept.containers("wait", "--nodes", 6, "--timeout", 30)
    assert done.returncode == 0, done.stderr
    kept.check()
    assert kept.facts() == before


@pytest.mark.slow
def test_stopped_it_is_started_by_the_same_command(kept: Kept) -> None:
    before, containers = kept.facts(), [each.id for each in kept.containers.containers()]
    kept.stop()
    record = next(each for each in kept.containers.json("list")["clusters"] if each["name"] == kept.containers.name)
    assert (record["runtime"], record["running"]) == ("docker", 0)
    assert started(kept.again()) == kept.names
    assert kept.facts() == before
    assert [each.id for each in kept.containers.containers()] == containers


def test_a_removed_container_is_made_again_on_its_volume(kept: Kept) -> None:
    before = kept.facts()
    others = {each.id for each in kept.containers.containers()}
    docker_cli("rm", "-f", kept.names[4])
    assert started(kept.again()) == [kept.names[4]]
    assert kept.facts() == before
    assert len(others & {each.id for each in kept.containers.containers()}) == 5


def test_a_removed_primary_keeps_its_keys(kept: Kept) -> None:
    before = kept.facts()
    docker_cli("rm", "-f", kept.names[1])
    assert started(kept.again()) == [kept.names[1]]
    assert kept.facts() == before


@pytest.mark.slow
def test_a_network_that_was_pruned_is_made_again(kept: Kept) -> None:
    before = kept.facts()
    kept.stop()
    docker_cli("network", "rm", kept.containers.network_name)
    # The containers know whose they are.
    assert kept.containers.name in [each["name"] for each in kept.containers.json("list")["clusters"]]
    assert started(kept.again()) == kept.names
    assert kept.facts() == before


@pytest.mark.slow
def test_with_only_its_volumes_left_it_is_made_again(kept: Kept) -> None:
    # What `docker system prune` leaves of a stopped cluster.
    before = kept.facts()
    kept.stop()
    docker_cli("rm", *kept.names)
    docker_cli("network", "rm", kept.containers.network_name)
    assert started(kept.again("--base-port", kept.ports[0])) == kept.names
    assert kept.facts() == before


def test_volumes_alone_are_a_cluster(containers: Containers) -> None:
    one = ("--nodes", 1, "--replicas", 0, "--base-port", free_block(1))
    containers.ok(*one)
    docker_cli("rm", "-f", f"{containers.name}0")
    docker_cli("network", "rm", containers.network_name)
    assert containers.name in [each["name"] for each in containers.json("list")["clusters"]]
    # What was there before is not this command's to remove.
    assert "exists and differs: settings is nothing" in containers.fails(4, *one, "--set", "no-such-setting=1")
    assert containers.left() == [f"{containers.name}0-data"]
    containers.ok("delete")
    containers.assert_nothing_left()


def test_a_wiped_node_comes_back_under_a_new_id(kept: Kept) -> None:
    nodes = kept.containers.nodes()
    before = {node["name"]: node["id"] for node in nodes}
    wiped = next(node for node in reversed(nodes) if node["role"] == "replica")
    docker_cli("rm", "-f", wiped["name"])
    docker_cli("volume", "rm", f"{wiped['name']}-data")
    assert started(kept.again()) == [wiped["name"]]
    nodes = kept.containers.nodes()
    after = {node["name"]: node["id"] for node in nodes}
    assert after[wiped["name"]] != before[wiped["name"]]
    assert {**after, wiped["name"]: ""} == {**before, wiped["name"]: ""}
    for port in kept.ports:
        assert set(nodes_known_to(port)) == set(after.values())
    node = nodes[wiped["index"]]
    assert (node["role"], node["primary"]) == ("replica", wiped["primary"])


def test_roles_moved_by_a_failover_are_accepted(kept: Kept) -> None:
    replica = next(node for node in kept.containers.nodes() if node["role"] == "replica")
    port = kept.ports[replica["index"]]
    assert ask(port, "CLUSTER", "FAILOVER") in ("OK", True)

    def mine() -> Line:
        return next(line for line in nodes_known_to(port).values() if "myself" in line.flags)

    until(lambda: "master" in mine().flags)
    kept.containers.ok("wait", "--nodes", 6)
    moved = kept.containers.nodes()
    assert moved[replica["index"]]["role"] == "primary"
    old = next(node for node in moved if node["name"] == replica["primary"])
    assert (old["role"], old["primary"]) == ("replica", replica["name"])
    assert not names(kept.again()) & {"steps.ran", "node.started", "settings.restored"}
    assert kept.containers.nodes() == moved


def test_settings_of_an_interrupted_formation_are_restored(kept: Kept) -> None:
    ports = kept.ports
    low = {"cluster-node-timeout": 500, "cluster-ping-interval": 100, "repl-diskless-sync-delay": 0}
    for port in ports:
        for name, value in low.items():
            ask(port, "CONFIG", "SET", name, value)
    events = kept.again()
    assert [event["nodes"] for event in events if event["event"] == "settings.restored"] == [6]
    assert "steps.ran" not in names(events)
    for port in ports:
        assert {name: setting(port, name) for name in SETTINGS} == SETTINGS


DIFFERENCES = {
    "nodes": (("--nodes", 7), "nodes is 6, asked for is 7"),
    "replicas": (("--nodes", 6, "--replicas", 2), "replicas is 1, asked for is 2"),
    "zones": ((*CREATE, "--zones", "a,b"), "zones is nothing, asked for is a,b"),
    "set": ((*CREATE, "--set", "maxmemory=64mb"), "settings is nothing, asked for is maxmemory=64mb"),
    "memory": ((*CREATE, "--memory", "128m"), "memory is nothing, asked for is 128m"),
    "ephemeral": ((*CREATE, "--ephemeral"), "ephemeral is False, asked for is True"),
    "no-publish": ((*CREATE, "--no-publish"), "publish is True, asked for is False"),
    "image": (
        (*CREATE, "--image", "valkey-bootstrap-test:valkey-8.1"),
        "asked for is valkey-bootstrap-test:valkey-8.1",
    ),
    "announce": ((*CREATE, "--announce", "same-port"), "asked for is same-port"),
    "announce-host": ((*CREATE, "--announce-host", "other.invalid"), "asked for is other.invalid"),
    "base-port": ((*CREATE, "--base-port", 7777), "asked for is 7777"),
}


@pytest.mark.parametrize("flags", DIFFERENCES)
def test_a_specification_that_differs_is_refused(kept: Kept, flags: str) -> None:
    given, told = DIFFERENCES[flags]
    ids = [each.id for each in kept.containers.containers()]
    said = kept.containers.fails(4, *given)
    assert f'the cluster "{kept.containers.name}" exists and differs: ' in said
    assert told in said
    assert "(spec-differs)" in said
    assert [each.id for each in kept.containers.containers()] == ids


def test_all_differences_are_told_at_once(kept: Kept) -> None:
    said = kept.containers.fails(4, "--nodes", 8, "--replicas", 3, "--ephemeral", "--set", "maxmemory=1mb")
    assert "nodes is 6, asked for is 8; replicas is 1, asked for is 3" in said
    assert "ephemeral is False, asked for is True" in said
    assert "settings is nothing, asked for is maxmemory=1mb" in said


def test_a_bare_command_accepts_what_there_is(kept: Kept) -> None:
    # Neither the strategy nor the image has to be said again.
    done = kept.containers("--nodes", 6)
    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stderr
    assert f"announced by {kept.announced.strategy}" in done.stderr
