"""Engines that are not simply here: around our container, in a container beside it, and on another machine."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from docker.models.networks import Network

from .conftest import Command, require_root
from .containers import CLIENT, MOUNTS, Containers, image_of, make, mapped_name, remove, run_inside
from .engines import PORT, OwnEngine, own_engine, plugged
from .libraries import keys_through, printed_by

pytestmark = [
    pytest.mark.servers, pytest.mark.docker, pytest.mark.root, pytest.mark.xdist_group("engines-elsewhere"),
]  # fmt: skip

KEYS = 300
SIX = ("--nodes", 6, "--replicas", 1)
NAME = "docker"
"""What CI systems call the container of an engine."""


@dataclass(frozen=True, slots=True)
class Job(Command):
    """The command in a container, as a CI job runs it.

    Args:
        options: for `docker run`: where it is, and how it asks the engine.
    """

    options: tuple[str, ...] = ()

    def env(self) -> dict[str, str]:
        """That of the program which starts the container."""
        return dict(os.environ)

    def argv(self, *args: str | float | Path) -> list[str]:
        """The whole command line."""
        environment = {**self.environment, "NO_COLOR": "1", "VALKEY_BOOTSTRAP_STATE_ROOT": "/tmp/state"}
        given = [f"--env={name}={value}" for name, value in environment.items()]
        return [*job(*self.options, *given), os.path.realpath(sys.executable), "-m", "bootstrap", *map(str, args)]


def job(*options: str) -> list[str]:
    """The beginning of a command line for a container that has this machine's programs."""
    paths = os.pathsep.join(each for each in sys.path if each)
    return [
        "docker", "run", "--rm", f"--env=PYTHONPATH={paths}", "--env=PYTHONDONTWRITEBYTECODE=1",
        *(f"--volume={path}:{path}:ro" for path in MOUNTS), *options, "--entrypoint=", image_of("valkey-9.1"),
    ]  # fmt: skip


def assert_healthy(command: Command) -> None:
    """By its own word, and by the doctor's, from wherever it can dial."""
    command.ok("status")  # exit code 0
    found = json.loads(command.ok("doctor", "-o", "json"))
    assert found["findings"] == []


# Around our container: the engine's socket is mounted.


@pytest.fixture(scope="module")
def around(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    made = make(engine, tmp_path_factory.mktemp("around") / "state")
    network = engine.networks.create(f"{made.name}-job", labels={CLIENT: made.name})
    where = ("--volume=/var/run/docker.sock:/var/run/docker.sock", f"--network={network.name}")
    inside = Containers(Job(made.command.root, made.command.environment, where), made.name, engine)
    try:
        yield inside
    finally:
        remove(made)


def test_around_our_container(around: Containers) -> None:
    made = around(*SIX, "--progress", "plain")
    assert made.returncode == 0, made.stderr
    assert "announced by gateway" in made.stderr
    assert "we run in a container ourselves" in made.stderr
    assert_healthy(around.command)
    host, port = around.nodes()[0]["addresses"]["host"].split(":")
    assert printed_by(keys_through("redis-py", (host, int(port)), "here", KEYS)) == f"{KEYS}\n"
    argv = keys_through("ioredis", (host, int(port)), "inside", KEYS)
    assert run_inside(around, argv, network=f"{around.name}-job") == f"{KEYS}\n"
    around.ok("delete")
    around.assert_nothing_left()


# In a container beside ours: Docker in Docker. And the same engine as one of another machine.


@dataclass(frozen=True, slots=True)
class Beside:
    """An engine on a network.

    Args:
        own: the engine.
        network: where it is, at the other engine.
        address: its address there.
        outer: names things of the other engine.
    """

    own: OwnEngine
    network: Network
    address: str
    outer: Containers

    def environment(self, host: str) -> Mapping[str, str]:
        return {**self.outer.command.environment, "DOCKER_HOST": f"tcp://{host}:{PORT}"}

    def of(self, command: Command) -> Containers:
        return Containers(command, self.outer.name, self.own.client)

    def keys(self, library: str, address: tuple[str, int], hosts: dict[str, str]) -> str:
        """What a job with a client prints."""
        argv = keys_through(library, address, f"inside-{library}", KEYS)
        return run_inside(self.outer, argv, network=self.network.name, hosts=hosts)


@pytest.fixture(scope="module")
def beside(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    require_root()
    outer = make(engine, tmp_path_factory.mktemp("beside") / "state")
    network = engine.networks.create(f"{outer.name}-job", labels={CLIENT: outer.name})
    try:
        with own_engine(engine) as own, plugged(own, network) as address:
            yield Beside(own, network, address, outer)
    finally:
        remove(outer)


def first_address(containers: Containers) -> tuple[str, int]:
    host, port = containers.nodes()[0]["addresses"]["host"].rsplit(":", 1)
    return host, int(port)


@pytest.mark.parametrize("by_name", [True, False])
def test_in_a_container_beside_ours(beside: Beside, by_name: bool) -> None:
    host = NAME if by_name else beside.address
    where = (f"--network={beside.network.name}", *([f"--add-host={NAME}:{beside.address}"] if by_name else []))
    inside = beside.of(Job(beside.outer.command.root, beside.environment(host), where))
    made = inside(*SIX, "--progress", "plain")
    assert made.returncode == 0, made.stderr
    assert "announced by host-name" in made.stderr
    assert "the engine runs in a container of its own" in made.stderr
    assert f"clients that reach {beside.address}" in made.stderr
    assert_healthy(inside.command)
    address = first_address(inside)
    assert address[0] == host
    hosts = {NAME: beside.address} if by_name else {}
    for library in ("redis-py", "ioredis"):
        assert beside.keys(library, address, hosts) == f"{KEYS}\n"
    inside.ok("delete")
    inside.assert_nothing_left()


def test_on_another_machine(beside: Beside, tmp_path: Path) -> None:
    beside.own.call("builder")
    away = beside.of(Command(tmp_path / "state", beside.environment(beside.address)))
    refused = away.fails(2, *SIX)
    assert "(remote-engine)" in refused
    assert f"--announce-host {beside.address}" in refused
    with mapped_name(f"{beside.outer.name}.lan", beside.address) as name:
        for host in (name, beside.address):
            made = away(*SIX, "--announce-host", host, "--insecure", "--progress", "plain")
            assert made.returncode == 0, made.stderr
            assert f"{host} leads to {beside.address}: the ports are open to the network there" in made.stderr
            assert_healthy(away.command)
            assert printed_by(keys_through("redis-py", first_address(away), "here", KEYS)) == f"{KEYS}\n"
            away.ok("delete")
            away.assert_nothing_left()
