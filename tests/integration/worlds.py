"""Where a run of the soak takes place: servers that `create` makes, or servers of its own for `form`."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Protocol

import psutil

from .conftest import Command, await_end, end_servers, server_path
from .judge import Case, Seat, configured
from .relay import Relay
from .scenarios import Scenario
from .servers import Server, Servers

TIMEOUT = 60
NAME = "soak"
DEBUG = ("enable-debug-command", "yes")


class World(Protocol):
    """The servers of one run, by index."""

    command: Command

    def argv(self) -> list[str]:
        """The command, the same one each time."""
        ...

    def names(self, index: int) -> tuple[str, ...]:
        """By what the command may call a node."""
        ...

    def process(self, index: int) -> psutil.Process | None:
        """The server's process, if it runs."""
        ...

    def port(self, index: int) -> int:
        """Its data port."""
        ...

    def swallow(self, index: int) -> None:
        """Let everything vanish that comes in at the bus port."""
        ...

    def let_pass(self, index: int) -> None:
        """No longer."""
        ...

    def kill(self, index: int, seconds: float) -> bool:
        """Kill it, and start it again after that time; whether it runs again."""
        ...

    def case(self) -> Case:
        """What is judged."""
        ...

    def logs(self) -> list[Path]:
        """The servers' logs."""
        ...

    def clear(self) -> None:
        """Remove it by the product's own means, and insist that nothing is left."""
        ...

    def close(self) -> None:
        """End everything that still runs."""
        ...


@cache
def defaults(binary: str) -> dict[str, str]:
    """The watched settings of a server that is told nothing."""
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        try:
            return configured(servers.start(binary=binary).port)
        finally:
            servers.close()


def binary_of(scenario: Scenario) -> str:
    """The server of a run."""
    path = server_path(scenario.version)
    assert path is not None, scenario.version
    return path


class Created:
    """Servers that `create` makes, by the command of an empty folder or another one."""

    def __init__(self, scenario: Scenario, folder: Path, command: Command | None = None) -> None:
        self.scenario = scenario
        self.command = command or Command(folder / "state")

    @property
    def words(self) -> tuple[str | int, ...]:
        """What the command is told."""
        mine = self.scenario
        settings = (f"--set={name}={value}" for name, value in (DEBUG, *mine.settings))
        return (
            "create", "--name", NAME, "--nodes", mine.nodes, "--replicas", mine.replicas, "--base-port", "auto",
            "--server", binary_of(mine), *settings, *(["--retain"] if mine.retain else []), "--timeout", TIMEOUT,
        )  # fmt: skip

    def argv(self) -> list[str]:
        """See `World`."""
        return self.command.argv(*self.words, "--progress", "json")

    def names(self, index: int) -> tuple[str, ...]:
        """See `World`."""
        try:
            port = self.port(index)
        except FileNotFoundError:
            return (f"{NAME}{index}",)
        return (f"{NAME}{index}", f"127.0.0.1:{port}", f"127.0.0.1:{port + 10000}")

    def process(self, index: int) -> psutil.Process | None:
        """See `World`."""
        folder = str(self._folder(index))
        return next((each for each in self.command.processes() if each.info["cwd"] == folder), None)

    def port(self, index: int) -> int:
        """See `World`."""
        return int(self._configuration(index)["port"])

    def _folder(self, index: int) -> Path:
        return self.command.root / NAME / f"{NAME}{index}"

    def _configuration(self, index: int) -> dict[str, str]:
        text = (self._folder(index) / "valkey.conf").read_text()
        return dict(re.findall(r'(?m)^(\S+) "(.*)"$', text))

    def swallow(self, index: int) -> None:
        """Not here: what these servers announce is the product's."""
        raise NotImplementedError

    let_pass = swallow

    def kill(self, index: int, seconds: float) -> bool:
        """See `World`; the product starts it again."""
        if process := self.process(index):
            process.kill()
            await_end([process])
        return False

    def kill_all(self) -> None:
        """End all servers, without a word."""
        end_servers(self.command)

    def case(self) -> Case:
        """See `World`."""
        seats = []
        for index in range(self.scenario.nodes):
            expected = defaults(binary_of(self.scenario))
            given = self._configuration(index)
            settings = {name: given.get(name, value) for name, value in expected.items()}
            seats.append(Seat(f"{NAME}{index}", int(given["port"]), int(given["port"]), settings))
        return Case(tuple(seats), self.scenario.shards)

    def logs(self) -> list[Path]:
        """See `World`."""
        return sorted(self.command.root.glob(f"{NAME}/*/server.log"))

    def clear(self) -> None:
        """See `World`."""
        self.command.ok("delete", "--name", NAME)
        self.command.assert_nothing_left()

    def close(self) -> None:
        """See `World`."""
        end_servers(self.command)


class Given:
    """Servers of the run's own."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.command = Command(folder / "state")
        self._stack = ExitStack()
        self._relay: Relay | None = None
        self._doors: dict[int, int] = {}
        self._servers: list[Server] = []
        started = Servers(folder / "servers")
        self._stack.callback(started.close)
        try:
            self._start(started)
        except BaseException:
            self.close()
            raise
        self._expected = [configured(server.port) for server in self._servers]

    def _start(self, servers: Servers) -> None:
        mine = self.scenario
        swallowed = {fault.node for faults in mine.faults for fault in faults if fault.kind == "swallow"}
        if swallowed:
            self._relay = self._stack.enter_context(Relay())
        words = [word for pair in (DEBUG, *mine.settings) for word in pair]
        for index in range(mine.nodes):
            announce = self._door(index) if index in swallowed else _nothing
            self._servers.append(servers.start(*words, binary=binary_of(mine), announce=announce))

    def _door(self, index: int) -> _Door:
        assert self._relay is not None
        return _Door(self._relay, self._doors, index)

    def argv(self) -> list[str]:
        """See `World`."""
        addresses = [server.address for server in self._servers]
        return self.command.argv(
            "form", *addresses, "--replicas", self.scenario.replicas, "--timeout", TIMEOUT, "--progress", "json"
        )

    def names(self, index: int) -> tuple[str, ...]:
        """See `World`."""
        port = self.port(index)
        return (f"127.0.0.1:{port}", f"127.0.0.1:{self._doors.get(index, port + 10000)}")

    def process(self, index: int) -> psutil.Process | None:
        """See `World`."""
        try:
            return psutil.Process(self._servers[index].process.pid)
        except psutil.NoSuchProcess:
            return None

    def port(self, index: int) -> int:
        """See `World`."""
        return self._servers[index].port

    def swallow(self, index: int) -> None:
        """See `World`."""
        assert self._relay is not None
        self._relay.swallow(self._doors[index])

    def let_pass(self, index: int) -> None:
        """See `World`."""
        assert self._relay is not None
        self._relay.let_pass(self._doors[index])

    def kill(self, index: int, seconds: float) -> bool:
        """See `World`."""
        server = self._servers[index]
        server.end()
        time.sleep(seconds)
        server.restart()
        return server.await_start()

    def case(self) -> Case:
        """See `World`."""
        pairs = zip(self._servers, self._expected, strict=True)
        seats = tuple(Seat(server.address, server.port, server.port, settings) for server, settings in pairs)
        return Case(seats, self.scenario.shards)

    def logs(self) -> list[Path]:
        """See `World`."""
        return [server.log for server in self._servers]

    def clear(self) -> None:
        """See `World`; these servers are not the product's to remove."""
        self.command.assert_nothing_left()

    def close(self) -> None:
        """See `World`."""
        self._stack.close()


class _Door:
    """Lets a server announce the port of a relay for its bus."""

    def __init__(self, relay: Relay, doors: dict[int, int], index: int) -> None:
        self._relay, self._doors, self._index = relay, doors, index

    def __call__(self, port: int) -> Sequence[str]:
        self._doors[self._index] = self._relay.open(port + 10000)
        return ("cluster-announce-bus-port", str(self._doors[self._index]))


def _nothing(_: int) -> Iterable[str]:
    return ()
