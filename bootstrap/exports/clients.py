"""How a client library is told to use a cluster, as a program to paste: it writes a key and reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from bootstrap.errors import UsageError
from bootstrap.exports import golang, java, javascript, python
from bootstrap.exports.contacts import Contact, Reachable, contact_of
from bootstrap.planning.addressing import Audience
from bootstrap.planning.plan import Plan

Client = Literal["redis-py", "valkey-py", "ioredis", "iovalkey", "go-redis", "jedis", "lettuce", "glide"]
CLIENTS: tuple[Client, ...] = get_args(Client)


def snippet(client: Client, source: Contact | Plan | Reachable, audience: Audience = "host") -> str:
    """A program that uses a cluster through a client library.

    Args:
        client: the library.
        source: the cluster, planned or running, or what there is to know of it.
        audience: where the program runs: on this machine (``host``), or beside the servers (``network``); a `Contact`
            is for one audience already.

    Raises:
        UsageError: no such library, or no addresses for that audience.
    """
    contact = source if isinstance(source, Contact) else contact_of(source, audience)
    return "\n".join([*snippet_lines(client, contact), ""])


def snippet_lines(client: Client, contact: Contact) -> list[str]:
    """The same as lines; raises `UsageError` for a library that is not known."""
    if (write := _WRITERS.get(client)) is None:
        raise UsageError(
            f"{client!r} is no client library that is known", code="no-such-client", hint=f"use {', '.join(CLIENTS)}"
        )
    return write(contact)


_WRITERS: Mapping[Client, Callable[[Contact], list[str]]] = {
    "redis-py": python.cluster_client("redis", "RedisCluster"),
    # Unlike redis-py, valkey-py compares the certificate's names with the address only if it is told to.
    "valkey-py": python.cluster_client("valkey", "ValkeyCluster", "ssl_check_hostname=True,"),
    "ioredis": javascript.cluster_client("ioredis"),
    "iovalkey": javascript.cluster_client("iovalkey"),
    "go-redis": golang.go_redis,
    "jedis": java.jedis,
    "lettuce": java.lettuce,
    "glide": python.glide,
}
