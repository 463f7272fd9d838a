"""The seam to where servers run: a few verbs and a lock, the same for processes and containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from bootstrap.events import Reporter
from bootstrap.judging.evidence import Contact, Server
from bootstrap.planning.addressing import Announcement, NodeAddresses
from bootstrap.planning.plan import Facts, Kept, Plan, PlannedNode, Seat, Underway
from bootstrap.planning.site import Site
from bootstrap.planning.slots import SlotRange
from bootstrap.planning.subnets import Network

if TYPE_CHECKING:
    import ssl

LOG_LINES = 200
"""How much of a server's log is evidence (`Runtime.inspect`)."""

Action = Literal["stop", "kill", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node of ours, from labels or folders: constants, and whether its server runs now.

    Args:
        name: its name.
        index: the number in its name and of its fixed address.
        host: its declared failure domain.
        zone: its zone, "" if unknown.
        addresses: where it is reached.
        running: its server runs, as far as can be told without asking it.
        detail: its process or container.
        primary: the name of the primary that it was planned to follow; None for a primary, and where older versions
            made the record.
        slots: the ranges that it was planned to have; none for a replica.
    """

    name: str
    index: int
    host: str
    zone: str
    addresses: NodeAddresses
    running: bool = False
    detail: str = ""
    primary: str | None = None
    slots: tuple[SlotRange, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """One cluster of ours: identity and constants only; its shape is asked from the servers.

    Args:
        name: the cluster's name.
        runtime: the kind of runtime that keeps it.
        spec: the specification's fields as it was created, for comparing; where members were changed since, with counts
            that are true of them: their number, and no more replicas than each primary has.
        base_port: the first data port of the block that it was created with.
        nodes: its nodes by index.
        created_at: ISO 8601, UTC.
        server: what it runs, such as ``valkey 9.1.2``.
        server_path: the binary or image that it was created with.
        folder: where its state is, "" if nowhere on this machine.
        owner: process id of the creator and its start time, for finding orphans.
        orphan: it says of itself that it belongs to a process, and that process is gone.
        announcement: how its containers announce themselves.
        network: the network that they are on.
        seated: members were changed since it was created: what they are is recorded by node.
        underway: a change that has begun, and did not come to its end.
    """

    name: str
    runtime: str
    spec: Mapping[str, Any]
    base_port: int
    nodes: tuple[NodeRecord, ...]
    created_at: str
    server: str
    server_path: str = ""
    folder: str = ""
    owner: Mapping[str, Any] = field(default_factory=dict)
    orphan: bool = False
    announcement: Announcement | None = None
    network: Network | None = None
    seated: bool = False
    underway: Underway | None = None

    @property
    def kept(self) -> Kept:
        """What it keeps when it is planned again."""
        seats = tuple(
            Seat(node.index, node.addresses.control.port, node.host, node.zone, node.primary, node.slots)
            for node in self.nodes
        )
        return Kept(self.base_port, self.announcement, self.network, seats if self.seated else ())

    @property
    def running(self) -> int:
        """How many of its servers run."""
        return sum(node.running for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Secret files of a cluster.

    Args:
        folder: where they are, for commands that read them; "" where that is no folder.
        files: their contents by name; empty where nothing is kept, or somebody else keeps it.
    """

    folder: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


Ask: TypeAlias = "ssl.SSLContext | Literal['plain'] | None"
"""How a server is asked who it is: in TLS, plainly, or not."""


class Vantage(Protocol):
    """A place to dial from.

    Args:
        name: the place, for people.
        node: the node whose place it is, "" for a place of no node.
        beside: it sees the network as the servers do; otherwise as clients do.
        slow: a dial takes so long that only those are made that are likely to show something.
    """

    name: str
    node: str
    beside: bool
    slow: bool

    async def dial(self, host: str, port: int, *, timeout: float, ask: Ask = None) -> Contact:
        """Try to open a TCP connection; never raises for what the network does.

        Args:
            host: a name is resolved as it is at that place.
            port: TCP.
            timeout: seconds for connecting, and again for the answer.
            ask: the server there is asked for its node id, ``"plain"`` or in TLS.
        """


class Runtime(Protocol):
    """Where servers run. All methods but `vantages` may raise `RuntimeUnavailable`."""

    kind: str

    async def fetch(self, record: Record | None, reporter: Reporter) -> None:
        """Get what servers are started from, if it is not here yet; told as a phase only where something is fetched.

        Raises:
            RuntimeUnavailable: it cannot be had.
        """

    async def survey(self, record: Record | None = None, *, names: Collection[str] = ()) -> Site:
        """Look at the machine, for a new cluster or for an existing one, which keeps its server.

        Args:
            record: the existing cluster.
            names: host names to look up as this machine does.

        Raises:
            RuntimeUnavailable: nothing can be started here, with the reason.
        """

    async def inventory(self, name: str | None = None) -> Sequence[Record]:
        """The clusters of ours, or the one of this name; running or stopped, half made ones included."""

    def claim(self, name: str) -> AbstractAsyncContextManager[None]:
        """Hold the name against other commands; raises `Conflict` at once if one of them has it."""

    async def prepare(self, plan: Plan) -> Facts:
        """Make what the nodes need and record the cluster; idempotent.

        Raises:
            Taken: a port or a subnet of the plan was taken since the survey.
            Conflict: something of that name is not ours, or another command makes this cluster.
        """

    async def amend(self, plan: Plan) -> None:
        """Record a cluster that exists anew: its nodes are those of the plan from now on; nothing starts or goes.

        When it was made, by whom and with which block of ports stays recorded. It may be repeated, and a kill leaves
        the old record or the new one.

        Raises:
            PortTaken: a port of a node that is new is taken.
            Conflict: something of a node's name is not ours.
            RuntimeUnavailable: no such cluster is recorded.
        """

    async def start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        """Create, adopt or restart a node of the named cluster; configuration and secrets arrive as files."""

    async def put(self, name: str, node: str, files: Mapping[str, bytes]) -> None:
        """Replace files beside the configuration of a started node; its server reads them when it is told to."""

    async def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """Keep secret files of a prepared cluster where only the user can read them, until it is removed."""

    async def kept(self, name: str) -> Secrets:
        """What is kept of a cluster; nothing where another user or another machine keeps it."""

    async def control(self, name: str, node: str, action: Action) -> None:
        """Stop, kill, pause or resume a node."""

    async def logs(self, name: str, node: str, *, tail: int | None = None) -> str:
        """The node's log, or its last lines."""

    def follow(self, name: str, node: str, *, tail: int | None = 0) -> AsyncIterator[str]:
        """The last lines of the node's log (None: all of it) and whatever is written from then on, piece by piece.

        Nothing is left out in between; it ends when the node is removed, or when the caller stops.
        """

    async def remove(self, name: str, nodes: Collection[str] | None = None) -> Sequence[str]:
        """Remove a cluster, or some of its nodes; returns what is left, in words."""

    async def inspect(self, name: str) -> Mapping[str, Server]:
        """What can be said of each server of a cluster without asking it, by node name."""

    def vantages(self, record: Record) -> Sequence[Vantage]:
        """The places to dial from: this machine, and the nodes' own, as far as they can be entered from here."""
