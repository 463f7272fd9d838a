"""Servers that a test runs itself, for `form`: what they are given, and how they are ended and started again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import redis

from .conftest import ask, find_server, free_block, until

Announce = Callable[[int], Iterable[str]]
"""Further settings, as words, for a server on a port."""


class Server:
    """One server on 127.0.0.1, in a folder of its own."""

    def __init__(self, port: int, folder: Path, argv: list[str], password: str | None = None) -> None:
        self.port, self.folder = port, folder
        self._argv, self._password = argv, password
        self.process = self._spawn()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it has written."""
        return self.folder / "server.log"

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(self._argv, stdout=log, stderr=log)

    def await_start(self) -> bool:
        """Wait until it answers or has ended; whether it runs."""

        def decided() -> bool:
            try:
                return self.process.poll() is not None or bool(ask(self.port, "PING", password=self._password))
            except redis.ConnectionError:
                return False

        until(decided)
        return self.process.poll() is None

    def end(self) -> None:
        """Kill it; what it has on disk stays."""
        self.process.kill()
        self.process.wait(10)

    def restart(self) -> None:
        """Start it again with what it has on disk."""
        self.process = self._spawn()


class Servers:
    """Starts servers below a folder, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Server] = []

    def start(
        self, *settings: str, binary: str = "", cluster: bool = True, announce: Announce = lambda _: ()
    ) -> Server:
        """Start a server with settings given as words: name, value, name, value."""
        password = settings[settings.index("requirepass") + 1] if "requirepass" in settings else None
        while True:
            port = free_block(1)
            folder = self.folder / f"server{port}"
            folder.mkdir(parents=True)
            given = [*settings, *announce(port)]
            words = [word for key, value in zip(given[::2], given[1::2], strict=True) for word in (f"--{key}", value)]
            argv = [binary or find_server("valkey-9.1"), "--port", str(port), "--bind", "127.0.0.1", "--dir",
                    str(folder), "--save", "", "--cluster-enabled", "yes" if cluster else "no", *words]  # fmt: skip
            server = Server(port, folder, argv, password)
            self.started.append(server)
            # Somebody may have been quicker at the port: then another one.
            if server.await_start():
                return server

    def close(self) -> None:
        """End all of them."""
        for server in self.started:
            server.end()
