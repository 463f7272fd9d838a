"""Mistakes and obstacles with containers: one clear error with a hint, nothing left, nothing of others touched."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest
from docker.errors import APIError
from docker.models.containers import Container

from bootstrap import blocking

from .conftest import Command, free_block, require_root
from .containers import Containers, image_of, mapped_name
from .faults import at_moment, refused

pytestmark = [pytest.mark.servers, pytest.mark.docker]

NOBODY = 65534
SOME = ("--nodes", 3, "--replicas", 0)
SILENCE = 5
"""Seconds after which an engine that says nothing is given up."""


@contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def asking(command: Command, host: str, **environment: str) -> Command:
    """The command with an engine at that place."""
    return replace(command, environment={**command.environment, "DOCKER_HOST": host, **environment})


# No engine.


@pytest.mark.parametrize("host", ["unix:///nonexistent", "tcp://127.0.0.1:1"])
def test_no_engine(command: Command, host: str) -> None:
    for args in (("create",), ("list",), ("status", "--name", "x"), ("delete", "--name", "x"), ("logs", "--name", "x")):
        told = refused(asking(command, host), 3, *args, "--runtime", "docker")
        assert f"error: no Docker Engine answers at {host} (no-engine)" in told
        hint = told.partition("hint: ")[2]
        assert "start Docker" in hint
        assert "DOCKER_HOST" in hint
        assert "--runtime process" in hint


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("ftp://somewhere", "invalid bind address protocol: ftp://somewhere"),
        ("tcp://", "invalid bind address format: tcp://"),
        ("tcp://no-such-machine.invalid:2375", ""),  # resolvers have several words for it
        ("ssh://no-such-machine.invalid", "install paramiko"),
    ],
)
def test_no_place_of_an_engine(command: Command, host: str, words: str) -> None:
    for runtime in ("docker", "auto"):
        told = refused(asking(command, host), 3, "--runtime", runtime)
        assert f"the Docker Engine at {host} cannot be asked: {words}" in told
        assert "DOCKER_HOST" in told.partition("hint: ")[2]


def test_auto_without_an_engine_takes_processes_and_says_so(command: Command) -> None:
    lonely = asking(command, "unix:///nonexistent", VALKEY_BOOTSTRAP_RUNTIME="auto")
    done = lonely(*SOME, "--base-port", "auto")
    assert done.returncode == 0, done.stderr
    assert "note: servers are local processes: no Docker Engine answers at unix:///nonexistent" in done.stderr
    assert len(command.processes()) == 3
    lonely.ok("delete")
    command.assert_nothing_left()


@pytest.mark.parametrize("asked", [("--image", "y"), ("--announce-host", "x.local"), ("--memory", "64m")], ids=str)
def test_auto_without_an_engine_does_not_drop_what_needs_one(command: Command, asked: tuple[str, ...]) -> None:
    told = refused(asking(command, "unix:///nonexistent"), 3, "--runtime", "auto", *asked)
    assert "(no-engine)" in told


# An engine that is there, and does not let us in.


@dataclass(frozen=True, slots=True)
class AsNobody(Command):
    """The command as a user without any right but to read, wherever the repository is."""

    def argv(self, *args: str | float | Path) -> list[str]:
        """The whole command line."""
        user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
        return ["setpriv", *user, *reads, *super(AsNobody, self).argv(*args)]


@pytest.fixture
def nobody(tmp_path: Path, engine: docker.DockerClient) -> Iterator[Command]:
    require_root()
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    made = AsNobody(home / "state", {"HOME": str(home), "VALKEY_BOOTSTRAP_RUNTIME": "auto"})
    yield made
    for process in made.processes():
        process.kill()


@pytest.mark.root
def test_an_engine_without_permission_is_not_passed_over(nobody: Command) -> None:
    for args in (("create",), ("--runtime", "docker"), ("--announce-host", "x.local"), ("--dry-run", "--survey")):
        told = refused(nobody, 3, *args)
        assert "error: no permission to use the Docker Engine at " in told
        assert "(engine-permission)" in told
        assert "`sudo usermod -aG docker $USER`" in told.partition("hint: ")[2]


@pytest.mark.root
def test_without_permission_processes_are_managed(nobody: Command) -> None:
    nobody.ok("--runtime", "process", "--nodes", 2, "--replicas", 0, "--base-port", "auto")
    done = nobody("list")
    assert (done.returncode, "valkey " in done.stdout) == (0, True), done.stderr
    assert "warning: no permission to use the Docker Engine at " in done.stderr
    assert "clusters in containers are not listed" in done.stderr
    assert [each["name"] for each in nobody.json("list")["clusters"]] == ["valkey"]
    # By its name it is found; what may be in the engine cannot be told from what is nowhere.
    nobody.ok("status", "--name", "valkey", "--exit-code")
    for args in (("status", "--name", "x"), ("wait", "--name", "x"), ("delete", "--name", "x"), ("delete", "--all")):
        assert "(engine-permission)" in nobody.fails(3, *args)
    assert len(nobody.processes()) == 2
    # The same command again finds it, too.
    nobody.ok("--nodes", 2, "--replicas", 0, "--base-port", "auto")
    nobody.ok("delete", "--name", "valkey")
    nobody.assert_nothing_left()


def test_an_engine_that_never_answers_is_given_up_soon(command: Command, tmp_path: Path) -> None:
    path = f"/tmp/vb-silent-{os.getpid()}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        # A connection in the backlog is all it takes: nobody accepts, and nobody refuses.
        listener.listen(16)
        try:
            silent = asking(command, f"unix://{path}")
            began = time.monotonic()
            with ExitStack() as stack:
                asked = [
                    stack.enter_context(
                        subprocess.Popen(
                            silent.argv(*args), env=silent.env(), text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE,
                        )
                    )
                    for args in (["--runtime", "docker"], ["--runtime", "auto"], ["list", "--runtime", "auto"])
                ]  # fmt: skip
                said = [process.communicate(timeout=60) for process in asked]
            assert time.monotonic() - began < 3 * SILENCE
        finally:
            Path(path).unlink()
    words = f"the Docker Engine at unix://{path} did not answer within {SILENCE} s"
    for process, (stdout, stderr) in zip(asked[:2], said[:2], strict=True):
        assert (process.returncode, stdout) == (3, "")
        assert stderr.startswith(f"error: {words} (engine-silent)\n\nhint: ")
    assert asked[2].returncode == 0
    assert f"warning: {words}: clusters in containers are not listed" in said[2][1]
    command.assert_nothing_left()


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"-ERR unknown command\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nConnection: close\r\n\r\n{",
    ],
    ids=["nothing", "another protocol", "another web server", "a page", "no version", "half an answer"],
)
def test_something_else_in_the_place_of_an_engine(command: Command, answer: bytes) -> None:
    with answering(answer) as host:
        told = refused(asking(command, host), 3, "--runtime", "docker")
    assert f"error: the Docker Engine at {host} " in told
    assert "(engine-gone)" in told


# Strangers.


def stranger(containers: Containers, name: str, **options: Any) -> Container:
    """A container of somebody else."""
    made: Container = containers.engine.containers.create(image_of("valkey-9.1"), name=name, **options)
    return made


def test_a_network_of_that_name_that_is_not_ours(containers: Containers) -> None:
    network = containers.engine.networks.create(containers.network_name, labels={"mine": "yes"})
    try:
        told = containers.fails(4, *SOME)
        assert f"error: a network {network.name} exists and is not ours (network-taken)" in told
        hint = told.partition("hint: ")[2]
        assert "choose another --name" in hint
        assert f"`docker network rm {network.name}`" in hint
        assert "There is no cluster" in containers("delete").stderr
        network.reload()
        assert network.attrs["Labels"] == {"mine": "yes"}
        assert containers.left() == [network.name]
    finally:
        network.remove()


def test_a_container_of_that_name_that_is_not_ours(containers: Containers) -> None:
    other = stranger(containers, f"{containers.name}1")
    try:
        told = containers.fails(4, *SOME)
        assert f"error: a container {other.name} exists and is not ours (container-taken)" in told
        assert f"`docker rm {other.name}`" in told.partition("hint: ")[2]
        other.reload()
        assert other.status == "created"
        containers.assert_nothing_left()
    finally:
        other.remove()


def test_volumes_of_that_name_that_are_not_ours(containers: Containers) -> None:
    names = [f"{containers.name}{index}-data" for index in (0, 2)]
    volumes = [containers.engine.volumes.create(name) for name in names]
    try:
        told = containers.fails(4, *SOME)
        assert f"error: the volumes {names[0]}, {names[1]} exist and are not ours (volume-taken)" in told
        assert f"`docker volume rm {names[0]} {names[1]}`" in told.partition("hint: ")[2]
        containers.assert_nothing_left()
        # Without volumes they are in nobody's way.
        containers.ok(*SOME, "--ephemeral")
        containers.ok("delete")
    finally:
        for volume in volumes:
            volume.remove()  # refused if somebody used it


@pytest.mark.slow
def test_a_guest_on_our_network_is_named_and_spared(containers: Containers) -> None:
    containers.ok(*SOME)
    guest = stranger(containers, f"{containers.name}-guest", network=containers.network_name)
    try:
        guest.start()
        told = containers.fails(5, "delete")
        in_the_way = f"network {containers.network_name} (in use by the container {guest.name})"
        assert f"could not be removed: {in_the_way} (left-behind)" in told
        assert "delete again" in told.partition("hint: ")[2]
        guest.reload()
        assert guest.status == "running"
        assert containers.left() == [containers.network_name]
        # What is left can be filled again.
        containers.ok(*SOME)
        assert len(containers.containers()) == 3
    finally:
        guest.remove(force=True)
    containers.ok("delete")
    containers.assert_nothing_left()


@pytest.mark.slow
def test_an_address_of_ours_given_to_a_guest(containers: Containers) -> None:
    containers.ok(*SOME)
    address = containers.container(1).attrs["NetworkSettings"]["Networks"][containers.network_name]["IPAddress"]
    containers.container(1).remove(force=True)
    guest = stranger(containers, f"{containers.name}-guest")
    try:
        containers.engine.networks.get(containers.network_name).connect(guest, ipv4_address=address)
        guest.start()
        told = containers.fails(4, *SOME)
        assert f"the address {address} of {containers.name}1 was given to another container (address-taken)" in told
        assert f"`docker network inspect {containers.network_name}`" in told.partition("hint: ")[2]
    finally:
        guest.remove(force=True)
    # What was there before is still there.
    containers.ok(*SOME)
    containers.ok("delete")
    containers.assert_nothing_left()


# Ports of this machine.


def test_a_strict_port_that_a_process_holds(containers: Containers) -> None:
    base = free_block(3)
    with listening(base + 1):
        told = refused(containers, 4, *SOME, "--base-port", base)
    assert f"port {base + 1} is held by" in told
    assert f"(pid {os.getpid()})" in told
    assert "(port-taken)" in told
    assert "another --base-port" in told.partition("hint: ")[2]


def test_a_strict_port_that_a_container_holds(containers: Containers) -> None:
    base = free_block(3)
    other = stranger(containers, f"{containers.name}-other", ports={"6379/tcp": ("127.0.0.1", base + 2)})
    try:
        other.start()
        told = refused(containers, 4, *SOME, "--base-port", base)
        assert f"port {base + 2} is held by the container {other.name}" in told
        other.reload()
        assert other.status == "running"
    finally:
        other.remove(force=True)


def test_a_strict_port_that_another_cluster_holds(containers: Containers) -> None:
    base = free_block(4)
    containers.ok(*SOME, "--base-port", base)
    try:
        second = replace(containers, name=f"{containers.name}y")
        for port in (base - 1, base + 2):
            told = refused(second, 4, "--name", second.name, *SOME, "--base-port", port)
            assert f'held by the cluster "{containers.name}" (port-taken)' in told
    finally:
        containers.ok("delete")


@pytest.fixture
def by_default(containers: Containers, default_ports: None) -> Containers:
    """Without a word on ports."""
    environment = {**containers.command.environment}
    del environment["VALKEY_BOOTSTRAP_BASE_PORT"]
    return replace(containers, command=replace(containers.command, environment=environment))


def test_the_default_block_gives_way(by_default: Containers) -> None:
    with ExitStack() as stack:
        # Where somebody else has it already, that is as good.
        with suppress(OSError):
            stack.enter_context(listening(6379))
        done = by_default("--nodes", 2, "--replicas", 0)
    assert done.returncode == 0, done.stderr
    base = by_default.ports()[0]
    assert base > 6379
    assert f"note: ports start at {base}: 6379 is held by " in done.stderr
    by_default.ok("delete")
    by_default.assert_nothing_left()


@contextmanager
def port_taken_late(port: int) -> Iterator[Callable[[], None]]:
    """Takes a port when it is called."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(listening(port))


def test_a_port_taken_after_the_survey_leads_to_another_block(by_default: Containers) -> None:
    planned = by_default.json(*SOME, "--dry-run", "--survey")["nodes"]
    taken = int(planned[2]["addresses"]["host"].rpartition(":")[2])
    with port_taken_late(taken) as take:
        outcome = at_moment(by_default, {"event": "phase.started", "phase": "network"}, take, *SOME)
    assert outcome.code == 0, outcome.events
    assert f"port {taken} of {by_default.name}2 was taken by" in outcome.messages
    assert f"(pid {os.getpid()}): taking another one" in outcome.messages
    # What the first try made is gone.
    assert [event["left"] for event in outcome.of("rollback.finished")] == [[]]
    assert taken not in by_default.ports()
    assert len(by_default.containers()) == 3
    by_default.ok("delete")
    by_default.assert_nothing_left()


def test_a_strict_port_taken_after_the_survey_is_an_error(containers: Containers) -> None:
    base = free_block(3)
    with port_taken_late(base + 2) as take:
        moment = {"event": "phase.started", "phase": "network"}
        outcome = at_moment(containers, moment, take, *SOME, "--base-port", base)
    assert outcome.code == 4
    assert outcome.error["code"] == "port-taken"
    assert f"port {base + 2} of {containers.name}2 was taken by" in outcome.error["message"]
    assert f"(pid {os.getpid()})" in outcome.error["message"]
    containers.assert_nothing_left()


@pytest.mark.slow
def test_a_port_of_a_stopped_cluster_taken_meanwhile(containers: Containers) -> None:
    containers.ok(*SOME)
    for each in containers.containers():
        each.kill()
    port = containers.ports()[1]
    before = {each.id for each in containers.containers()}
    with listening(port):
        told = containers.fails(4, *SOME)
    assert f"port {port} of {containers.name}1 was taken by" in told
    assert f"(pid {os.getpid()})" in told
    # It keeps what it has.
    assert {each.id for each in containers.containers()} == before
    containers.ok(*SOME)
    assert containers.ports()[1] == port
    containers.ok("delete")
    containers.assert_nothing_left()


# Names to announce.


def test_a_name_that_leads_nowhere(containers: Containers) -> None:
    told = refused(containers, 2, *SOME, "--announce-host", "no-such-name.invalid")
    assert "no-such-name.invalid leads nowhere on this machine" in told
    assert "(announce-host-unknown)" in told
    assert "`127.0.0.1 no-such-name.invalid`" in told.partition("hint: ")[2]
    assert "/etc/hosts" in told.partition("hint: ")[2]


@pytest.mark.root
def test_a_name_that_leads_elsewhere(containers: Containers) -> None:
    require_root()
    with mapped_name(f"{containers.name}.local", "203.0.113.7") as name:
        told = refused(containers, 2, *SOME, "--announce-host", name)
    assert f"{name} leads to 203.0.113.7, which is no address of this machine (announce-host-elsewhere)" in told
    assert "/etc/hosts" in told.partition("hint: ")[2]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--announce", "nonsense"), "'nonsense' is not one of auto, fixed-address"),
        (("--announce", "host-name"), "host-name needs the name to announce"),
        (("--announce", "gateway", "--announce-host", "x.local"), "gateway announces no name"),
        (("--announce-host", "localhost"), "localhost leads each container to itself"),
        (("--announce-host", "192.0.2.1"), "192.0.2.1 leads to 192.0.2.1, which is no address of this machine"),
        (("--announce-host", "x y"), "'x y' is not a host name"),
        (("--announce-host", "x.local", "--no-publish"), "a name leads to ports that must be published"),
        (("--announce", "client-address", "--no-publish"), "client-address needs published ports"),
        (("--announce", "same-port", "--no-publish"), "same-port needs published ports"),
        (
            ("--announce", "client-address", "--image", image_of("redis-7.0")),
            "client-address needs Valkey 8.1 or newer, and this is redis 7.0",
        ),
        (("--announce", "gateway", "--runtime", "process"), "process does not go with"),
    ],
    ids=str,
)
def test_announcements_that_cannot_be(containers: Containers, args: tuple[str, ...], words: str) -> None:
    assert words in refused(containers, 2, *SOME, *args)


# Settings and limits.


@pytest.mark.parametrize("setting", ["bogus-setting=1", "maxmemory-policy=bogus"])
def test_a_setting_that_the_server_refuses(containers: Containers, setting: str) -> None:
    told = refused(containers, 5, *SOME, "--set", setting)
    assert f"error: {containers.name}" in told
    assert "did not stay up: it refuses its configuration (server-bad-setting)" in told
    assert "FATAL CONFIG FILE ERROR" in told
    assert setting.partition("=")[0] in told
    assert "--set" in told.partition("hint: ")[2]


@pytest.mark.parametrize("limit", ["1k", "15m", "0", "-64m", "much"])
def test_a_memory_limit_that_cannot_be(containers: Containers, limit: str) -> None:
    told = refused(containers, 2, *SOME, "--memory", limit)
    assert f"--memory: '{limit}' is no limit for a server" in told
    assert "16m or more" in told.partition("hint: ")[2]


def test_the_smallest_memory_limit(containers: Containers) -> None:
    containers.ok("--nodes", 4, "--memory", "16m")
    assert {each.attrs["HostConfig"]["Memory"] for each in containers.containers()} == {16 * 1024**2}
    containers.ok("status", "--exit-code")
    containers.ok("delete")
    containers.assert_nothing_left()


# Containers lost midway.


@pytest.mark.parametrize(
    ("moment", "lose"),
    [
        ({"event": "node.answered"}, "kill"),
        ({"event": "phase.started", "phase": "slots"}, "remove"),
        ({"event": "phase.started", "phase": "agree"}, "kill"),
    ],
    ids=["kill at start", "remove before slots", "kill before agreement"],
)
def test_a_container_lost_midway(containers: Containers, moment: dict[str, str], lose: str) -> None:
    def act() -> None:
        victim = containers.container(1)
        victim.kill() if lose == "kill" else victim.remove(force=True)

    if moment["event"] == "node.answered":
        moment = {**moment, "node": f"{containers.name}1"}
    outcome = at_moment(containers, moment, act, "--nodes", 6)
    assert outcome.code == 5
    # It need not wait for the deadline.
    assert outcome.seconds < 30
    error = outcome.error
    assert f"{containers.name}1" in error["message"]
    assert list(error["nodes"]) == [f"{containers.name}1"]
    if lose == "kill":
        (finished,) = outcome.of("rollback.finished")
        log = (Path(finished["logs"]) / f"{containers.name}1.log").read_text()
        assert "Ready to accept connections" in log
        # Whoever talks to it just then may notice first, and has no log to show.
        shown = error["nodes"][f"{containers.name}1"]
        assert shown in log or (moment["event"] == "node.answered" and shown.startswith("cannot be reached"))
    assert [event["left"] for event in outcome.of("rollback.finished")] == [[]]
    containers.assert_nothing_left()


def test_deleting_while_somebody_else_removes_the_containers(containers: Containers) -> None:
    containers.ok("--nodes", 6)
    there = containers.containers()
    together = threading.Barrier(len(there) + 1)

    def remove(container: Container) -> None:
        together.wait(30)
        # The engine takes it from one of the two: the other is told that it is gone, or going.
        with suppress(APIError):
            container.remove(force=True)

    with ThreadPoolExecutor(len(there)) as others:
        for container in there:
            others.submit(remove, container)
        together.wait(30)
        assert blocking.delete(containers.name, runtime="docker", state_root=str(containers.command.root))
    containers.assert_nothing_left()
