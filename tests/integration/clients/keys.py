"""Keys through a client library: LIBRARY HOST PORT PREFIX KEYS. Prints how many were read as they were written.

KEYS_PASSWORD and KEYS_USER are the login, KEYS_CA the certificate of the authority where connections are encrypted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import anyio

LOGIN: dict[str, Any] = {
    name: os.environ[variable]
    for name, variable in (("username", "KEYS_USER"), ("password", "KEYS_PASSWORD"))
    if variable in os.environ
}
TLS: dict[str, Any] = {"ssl": True, "ssl_ca_certs": os.environ["KEYS_CA"]} if "KEYS_CA" in os.environ else {}


def pairs(prefix: str, keys: int) -> Iterator[tuple[str, str]]:
    """Names and values, in turn."""
    for number in range(keys):
        yield f"{prefix}:{number}", f"value of {number}"


def by_cluster_client(client: Any, prefix: str, keys: int) -> int:
    """Through redis-py or valkey-py, which have the same interface."""
    with client:
        for name, value in pairs(prefix, keys):
            assert client.set(name, value) is True
        return sum(client.get(name) == value for name, value in pairs(prefix, keys))


async def by_glide(host: str, port: int, prefix: str, keys: int) -> int:
    """Through valkey-glide."""
    import glide

    login = glide.ServerCredentials(LOGIN["password"], LOGIN.get("username")) if LOGIN else None
    config = glide.GlideClusterClientConfiguration([glide.NodeAddress(host, port)], credentials=login)
    client = await glide.GlideClusterClient.create(config)
    try:
        for name, value in pairs(prefix, keys):
            assert await client.set(name, value) == "OK"
        return sum([await client.get(name) == value.encode() for name, value in pairs(prefix, keys)])
    finally:
        await client.close()


def main() -> None:
    """Write and read."""
    library, host, port, prefix, keys = sys.argv[1:]
    match library:
        case "redis-py":
            from redis.cluster import RedisCluster

            redis = RedisCluster(host=host, port=int(port), decode_responses=True, **LOGIN, **TLS)
            found = by_cluster_client(redis, prefix, int(keys))
        case "valkey-py":
            from valkey.cluster import ValkeyCluster

            valkey = ValkeyCluster(host=host, port=int(port), decode_responses=True, **LOGIN, **TLS)
            found = by_cluster_client(valkey, prefix, int(keys))
        case "valkey-glide":
            found = anyio.run(by_glide, host, int(port), prefix, int(keys))
        case _:
            sys.exit(f"no library {library}")
    print(found)  # noqa: T201 -- what the test reads


if __name__ == "__main__":
    main()
