"""The connection to a node, on redis-py; the only module that imports it.

Raw connections rather than the client classes: this package asks one node at a time, wants errors as values, and must
see exactly what the server sent, while the client classes retry, follow redirects and reshape replies.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import anyio
import redis.exceptions as redis_errors
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster as BlockingRedisCluster

from bootstrap.formation.base import (
    LOOK,
    Command,
    Connect,
    Credentials,
    NodeClient,
    RawCommand,
    Reply,
    ServerError,
    Unreachable,
    read_look,
    silence,
)
from bootstrap.judging.views import View
from bootstrap.planning.addressing import Address
from bootstrap.planning.text import harmless, mid_sentence

PLAIN_SECONDS = 1.0
"""How long a server that was silent in TLS may take to answer in plain text."""


def connector(credentials: Credentials | None = None, *, timeout: float = 2.0) -> Connect:
    """How this machine connects to nodes.

    Args:
        credentials: the login, if the servers ask for one.
        timeout: seconds for connecting and for each round trip.
    """
    known = credentials or Credentials()
    # One for all connections: making it takes some milliseconds, and twenty where the system's authorities are read.
    context = known.encryption.context() if known.encryption else None

    async def connect(address: Address) -> NodeClient:
        return RedisNode(address, known, timeout, context)

    return connect


class RedisNode:
    """A `NodeClient` over one redis-py connection, RESP2."""

    def __init__(
        self, address: Address, credentials: Credentials, timeout: float, context: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        encryption = credentials.encryption
        self._encrypted = encryption is not None
        self._unshown = encryption is not None and not encryption.certificate
        kind = Connection if encryption is None else SSLConnection
        self._connection = kind(
            host=address.host,
            port=address.port,
            username=credentials.username,
            password=credentials.password,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            encoding_errors="replace",
            # RESP2 has one form for each reply in every version, and no HELLO that an old server would refuse.
            protocol=2,
            driver_info=None,
        )
        if isinstance(self._connection, SSLConnection):
            # redis-py's own would also trust the system's authorities, and be made anew for each connection.
            self._connection.ssl_context.context = context

    async def run(self, *commands: Command) -> Sequence[Reply]:
        """See `NodeClient.run`."""
        return [_harmless(reply) for reply in await self._exchange(commands, raw=False)]

    async def run_raw(self, *commands: RawCommand, within: float | None = None) -> Sequence[Reply]:
        """See `NodeClient.run_raw`."""
        usual = self._connection.socket_timeout
        # One time limit for all replies: one for each costs as much as reading it, which a million keys feel.
        self._connection.socket_timeout = None
        try:
            with anyio.fail_after(usual if within is None else within):
                return await self._exchange(commands, raw=True)
        except TimeoutError as error:
            raise self._no_answer() from error
        finally:
            self._connection.socket_timeout = usual

    async def _exchange(self, commands: Sequence[RawCommand], *, raw: bool) -> list[Reply]:
        connection = self._connection
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(map(_pack, commands), check_health=False)
            return await self._read_all(len(commands), raw=raw)
        except Unreachable:
            await self.aclose()
            raise
        except redis_errors.AuthenticationError as error:
            raise Unreachable(f"{self.address} refuses the login: {_plain(error)}", code="login-failed") from error
        except redis_errors.TimeoutError as error:
            await self.aclose()
            if self._encrypted and await _speaks_plainly(self.address):
                raise Unreachable(
                    f"{self.address} speaks in plain text, and is spoken to in TLS", code="tls"
                ) from error
            raise self._no_answer() from error
        except (redis_errors.RedisError, OSError) as error:
            await self.aclose()
            if refused := self._tls_refusal(error):
                raise refused from error
            if _FULL in str(error):
                raise Unreachable(f"{self.address} has no room for another client", code="full") from error
            raise Unreachable(f"{self.address} cannot be reached: {_plain(error)}") from error
        except BaseException:
            # Cancelled with replies under way: the next command must not read them as its own.
            with anyio.CancelScope(shield=True):
                await self.aclose()
            raise

    def _no_answer(self) -> Unreachable:
        return Unreachable(f"{self.address} does not answer in time", code="no-answer")

    def _tls_refusal(self, error: BaseException) -> Unreachable | None:
        """What an error says of certificates, or of one side that encrypts while the other does not."""
        chain = list(_chain(error))
        if found := next((each for each in chain if isinstance(each, ssl.SSLCertVerificationError)), None):
            words = mid_sentence(found.verify_message)
            return Unreachable(f"{self.address} shows a certificate that is not accepted: {words}", code="certificate")
        demanded = any(isinstance(each, ssl.SSLError) and "CERTIFICATE_REQUIRED" in str(each.reason) for each in chain)
        if demanded or (self._unshown and any(isinstance(each, ConnectionResetError) for each in chain)):
            # Which of both arrives first is chance.
            words = (
                f"{self.address} hangs up, as servers do that want to be shown a certificate (--tls-cert, --tls-key)"
            )
            return Unreachable(words)
        if any(isinstance(each, ssl.SSLError) for each in chain):
            return Unreachable(f"{self.address} does not answer in TLS", code="tls")
        return None

    async def _read_all(self, count: int, *, raw: bool) -> list[Reply]:
        replies: list[Reply] = []
        try:
            while len(replies) < count:
                replies.append(await self._read(raw=raw))
        except redis_errors.ConnectionError:
            # A server that turns clients away says why, and hangs up.
            said = replies[0].text if replies and isinstance(replies[0], ServerError) else ""
            if said.startswith("DENIED"):
                words = f"{self.address} is in protected mode: it takes clients of its own machine only"
                raise Unreachable(words, code="protected") from None
            if _FULL in said:
                raise Unreachable(f"{self.address} has no room for another client", code="full") from None
            raise
        return replies

    async def _read(self, *, raw: bool) -> Reply:
        try:
            return await self._connection.read_response(disable_decoding=raw, disconnect_on_error=False)
        except redis_errors.ConnectionError:
            raise
        except redis_errors.ResponseError as error:
            # redis-py drops the code of the errors it has a class for ("NOAUTH ", "LOADING "); it is put back, since
            # the code is what the judgements read.
            return ServerError(harmless(_with_code(error)))

    async def look(self) -> View:
        """See `NodeClient.look`."""
        try:
            return read_look(await self.run(*LOOK))
        except Unreachable as error:
            return silence(error)

    async def aclose(self) -> None:
        """See `NodeClient.aclose`."""
        await self._connection.disconnect(nowait=True)


def _pack(command: RawCommand) -> bytes:
    """A command as it is sent; redis-py's own takes three times as long, which a million keys feel."""
    words = [word if isinstance(word, bytes) else word.encode() for word in command]
    return b"*%d\r\n%b" % (len(words), b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words]))


def _plain(error: Exception) -> str:
    """A connection error without redis-py's numbering and address."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(cause, OSError) and cause.errno:
        # asyncio words a refused connection by itself; the resolver's numbers are negative and have their own words.
        return (os.strerror(cause.errno) if cause.errno > 0 else cause.strerror or str(cause)).lower()
    text = harmless(str(error)).rstrip(".")
    return text[:1].lower() + text[1:]


def _harmless(reply: Reply) -> Reply:
    """A reply that cannot control the terminal on which parts of it are shown."""
    if isinstance(reply, str):
        return harmless(reply)
    return [_harmless(each) for each in reply] if isinstance(reply, list) else reply


async def _speaks_plainly(address: Address) -> bool:
    """Whether a server answers without TLS; what it gets in TLS it takes for a line that has not ended yet."""
    with anyio.move_on_after(PLAIN_SECONDS), suppress(OSError, anyio.EndOfStream):
        async with await anyio.connect_tcp(address.host, address.port) as stream:
            await stream.send(b"PING\r\n")
            return (await stream.receive(100)).startswith((b"+PONG", b"-"))
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_FULL = "max number of clients"
"""What a server says to clients beyond `maxclients`; redis-py makes a connection error of it."""

_CODES: tuple[tuple[type[Exception], str], ...] = (
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.MovedError, "MOVED"),
    (redis_errors.AskError, "ASK"),
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
)


def _with_code(error: Exception) -> str:
    text = str(error)
    for kind, code in _CODES:
        if isinstance(error, kind) and not text.startswith(code):
            return f"{code} {text}"
    return text


def cluster_client(**options: Any) -> RedisCluster:
    """A new cluster client of redis-py for the caller, who closes it."""
    # Without its name and version, which redis-py would read from disk, on the event loop, for CLIENT SETINFO.
    return RedisCluster(**({"driver_info": None} | options))


def blocking_cluster_client(**options: Any) -> BlockingRedisCluster:
    """The same for callers without an event loop."""
    return BlockingRedisCluster(**options)
