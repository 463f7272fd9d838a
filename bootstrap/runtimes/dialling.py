"""Connecting to a port to see what happens, from here or from a container's network namespace."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from dataclasses import dataclass
from typing import Literal

import anyio

from bootstrap.judging.evidence import Contact, Outcome
from bootstrap.planning.text import harmless
from bootstrap.runtimes.base import Ask

ANSWER_BYTES = 1024
"""More than any answer to `QUESTION` has."""

QUESTION = b"CLUSTER MYID\r\n"
"""Inline, as over telnet: any server of the family answers it, with its node id or with the reason why not."""


CERTIFICATE = "-CERTIFICATE"
NO_TLS = "-NOTLS"
"""What is noted as an answer where TLS came to nothing."""


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

    async def dial(self, host: str, port: int, *, timeout: float, ask: Ask = None) -> Contact:
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
            question = Question(host, ask) if ask else None
            contact = await contact_at(socket.socket(family, kind, protocol), address, timeout=timeout, ask=question)
            if contact.outcome == "open":
                break
        return contact


@dataclass(frozen=True, slots=True)
class Question:
    """A server is to be asked who it is.

    Args:
        host: as what it is known; its certificate has to be for that.
        how: plainly or in TLS.
    """

    host: str
    how: ssl.SSLContext | Literal["plain"]


async def contact_at(
    made: socket.socket,
    address: tuple[str, int] | tuple[str, int, int, int],
    *,
    timeout: float,
    ask: Question | None,
) -> Contact:
    """Connect a new socket, which stays in the namespace that it was made in, and close it.

    Args:
        made: the socket.
        address: as `socket.socket.connect` takes it; an IP literal.
        timeout: seconds for connecting, and again for the answer.
        ask: how to send `QUESTION` and read the answer, None not to.
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
        return Contact("open", await _answer(made, timeout, ask) if ask else "")


async def _answer(made: socket.socket, timeout: float, ask: Question) -> str:
    content = b""
    context = None if ask.how == "plain" else ask.how
    try:
        with anyio.fail_after(timeout):
            reader, writer = await asyncio.open_connection(
                sock=made, ssl=context, server_hostname=ask.host if context else None
            )
            try:
                writer.write(QUESTION)
                # An error is one line; an id is a line with its length, and one with itself.
                while len(content) < ANSWER_BYTES and content.count(b"\r\n") < (1 if content.startswith(b"-") else 2):
                    if not (part := await reader.read(ANSWER_BYTES)):
                        break
                    content += part
            finally:
                writer.transport.abort()
    except ssl.SSLCertVerificationError as error:
        return f"{CERTIFICATE} {error.verify_message}"
    except ssl.SSLError:
        return NO_TLS
    except (TimeoutError, OSError):
        # What has come before is an answer, too: a server that turns clients away says why, and hangs up.
        pass
    lines = harmless(content.decode(errors="replace")).splitlines()
    if not lines:
        return ""
    return lines[0] if lines[0].startswith("-") else lines[-1]


def _outcome(error: OSError) -> Outcome:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if error.errno == errno.ETIMEDOUT:
        return "silent"
    return "unreachable"
