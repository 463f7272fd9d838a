"""A plain socket to one server: cheap for both sides, and with every byte counted."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from bootstrap.planning.addressing import Address
from scripts._bench.failures import Failure

Question = Literal["CLUSTER INFO", "INFO replication", "INFO stats", "CLUSTER NODES", "PING", "CLUSTER SLOTS"]
Answers = Mapping[Question, bytes]

_END = b"ECHO witness\r\n"
_ENDED = b"$7\r\nwitness\r\n"
ANSWER_SECONDS = 20.0


class Link:
    """A connection of the witness.

    ``sent`` and ``received`` are the bytes so far, which `client_bytes` takes from what the server counted.

    Args:
        address: the server's.
        within: seconds to connect in; until then a refused connection is tried again.

    Raises:
        Failure: nobody listens there.
    """

    def __init__(self, address: Address, *, within: float) -> None:
        self.address = address
        self.sent = self.received = 0
        self._socket = _connected(address, time.monotonic() + within)
        self._asked: Sequence[Question] = ()

    def send(self, questions: Sequence[Question]) -> None:
        """Ask; each question once, and CLUSTER SLOTS, whose answer has no length, last."""
        self._asked = questions
        message = b"".join(f"{question}\r\n".encode() for question in questions) + _END
        self.sent += len(message)
        self._socket.sendall(message)

    def receive(self) -> Answers:
        """The answers to what was sent; an error is an empty answer.

        Raises:
            Failure: the server closed the connection or is silent.
        """
        buffer = bytearray()
        while not buffer.endswith(_ENDED):
            try:
                piece = self._socket.recv(1 << 18)
            except OSError as error:
                raise Failure(f"the server at {self.address} does not answer: {error}", "see its log") from error
            if not piece:
                raise Failure(f"the server at {self.address} closed the connection", "see its log")
            buffer += piece
        self.received += len(buffer)
        return dict(zip(self._asked, _split(bytes(buffer[: -len(_ENDED)]), len(self._asked)), strict=True))

    def ask(self, *questions: Question) -> Answers:
        """Send and receive."""
        self.send(questions)
        return self.receive()

    def client_bytes(self) -> int:
        """Bytes that others than this connection have exchanged with the server as clients, both ways together.

        What it exchanged for replication is not in it, nor is the cluster bus, which the server does not count here.
        """
        self.send(["INFO stats"])
        ours = self.sent + self.received  # the answer itself is counted only when it has been written
        stats = self.receive()["INFO stats"]
        total = field(stats, "total_net_input_bytes") + field(stats, "total_net_output_bytes")
        return total - field(stats, "total_net_repl_input_bytes") - field(stats, "total_net_repl_output_bytes") - ours

    def close(self) -> None:
        """Nothing is asked any more."""
        self._socket.close()


def field(text: bytes, name: str) -> int:
    """A number of an INFO answer; 0 where the server does not tell it."""
    _, found, rest = text.partition(f"\n{name}:".encode())
    return int(rest.partition(b"\r")[0]) if found else 0


def _connected(address: Address, end: float) -> socket.socket:
    while True:
        try:
            made = socket.create_connection((address.host, address.port), timeout=ANSWER_SECONDS)
        except OSError as error:
            if time.monotonic() > end:
                raise Failure(f"nobody answers at {address}: {error}", "see the server's log") from error
            time.sleep(0.01)
        else:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return made


def _split(raw: bytes, count: int) -> list[bytes]:
    answers, at = [], 0
    for _ in range(count):
        line = raw.index(b"\r\n", at)
        kind, head, after = raw[at : at + 1], raw[at + 1 : line], line + 2
        if kind == b"$":
            answers.append(raw[after : after + int(head)])
            at = after + int(head) + 2
        elif kind == b"*":
            answers.append(raw[at:])
            at = len(raw)
        else:
            answers.append(b"" if kind == b"-" else head)
            at = after
    return answers
