"""The seam to where servers run: eight verbs and a lock, the same for processes and containers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import anyio

from bootstrap.events import Reporter
from bootstrap.judging.causes import Outcome
from bootstrap.planning.addressing import Announcement, NodeAddresses
from bootstrap.planning.plan import Facts, Kept, Plan, PlannedNode
from bootstrap.planning.site import Site
from bootstrap.planning.subnets import Network

Action = Literal["stop", "kill", "pause", "resume"]


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node of ours, from labels or folders: constants, and whether its server runs now."""

    name: str
    index: int
    host: str
    zone: str
    addresses: NodeAddresses
    running: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One cluster of ours: identity and constants only; its shape is asked from the servers.

    Args:
        name: the cluster's name.
        runtime: the kind of runtime that keeps it.
        spec: the specification's fields as it was created, for comparing.
        base_port: its first data port.
        nodes: its nodes by index.
        created_at: ISO 8601, UTC.
        server: what it runs, such as ``valkey 9.1.2``.
        server_path: the binary or image that it was created with.
        folder: where its state is, "" if nowhere on this machine.
        owner: process id of the creator and its start time, for finding orphans.
        orphan: it says of itself that it belongs to a process, and that process is gone.
        announcement: how its containers announce themselves.
        network: the network that they are on.
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

    @property
    def kept(self) -> Kept:
        """What it keeps when it is planned again."""
        return Kept(self.base_port, self.announcement, self.network)

    @property
    def running(self) -> int:
        """How many of its servers run."""
        return sum(node.running for node in self.nodes)


class Vantage(Protocol):
    """A place to dial from."""

    name: str

    async def dial(self, host: str, port: int, *, timeout: float) -> Outcome:
        """Try to open a TCP connection; never raises for what the network does."""


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

    async def start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        """Create, adopt or restart a node of the named cluster; configuration and secrets arrive as files."""

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

    def vantages(self, record: Record) -> Sequence[Vantage]:
        """The places to dial from."""


class LocalVantage:
    """This machine, as the bootstrapper sees it."""

    name = "this machine"

    async def dial(self, host: str, port: int, *, timeout: float) -> Outcome:
        """See `Vantage.dial`."""
        try:
            with anyio.fail_after(timeout):
                stream = await anyio.connect_tcp(host, port)
        except TimeoutError:
            return "silent"
        except ConnectionRefusedError:
            return "refused"
        except OSError as error:
            return _outcome(error)
        await stream.aclose()
        return "open"


def _outcome(error: OSError) -> Outcome:
    # anyio raises a plain OSError for several addresses, caused by each one's own error.
    causes = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else (error.__cause__ or error,)
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "refused"
    if any(isinstance(cause, OSError) and cause.errno is not None and cause.errno < 0 for cause in causes):
        return "unresolvable"
    return "unreachable"
