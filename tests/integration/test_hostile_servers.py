"""Servers that are none, or mean harm: each costs one clear error, in time, and writes nothing to the terminal."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pytest

from .conftest import Command

pytestmark = pytest.mark.servers

PIECE = b"x" * 65536
OVER = threading.Event()
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Harm:
    """What a server does when it is asked, and words of the error that this costs.

    Args:
        words: of the error.
        first: what it answers.
        ever: what it goes on with, until nobody listens.
        pause: seconds before each of that.
    """

    words: str
    first: bytes = b""
    ever: bytes = b""
    pause: float = 0

    def do(self, client: socket.socket) -> None:
        """Answer."""
        client.sendall(self.first)
        while self.ever:
            OVER.wait(self.pause)
            client.sendall(self.ever)


LATE = "does not answer in time"
HARMS = {
    "garbage": Harm("protocol error", bytes(range(7, 256)) * 20),
    "nothing": Harm(LATE, ever=b"x", pause=60),
    "hangs up": Harm("connection closed"),
    "an endless string": Harm(LATE, b"$9999999999999\r\n", PIECE),
    "an endless line": Harm(LATE, b"+", PIECE),
    "endless errors": Harm("answers", b"", b"-ERR no\r\n" * 5000),
    "a letter now and then": Harm(LATE, b"+", b"x", 0.3),
    "endless lists in lists": Harm("nesting", b"", b"*1\r\n" * 10000),
    "what controls a terminal": Harm(r"\x1b]0;title\x07\x1b[2J", b"-ERR \x1b]0;title\x07\x1b[2J\x9b31m\r\n" * 8),
    "the same in a value": Harm("", b"$40\r\nserver_name:valkey\r\nvalkey_version:\x1b[2J\r\n\r\n" * 8),
}


@contextmanager
def hostile(harm: Harm) -> Iterator[str]:
    """A server that answers whatever it is asked by doing harm; its address."""

    def attend(client: socket.socket) -> None:
        with client, suppress(OSError):
            client.recv(10000)
            harm.do(client)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=attend, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("verb", [("status",), ("doctor",), ("wait", "--timeout", 3), ("form", "127.0.0.1:1")])
@pytest.mark.parametrize("harm", HARMS)
def test_a_hostile_server(command: Command, harm: str, verb: tuple[str | int, ...]) -> None:
    with hostile(HARMS[harm]) as address:
        done = command(*verb, address, timeout=30)
    assert done.returncode in (4, 5, 6), (done.returncode, done.stderr)
    assert done.stderr.count("error: ") == 1
    assert HARMS[harm].words in done.stderr
    assert "Traceback" not in done.stderr
    assert not CONTROL.search(done.stdout + done.stderr), repr(done.stderr)
