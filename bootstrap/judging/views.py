"""What one node says about itself and about the others, parsed from its replies.

The parsers are pure and read text that comes from outside: anything that is not in the documented form is a
`ValueError` with the offending part, never an index or key error.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from bootstrap.planning.addressing import Address
from bootstrap.planning.site import Version
from bootstrap.planning.slots import SLOTS, SlotRange


@dataclass(frozen=True, slots=True)
class Peer:
    """One line of CLUSTER NODES.

    Args:
        id: the node's id; a random one while in handshake.
        address: the address that is known, host "" if none.
        bus_port: the cluster bus at that host.
        hostname: the announced name, if any.
        flags: as the server writes them (``master``, ``slave``, ``myself``, ``fail?``, ``fail``, ``handshake`` ...).
        primary: id of the primary it replicates, None for a primary.
        connected: whether the link to it is up; always true for the node itself.
        epoch: its config epoch (a replica's is its primary's).
        slots: the ranges it serves.
        open_slots: slots being migrated or imported, as written; only a node's own line has them.
    """

    id: str
    address: Address
    bus_port: int
    hostname: str
    flags: frozenset[str]
    primary: str | None
    connected: bool
    epoch: int
    slots: tuple[SlotRange, ...] = ()
    open_slots: tuple[str, ...] = ()

    @property
    def role(self) -> Literal["primary", "replica"]:
        """Its role; Valkey still writes ``master`` and ``slave`` here."""
        return "replica" if "slave" in self.flags else "primary"

    @property
    def handshake(self) -> bool:
        """Known by address only: its real id has not come yet."""
        return "handshake" in self.flags

    @property
    def faults(self) -> tuple[str, ...]:
        """Flags that a healthy node does not have, in the server's words."""
        return tuple(flag for flag in ("fail?", "fail", "noaddr") if flag in self.flags)


@dataclass(frozen=True, slots=True)
class NodeView:
    """Everything that one node said in one round trip.

    Args:
        id: its own node id, "" when not in cluster mode.
        flavor, version: the server it is.
        cluster_mode: whether cluster mode is on.
        state: ``cluster_state``: ``ok`` or ``fail``.
        epoch: its own config epoch, 0 if it was never given one.
        peers: by id, itself included.
        link: replication link of a replica, ``up`` or ``down``; "" for a primary.
        offset: its replication offset.
        listed: where its CLUSTER SLOTS sends clients, by node id (host "" for "as you came"); a replica is hidden
            there until gossip brought a replication offset from it.
        keys: database -> number of keys, empty databases left out.
        functions: names of the function libraries.
        zone: its ``availability_zone``, "" if unknown.
    """

    id: str
    flavor: Literal["valkey", "redis"]
    version: Version
    cluster_mode: bool = True
    state: str = "fail"
    epoch: int = 0
    peers: Mapping[str, Peer] = field(default_factory=dict)
    link: str = ""
    offset: int = 0
    listed: Mapping[str, Address] = field(default_factory=dict)
    keys: Mapping[str, int] = field(default_factory=dict)
    functions: tuple[str, ...] = ()
    zone: str = ""

    @property
    def myself(self) -> Peer:
        """Its own line of CLUSTER NODES."""
        return self.peers[self.id]

    @property
    def blank(self) -> bool:
        """Whether it knows nobody (handshakes count), owns nothing and follows nobody."""
        return len(self.peers) == 1 and not self.myself.slots and self.myself.role == "primary"


SilentCode = Literal[
    "unreachable", "no-answer", "login", "forbidden", "protected", "full", "busy", "garbage", "tls", "certificate"
]


@dataclass(frozen=True, slots=True)
class Silent:
    """A node that could not be asked, and why.

    Args:
        reason: in words.
        code: for programs: no connection, a connection without an answer, a refused login, a command that the user may
            not run, protected mode, no room for another client, another error, a reply that cannot be read.
    """

    reason: str
    code: SilentCode = "unreachable"


View = NodeView | Silent
Views = Mapping[str, View]


def seen(views: Views) -> dict[str, NodeView]:
    """The nodes that answered and are in cluster mode."""
    return {name: view for name, view in views.items() if isinstance(view, NodeView) and view.cluster_mode}


def parse_info(text: str) -> dict[str, str]:
    """The fields of INFO or CLUSTER INFO, sections flattened."""
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line and not line.startswith("#"))
    return {key: value.strip() for key, _, value in pairs}


def parse_version(text: str) -> Version:
    """``9.1.2`` as numbers; missing parts are 0, suffixes (``-rc1``) are dropped."""
    numbers = [
        int("".join(char for char in part if char in "0123456789")[:9] or 0)
        for part in text.split("-", maxsplit=1)[0].split(".")[:3]
    ]
    numbers += [0] * (3 - len(numbers))
    return (numbers[0], numbers[1], numbers[2])


def parse_nodes(text: str) -> dict[str, Peer]:
    """CLUSTER NODES, by id.

    Raises:
        ValueError: a line that is not in the documented form.
    """
    peers = [_parse_peer(line) for line in text.splitlines() if line.strip()]
    return {peer.id: peer for peer in peers}


def _parse_peer(line: str) -> Peer:
    parts = line.split()
    if len(parts) < 8:
        raise ValueError(f"CLUSTER NODES line with {len(parts)} fields: {line[:120]!r}")
    # Without the times of ping and pong, all nodes of a settled cluster write the same line about a node.
    return _make_peer((*parts[:4], *parts[6:]))


@lru_cache(maxsize=4096)
def _make_peer(fields: tuple[str, ...]) -> Peer:
    """Of equal lines one object: there are as many lines as the square of the nodes."""
    node_id, where, flags, primary, epoch, link, *owned = fields
    location, _, extra = where.partition(",")
    address, _, bus = location.partition("@")
    host, _, port = address.rpartition(":")
    ranges = [_parse_range(item) for item in owned if not item.startswith("[")]
    return Peer(
        id=node_id,
        address=_address(host.strip("[]"), int(port)),
        bus_port=int(bus or 0),
        hostname=extra.split(",")[0] if "=" not in extra.split(",")[0] else "",
        flags=frozenset(flags.split(",")),
        primary=None if primary == "-" else primary,
        connected=link == "connected",
        epoch=int(epoch),
        slots=tuple(ranges),
        open_slots=tuple(item for item in owned if item.startswith("[")),
    )


@lru_cache(maxsize=4096)
def _address(host: str, port: int) -> Address:
    return Address(host, port)


def _parse_range(text: str) -> SlotRange:
    first, _, last = text.partition("-")
    bounds = int(first), int(last or first)
    if not 0 <= bounds[0] <= bounds[1] < SLOTS:
        # Never expanded: a range of 10**12 slots would take all memory.
        raise ValueError(f"no slots: {text[:40]!r}")
    return bounds


def parse_listed(reply: object) -> dict[str, Address]:
    """The nodes of a CLUSTER SLOTS reply, by id: ``[[first, last, [host, port, id, ...], ...], ...]``.

    Raises:
        ValueError: a reply of another shape.
    """
    if not isinstance(reply, list):
        raise ValueError(f"CLUSTER SLOTS gave {type(reply).__name__}")
    found: dict[str, Address] = {}
    for entry in reply:
        if not isinstance(entry, list) or len(entry) < 3:
            raise ValueError(f"CLUSTER SLOTS entry {str(entry)[:80]!r}")
        for node in entry[2:]:
            if not isinstance(node, list) or len(node) < 3 or not isinstance(node[1], int):
                raise ValueError(f"CLUSTER SLOTS node {str(node)[:80]!r}")
            # No host, or "?", means: the address that you used for this connection.
            host = str(node[0] or "")
            # One text for each id: there are as many as the square of the nodes.
            found[sys.intern(str(node[2]))] = _address("" if host == "?" else host, int(node[1]))
    return found


def parse_functions(reply: object) -> tuple[str, ...]:
    """Library names of a FUNCTION LIST reply, which is a list of flat name-value lists or of maps."""
    names = []
    for library in reply if isinstance(reply, list) else []:
        table = library if isinstance(library, dict) else _pairs(library)
        names.append(str(table.get("library_name", "?")))
    return tuple(names)


def _pairs(flat: object) -> dict[str, object]:
    items = list(flat) if isinstance(flat, list) else []
    return {str(key): value for key, value in zip(items[::2], items[1::2], strict=False)}


def make_view(
    info: Mapping[str, str], cluster: Mapping[str, str], nodes: str, slots: object, libraries: object
) -> NodeView:
    """Put the replies of one round trip together.

    Args:
        info: INFO's fields (server, replication, keyspace, cluster).
        cluster: CLUSTER INFO's fields.
        nodes: CLUSTER NODES.
        slots: CLUSTER SLOTS.
        libraries: FUNCTION LIST.

    Raises:
        ValueError: replies that contradict the documented form.
    """
    peers = parse_nodes(nodes)
    own = [peer.id for peer in peers.values() if "myself" in peer.flags]
    if len(own) != 1:
        raise ValueError(f"CLUSTER NODES has {len(own)} lines flagged myself")
    offset = info.get("slave_repl_offset") if info.get("role") == "slave" else info.get("master_repl_offset")
    return NodeView(
        id=own[0],
        flavor=flavor_of(info),
        version=version_of(info),
        state=cluster.get("cluster_state", "fail"),
        epoch=int(cluster.get("cluster_my_epoch", 0)),
        peers=peers,
        link=info.get("master_link_status", "") if info.get("role") == "slave" else "",
        offset=int(offset or 0),
        listed=parse_listed(slots),
        keys=dict(_keyspace(info)),
        functions=parse_functions(libraries),
        zone=info.get("availability_zone", ""),
    )


def flavor_of(info: Mapping[str, str]) -> Literal["valkey", "redis"]:
    """Which server: Valkey names itself in ``server_name`` and keeps ``redis_version`` for old clients."""
    return "valkey" if info.get("server_name") == "valkey" or "valkey_version" in info else "redis"


def version_of(info: Mapping[str, str]) -> Version:
    """The server's own version."""
    return parse_version(info.get("valkey_version") or info.get("redis_version") or "0")


def _keyspace(info: Mapping[str, str]) -> Iterable[tuple[str, int]]:
    for name, value in info.items():
        if name.startswith("db") and name[2:].isdigit() and value.startswith("keys="):
            yield name, int(value.split(",")[0].removeprefix("keys="))
