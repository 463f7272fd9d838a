"""What every operation works on: a cluster's name, where it runs, and how its nodes are reached."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from bootstrap.errors import UsageError
from bootstrap.formation.base import Connect, Connector, Credentials
from bootstrap.formation.clients import Clients, open_clients
from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.spec import DEFAULT_USER
from bootstrap.planning.text import listing
from bootstrap.runtimes.base import Record, Runtime


@dataclass(frozen=True, slots=True)
class Node:
    """A node's constants; its role changes with failovers and is asked for with `Cluster.status`."""

    name: str
    index: int
    host: str
    zone: str
    addresses: NodeAddresses


@dataclass(frozen=True, slots=True)
class Access:
    """How nodes are reached, and the login that clients made for the caller need, too."""

    connector: Connector
    credentials: Credentials = field(default_factory=Credentials, repr=False)

    @property
    def connect(self) -> Connect:
        """How a node is connected to, with this login."""
        return self.connector(self.credentials)

    @property
    def encryption(self) -> ssl.SSLContext | None:
        """How connections are encrypted; None in plain text."""
        found = self.credentials.encryption
        return found.context() if found else None

    def with_login(self, credentials: Credentials) -> Access:
        """The same for another login."""
        return replace(self, credentials=credentials)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A cluster that operations can work on.

    Args:
        name: its name.
        runtime: where its servers run; None for servers that somebody else runs.
        access: how nodes are reached.
        nodes: by index.
        user: whom clients log in as, None where there is no login or it is not known.
        password_file: where the user's password is kept, "" if nowhere.
        tls: connections to it are encrypted.
        ca_file: where the certificates that clients have to trust are kept, "" if nowhere.
    """

    name: str
    runtime: Runtime | None
    access: Access
    nodes: tuple[Node, ...]
    user: str | None = None
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""

    @property
    def addresses(self) -> Mapping[str, Address]:
        """How this package reaches each node."""
        return {node.name: node.addresses.control for node in self.nodes}

    @property
    def announced(self) -> Mapping[str, Address]:
        """Where clients are to be sent for each node, where that is known."""
        return {node.name: node.addresses.announced for node in self.nodes if node.addresses.announced}

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[Clients]:
        """Connections to all nodes for the block."""
        async with open_clients(self.access.connect, self.addresses) as clients:
            yield clients


def deployment_of(record: Record, runtime: Runtime, access: Access) -> Deployment:
    """The deployment of a recorded cluster."""
    nodes = tuple(Node(each.name, each.index, each.host, each.zone, each.addresses) for each in record.nodes)
    return Deployment(record.name, runtime, access, nodes)


def deployment_of_others(name: str, access: Access, nodes: tuple[Node, ...]) -> Deployment:
    """Servers that somebody else runs: of their login is known what was given."""
    login = access.credentials
    encryption = login.encryption
    return Deployment(
        name=name,
        runtime=None,
        access=access,
        nodes=nodes,
        user=None if login.password is None else login.username or DEFAULT_USER,
        password_file=login.password_file,
        tls=encryption is not None,
        ca_file=encryption.ca_file if encryption else "",
    )


ID_PREFIX = 4
"""The fewest characters of an id that stand for a node."""


def resolve_node(ref: str | int, nodes: Sequence[Node], ids: Mapping[str, str] | None = None) -> Node:
    """The node that a name, index, id prefix or host:port stands for.

    Args:
        ref: as a person gives it.
        nodes: the cluster's nodes.
        ids: node name -> node id, where they are known.

    Raises:
        UsageError: no node or several nodes fit, with the names that there are.
    """
    text = str(ref)
    # An index is never an id prefix: "3" is the fourth node, whatever ids begin with.
    is_index = text.isdecimal() and len(text) < 5
    for found in (
        [node for node in nodes if node.name == text],
        [
            node
            for node in nodes
            if text in (str(node.addresses.host), str(node.addresses.network), str(node.addresses.control))
        ],
        [node for node in nodes if is_index and node.index == int(text)],
        # Not by a digit or two: who removes node 9, which there is not, does not mean an id that begins with it.
        [
            node
            for node in nodes
            if len(text) >= ID_PREFIX and not is_index and (ids or {}).get(node.name, "").startswith(text.lower())
        ],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(
                f"{text!r} fits {listing([node.name for node in found])}",
                code="ambiguous-node",
                hint="give more of the id",
            )
    names = listing([node.name for node in nodes], 12)
    raise UsageError(f"no node {text!r}", code="no-such-node", hint=f"nodes: {names}")
