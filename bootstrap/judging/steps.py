"""What to do next, decided from the target and from what every node says now.

`next_steps` only adds: it gives slots that nobody owns, introduces nodes, makes blank nodes replicas and forgets dead
ids. It never takes a slot, a role or a key from a node, so running it again after an interruption, at any point, is
safe; reality that already differs from the plan (a failover, a reshard) is left as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bootstrap.judging.views import NodeView, Views, seen
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import PlannedNode
from bootstrap.planning.slots import SlotRange, expand, merge
from bootstrap.planning.spec import BUS_OFFSET

Command = tuple[str, ...]

MESH_UP_TO = 48
"""Up to this many nodes every node meets every other: the handshakes then need no gossip. Above, the cost of the
square is felt and the first nodes introduce all others."""

HUBS = 2
"""How many nodes introduce all the others in a larger cluster."""


@dataclass(frozen=True, slots=True)
class SetEpoch:
    """Give a node its config epoch, possible only while it knows nobody (`CLUSTER SET-CONFIG-EPOCH`)."""

    node: str
    epoch: int

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "SET-CONFIG-EPOCH", str(self.epoch))


@dataclass(frozen=True, slots=True)
class AddSlots:
    """Give a primary slots that nobody owns (`CLUSTER ADDSLOTSRANGE`, all or nothing)."""

    node: str
    slots: tuple[SlotRange, ...]

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "ADDSLOTSRANGE", *(str(bound) for pair in self.slots for bound in pair))


@dataclass(frozen=True, slots=True)
class Meet:
    """Introduce `peer` to `node`, at an IP literal (`CLUSTER MEET`)."""

    node: str
    peer: str
    address: Address
    bus_port: int

    @property
    def command(self) -> Command:
        """The command that the node is sent; the bus port only where it is not the usual one."""
        bus = () if self.bus_port == self.address.port + BUS_OFFSET else (str(self.bus_port),)
        return ("CLUSTER", "MEET", self.address.host, str(self.address.port), *bus)


@dataclass(frozen=True, slots=True)
class Replicate:
    """Make a blank node a replica of a primary that it knows (`CLUSTER REPLICATE`)."""

    node: str
    primary: str
    primary_id: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "REPLICATE", self.primary_id)


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop a dead id that owns nothing (`CLUSTER FORGET`, banned for 60 s)."""

    node: str
    lost_id: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "FORGET", self.lost_id)


Step = SetEpoch | AddSlots | Meet | Replicate | Forget


def next_steps(target: Sequence[PlannedNode], views: Views) -> tuple[Step, ...]:
    """The steps that can be taken now, those of one node in order; empty when there is nothing to do or to wait for.

    Steps of different nodes are independent: they may run at once.
    """
    nodes = seen(views)
    if len(nodes) < len(target):
        # A node that cannot be seen cannot be judged: an epoch or a slot might be given twice.
        return ()
    ids = {name: view.id for name, view in nodes.items()}
    first: tuple[Step, ...] = (*_epochs(target, nodes), *_slots(target, nodes))
    if any(isinstance(step, SetEpoch) for step in first):
        # No node may be met before it has its epoch: the command is refused from then on.
        return first
    return (
        *first,
        *_meetings(target, nodes, ids),
        *_replications(target, nodes, ids),
        *_forgettings(target, nodes, set(ids.values())),
    )


def _epochs(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView]) -> Iterator[SetEpoch]:
    # Of members only: beside the epoch of a lost one, its successor would be given a higher one than it may have.
    members = {view.id for view in nodes.values()}
    used = {peer.epoch for view in nodes.values() for peer in view.peers.values() if peer.id in members}
    for node in target:
        view = nodes[node.name]
        if view.epoch == 0 and len(view.peers) == 1:
            # A newcomer to a running cluster may find its planned epoch in use; a low one is right for it (see plan).
            epoch = node.epoch if node.epoch not in used else next(n for n in range(1, len(used) + 2) if n not in used)
            used.add(epoch)
            yield SetEpoch(node.name, epoch)


def _slots(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView]) -> Iterator[AddSlots]:
    # Claims of dead nodes count as owners too: their slots are not free, their data may come back.
    # Distinct ranges first: every node says the same, and there are as many of them as nodes.
    owned = expand({pair for view in nodes.values() for peer in view.peers.values() for pair in peer.slots})
    for node in target:
        free = expand(node.slots) - owned
        if free and nodes[node.name].myself.role == "primary":
            yield AddSlots(node.name, merge(free))


def _meetings(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], ids: Mapping[str, str]) -> Iterator[Meet]:
    hubs = len(target) if len(target) <= MESH_UP_TO else HUBS
    for index, node in enumerate(target[:hubs]):
        known = nodes[node.name].peers
        settled = {peer.id for peer in known.values() if not peer.handshake}
        # A handshake entry dies by itself after the node timeout; until then the meeting is under way.
        pending = {(peer.address.port, peer.bus_port) for peer in known.values() if peer.handshake}
        for peer in target[index + 1 :]:
            where = peer.addresses
            if ids[peer.name] not in settled and (where.meet.port, where.bus_port) not in pending:
                yield Meet(node.name, peer.name, where.meet, where.bus_port)


def _replications(
    target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], ids: Mapping[str, str]
) -> Iterator[Replicate]:
    for node in target:
        view = nodes[node.name]
        if view.myself.slots or (view.myself.role == "replica" and not _orphaned(view, ids)):
            continue
        leader = _leader(node, target, nodes)
        peer = view.peers.get(ids[leader]) if leader and leader != node.name else None
        if leader and peer is not None and not peer.handshake and peer.role == "primary":
            yield Replicate(node.name, leader, ids[leader])


def _orphaned(view: NodeView, ids: Mapping[str, str]) -> bool:
    """Whether a replica follows a lost id that owns nothing: nobody can ever be promoted for it."""
    primary = view.peers.get(view.myself.primary or "")
    return primary is not None and primary.id not in ids.values() and bool(primary.faults) and not primary.slots


def _leader(node: PlannedNode, target: Sequence[PlannedNode], nodes: Mapping[str, NodeView]) -> str | None:
    """Who serves the shard that a blank node belongs to: the planned primary, or whoever took its slots over."""
    home = node if node.primary is None else next(each for each in target if each.name == node.primary)
    wanted = expand(home.slots)
    for name, view in nodes.items():
        if name != node.name and not wanted.isdisjoint(expand(view.myself.slots)):
            return name
    return None if node.primary is None else node.primary


def _forgettings(
    target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], members: Collection[str]
) -> Iterator[Forget]:
    ports = {node.addresses.meet.port for node in target} | {node.addresses.host.port for node in target}
    for name, view in nodes.items():
        for peer in view.peers.values():
            dead = "fail" in peer.flags or "noaddr" in peer.flags
            # Only what was one of ours: it has no address any more, or a port that a node of ours has now.
            ours = "noaddr" in peer.flags or peer.address.port in ports
            # A replica cannot forget its primary before it has another one.
            needed = peer.id == view.myself.primary or peer.slots or peer.handshake
            if peer.id not in members and dead and ours and not needed:
                yield Forget(name, peer.id)
