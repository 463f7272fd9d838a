"""How a client library is told to use other addresses than the ones that a cluster announces."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from bootstrap.planning.addressing import Address

Client = Literal["redis-py", "valkey-py", "ioredis", "iovalkey", "go-redis", "jedis", "lettuce", "glide"]
CLIENTS: tuple[Client, ...] = get_args(Client)

Remap = Mapping[Address, Address]
"""Announced address -> the one that works."""


def remap_text(client: Client, remap: Remap) -> list[str]:
    """Lines to paste."""
    return _WRITERS[client](remap)


def _python(module: str) -> Callable[[Remap], list[str]]:
    def write(remap: Remap) -> list[str]:
        first = next(iter(remap.values()))
        return [
            f"from {module}.cluster import {'ValkeyCluster' if module == 'valkey' else 'RedisCluster'}",
            *_python_table(remap),
            f"client = {'ValkeyCluster' if module == 'valkey' else 'RedisCluster'}(",
            f'    host="{first.host}", port={first.port}, address_remap=lambda where: ADDRESSES.get(where, where)',
            ")",
        ]

    return write


def _javascript(module: str) -> Callable[[Remap], list[str]]:
    def write(remap: Remap) -> list[str]:
        first = next(iter(remap.values()))
        table = {str(a): {"host": b.host, "port": b.port} for a, b in remap.items()}
        return [
            f'const {{ Cluster }} = require("{module}");',
            f'const client = new Cluster([{{ host: "{first.host}", port: {first.port} }}], {{',
            "  natMap: {",
            *(f"    {json.dumps(key)}: {json.dumps(value)}," for key, value in table.items()),
            "  },",
            "});",
        ]

    return write


def _go(remap: Remap) -> list[str]:
    first = next(iter(remap.values()))
    return [
        "addresses := map[string]string{",
        *(f'\t"{a}": "{b}",' for a, b in remap.items()),
        "}",
        "client := redis.NewClusterClient(&redis.ClusterOptions{",
        f'\tAddrs: []string{{"{first}"}},',
        "\tDialer: func(ctx context.Context, network, addr string) (net.Conn, error) {",
        "\t\tif mapped, ok := addresses[addr]; ok {",
        "\t\t\taddr = mapped",
        "\t\t}",
        "\t\treturn (&net.Dialer{}).DialContext(ctx, network, addr)",
        "\t},",
        "})",
    ]


def _jedis(remap: Remap) -> list[str]:
    first = next(iter(remap.values()))
    return [
        "Map<HostAndPort, HostAndPort> addresses = Map.ofEntries(",
        *_entries(remap, "new HostAndPort"),
        ");",
        "var config = DefaultJedisClientConfig.builder()",
        "    .hostAndPortMapper(where -> addresses.getOrDefault(where, where)).build();",
        f'var client = new JedisCluster(Set.of(new HostAndPort("{first.host}", {first.port})), config);',
    ]


def _lettuce(remap: Remap) -> list[str]:
    first = next(iter(remap.values()))
    return [
        "Map<HostAndPort, HostAndPort> addresses = Map.ofEntries(",
        *_entries(remap, "HostAndPort.of"),
        ");",
        "var resolver = MappingSocketAddressResolver.create(",
        "    DnsResolvers.UNRESOLVED, where -> addresses.getOrDefault(where, where));",
        "var resources = ClientResources.builder().socketAddressResolver(resolver).build();",
        f'var client = RedisClusterClient.create(resources, "redis://{first}");',
    ]


def _entries(remap: Remap, make: str) -> list[str]:
    pairs = [f'    Map.entry({make}("{a.host}", {a.port}), {make}("{b.host}", {b.port}))' for a, b in remap.items()]
    return [f"{pair}," for pair in pairs[:-1]] + pairs[-1:]


def _glide(remap: Remap) -> list[str]:
    first = next(iter(remap.values()))
    return [
        "# GLIDE for Python, 2.6 or newer",
        "from glide import GlideClusterClient, GlideClusterClientConfiguration, NodeAddress",
        *_python_table(remap),
        "client = await GlideClusterClient.create(GlideClusterClientConfiguration(",
        f'    [NodeAddress("{first.host}", {first.port})],',
        "    address_resolver=lambda host, port: ADDRESSES.get((host, port), (host, port)),",
        "))",
    ]


def _python_table(remap: Remap) -> list[str]:
    return ["ADDRESSES = {", *(f'    ("{a.host}", {a.port}): ("{b.host}", {b.port}),' for a, b in remap.items()), "}"]


_WRITERS: Mapping[Client, Callable[[Remap], list[str]]] = {
    "redis-py": _python("redis"),
    "valkey-py": _python("valkey"),
    "ioredis": _javascript("ioredis"),
    "iovalkey": _javascript("iovalkey"),
    "go-redis": _go,
    "jedis": _jedis,
    "lettuce": _lettuce,
    "glide": _glide,
}
