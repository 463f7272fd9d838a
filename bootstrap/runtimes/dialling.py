"""Connecting to a port to see what happens, from here or from a container's network namespace."""

from __future__ import annotations

import asyncio
import errno
import socket

import anyio

from bootstrap.judging.evidence import Contact, Outcome

ANSWER_BYTES = 1024
"""More than any answer to `QUESTION` has."""

QUESTION = b"CLUSTER MYID\r\n"
"""Inline, as over telnet: any server of the family answers it, with its node id or with the reason why not."""


class LocalVantage:
    """This machine, as the bootstrapper sees it.

    Args:
        beside: the servers are on this machine as well, outside of containers.
    """

    name = "this machine"
    node = ""
    slow = False

    def __init__(self, *, beside: bool = True) -> None:
        self.beside = beside

    async def dial(self, host: str, port: int, *, timeout: float, ask: bool = False) -> Contact:
        """See `Vantage.dial`."""
        try:
            with anyio.fail_after(timeout):
                found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError:
            return Contact("unresolvable")
        except OSError:
            return Contact("unresolvable")
        contact = Contact("unreachable")
        for family, kind, protocol, _, address in found:
            contact = await contact_at(socket.socket(family, kind, protocol), address, timeout=timeout, ask=ask)
            if contact.outcome == "open":
                break
        return contact


async def contact_at(
    made: socket.socket, address: tuple[str, int] | tuple[str, int, int, int], *, timeout: float, ask: bool
) -> Contact:
    """Connect a new socket, which stays in the namespace that it was made in, and close it.

    Args:
        made: the socket.
        address: as `socket.socket.connect` takes it; an IP literal.
        timeout: seconds for connecting, and again for the answer.
        ask: send `QUESTION` and read the answer.
    """
    loop = asyncio.get_running_loop()
    made.setblocking(False)
    with made:
        try:
            with anyio.fail_after(timeout):
                await loop.sock_connect(made, address)
        except TimeoutError:
            return Contact("silent")
        except OSError as error:
            return Contact(_outcome(error))
        return Contact("open", await _answer(made, timeout) if ask else "")


async def _answer(made: socket.socket, timeout: float) -> str:
    loop = asyncio.get_running_loop()
    content = b""
    try:
        with anyio.fail_after(timeout):
            await loop.sock_sendall(made, QUESTION)
            # An error is one line; an id is a line with its length, and one with itself.
            while len(content) < ANSWER_BYTES and content.count(b"\r\n") < (1 if content.startswith(b"-") else 2):
                if not (part := await loop.sock_recv(made, ANSWER_BYTES)):
                    break
                content += part
    except (TimeoutError, OSError):
        # What has come before is an answer, too: a server that turns clients away says why, and hangs up.
        pass
    lines = content.decode(errors="replace").splitlines()
    if not lines:
        return ""
    return lines[0] if lines[0].startswith("-") else lines[-1]


def _outcome(error: OSError) -> Outcome:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if error.errno == errno.ETIMEDOUT:
        return "silent"
    return "unreachable"
