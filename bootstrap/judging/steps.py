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

MESH_UP_TO = 100
"""Up to this many nodes every node meets every other: none has to wait until gossip tells it of another one. Above,
most of those meetings would cross what gossip tells meanwhile, and servers are busy with handshakes made twice."""

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
    """Introduce `peer` to `node`, at an IP literal (`CLUSTER MEET`).

    ``again`` is set where the peer knows the node already, and not the other way round: see `confirmed`.
    """

    node: str
    peer: str
    address: Address
    bus_port: int
    again: bool = False

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
class Failover:
    """Let a replica take over from its primary, which waits for it (`CLUSTER FAILOVER`)."""

    node: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "FAILOVER")


@dataclass(frozen=True, slots=True)
class Renew:
    """Make a replica a blank node with another id, which knows nobody (`CLUSTER RESET HARD`)."""

    node: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "RESET", "HARD")


@dataclass(frozen=True, slots=True)
class Bump:
    """Give a primary the highest config epoch that there is (`CLUSTER BUMPEPOCH`).

    A node that was known as a primary of a higher epoch than the one that it is to follow would not be believed: see
    "Config epochs: the trap" in docs/architecture.md.
    """

    node: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "BUMPEPOCH")


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop an id, of a node that is lost or leaves (`CLUSTER FORGET`, banned for 60 s)."""

    node: str
    lost_id: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("CLUSTER", "FORGET", self.lost_id)


@dataclass(frozen=True, slots=True)
class FirstWrite:
    """Let a blank primary write something that changes nothing, so that its replication offset is not 0.

    While it is, its replicas stay out of CLUSTER SLOTS (`isReplicaAvailable`). No key can be written before the cluster
    is ok; what is flushed here are the functions of a server that has none. It counts where the append-only file is on.
    """

    node: str

    @property
    def command(self) -> Command:
        """The command that the node is sent."""
        return ("FUNCTION", "FLUSH")


@dataclass(frozen=True, slots=True)
class Nudge:
    """Move a primary's replication offset away from 0 when it has replicas: see `FirstWrite`.

    `WAIT` for more replicas than there are asks them for an acknowledgement (`replicationRequestAckFromReplicas`), and
    the question is part of the replication stream. No key is touched.
    """

    node: str

    @property
    def command(self) -> Command:
        """The command that the node is sent; it answers after a millisecond."""
        return ("WAIT", "1000", "1")


Step = SetEpoch | FirstWrite | AddSlots | Meet | Replicate | Failover | Renew | Bump | Forget | Nudge


def next_steps(target: Sequence[PlannedNode], views: Views) -> tuple[Step, ...]:
    """The steps that can be taken now, those of one node in order; empty when there is nothing to do or to wait for.

    Steps of different nodes are independent: they may run at once.
    """
    nodes = seen(views)
    if len(nodes) < len(target):
        # A node that cannot be seen cannot be judged: an epoch or a slot might be given twice.
        return ()
    ids = {name: view.id for name, view in nodes.items()}
    slots = tuple(_slots(target, nodes))
    first: tuple[Step, ...] = (*epochs(target, nodes), *_first_writes(target, nodes, slots), *slots)
    if any(isinstance(step, SetEpoch) for step in first):
        # No node may be met before it has its epoch: the command is refused from then on.
        return first
    return (
        *first,
        *meetings(target, nodes, ids),
        *_replications(target, nodes, ids),
        *forgettings(target, nodes, set(ids.values())),
        *nudges(nodes),
    )


def arrival_steps(node: PlannedNode) -> tuple[Step, ...]:
    """What a node of a cluster that was just made can be told as soon as it answers, whoever else does not yet.

    Its plan is all there is to know of it: nobody else was told the same epoch or slots.
    """
    steps: list[Step] = [SetEpoch(node.name, node.epoch)]
    if node.slots:
        steps += [FirstWrite(node.name)] if _keeps_log(node) else []
        steps.append(AddSlots(node.name, node.slots))
    return tuple(steps)


def introductions(node: PlannedNode, earlier: Sequence[PlannedNode], target: Sequence[PlannedNode]) -> tuple[Meet, ...]:
    """How a node meets those that took their `arrival_steps` before it did."""
    hubs = {hub.name for hub in _hubs(target)}
    return tuple(_meet(node, other) for other in earlier if node.name in hubs or other.name in hubs)


def confirmed(steps: Sequence[Step], doubtful: Collection[Step]) -> tuple[tuple[Step, ...], frozenset[Step]]:
    """The steps to run, and those that the next look has to call for, too.

    Nodes are asked one after the other, so a meeting under way can look like one that only one side knows of. Repeating
    it then would do harm: a node that is met by one that it knows makes its link to it anew.

    Args:
        steps: what the last look calls for.
        doubtful: what the look before it left to be called for again.
    """
    waiting = frozenset(step for step in steps if isinstance(step, Meet) and step.again)
    return tuple(step for step in steps if step not in waiting or step in doubtful), waiting


def epochs(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView]) -> Iterator[SetEpoch]:
    """An epoch of its own for every node that was never given one."""
    # Of members only: beside the epoch of a lost one, its successor would be given a higher one than it may have.
    blank = [node for node in target if nodes[node.name].epoch == 0 and len(nodes[node.name].peers) == 1]
    if not blank:
        return
    members = {view.id for view in nodes.values()}
    used = {peer.epoch for view in nodes.values() for peer in view.peers.values() if peer.id in members}
    for node in blank:
        # A newcomer to a running cluster may find its planned epoch in use; a low one is right for it (see plan).
        epoch = node.epoch if node.epoch not in used else next(n for n in range(1, len(used) + 2) if n not in used)
        used.add(epoch)
        yield SetEpoch(node.name, epoch)


def _first_writes(
    target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], slots: Sequence[AddSlots]
) -> Iterator[FirstWrite]:
    owners = {step.node for step in slots}
    for node in target:
        view = nodes[node.name]
        # Not on servers of others: whether it counts there is not known, and nothing of theirs is touched.
        counts = node.name in owners and _keeps_log(node)
        if counts and view.blank and not (view.epoch or view.offset or view.keys or view.functions):
            yield FirstWrite(node.name)


def _keeps_log(node: PlannedNode) -> bool:
    return node.setting("appendonly", "no") == "yes"


def _slots(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView]) -> Iterator[AddSlots]:
    # Claims of dead nodes count as owners too: their slots are not free, their data may come back.
    # Distinct ranges first: every node says the same, and there are as many of them as nodes.
    owned = expand({pair for view in nodes.values() for peer in view.peers.values() for pair in peer.slots})
    for node in target:
        free = expand(node.slots) - owned
        if free and nodes[node.name].myself.role == "primary":
            yield AddSlots(node.name, merge(free))


def meetings(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], ids: Mapping[str, str]) -> Iterator[Meet]:
    """Introduce whoever does not know another one, of all nodes or, in a large cluster, of its hubs."""
    settled = {name: {peer.id for peer in view.peers.values() if not peer.handshake} for name, view in nodes.items()}
    # A handshake entry dies by itself after the node timeout; until then the meeting is under way.
    pending = {
        name: {(peer.address.port, peer.bus_port) for peer in view.peers.values() if peer.handshake}
        for name, view in nodes.items()
    }

    def strange(one: PlannedNode, other: PlannedNode) -> bool:
        where = other.addresses
        met = (where.meet.port, where.bus_port) in pending[one.name]
        return not met and ids[other.name] not in settled[one.name]

    for index, hub in enumerate(_hubs(target)):
        for peer in target[index + 1 :]:
            # Where one knows the other, and pings in vain, a MEET was lost on its way, or is still under way.
            if strange(hub, peer):
                yield _meet(hub, peer, again=ids[hub.name] in settled[peer.name])
            elif ids[peer.name] in settled[hub.name] and strange(peer, hub):
                yield _meet(peer, hub, again=True)


def _hubs(target: Sequence[PlannedNode]) -> Sequence[PlannedNode]:
    return target if len(target) <= MESH_UP_TO else target[:HUBS]


def _meet(node: PlannedNode, peer: PlannedNode, *, again: bool = False) -> Meet:
    return Meet(node.name, peer.name, peer.addresses.meet, peer.addresses.bus_port, again)


def _replications(
    target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], ids: Mapping[str, str]
) -> Iterator[Replicate]:
    idle = [
        node
        for node in target
        if not nodes[node.name].myself.slots
        and (nodes[node.name].myself.role == "primary" or _orphaned(nodes[node.name], ids))
    ]
    if not idle:
        return
    planned = {node.name: node for node in target}
    serving = {slot: name for name, view in nodes.items() for slot in expand(view.myself.slots)}
    for node in idle:
        # The shard that it belongs to: the planned primary's, or of whoever took its slots over.
        home = planned[node.primary or node.name]
        taken_over = {serving[slot] for slot in expand(home.slots) if slot in serving}
        leader = next((name for name in nodes if name in taken_over), node.primary)
        peer = nodes[node.name].peers.get(ids[leader]) if leader else None
        if leader and peer is not None and not peer.handshake and peer.role == "primary":
            yield Replicate(node.name, leader, ids[leader])


def _orphaned(view: NodeView, ids: Mapping[str, str]) -> bool:
    """Whether a replica follows a lost id that owns nothing: nobody can ever be promoted for it."""
    primary = view.peers.get(view.myself.primary or "")
    return primary is not None and primary.id not in ids.values() and bool(primary.faults) and not primary.slots


def forgettings(
    target: Sequence[PlannedNode], nodes: Mapping[str, NodeView], members: Collection[str]
) -> Iterator[Forget]:
    """Drop the ids that nodes of ours had before they lost their data, once nothing needs them."""
    ports = {node.addresses.meet.port for node in target} | {node.addresses.host.port for node in target}
    for name, view in nodes.items():
        for peer in view.peers.values():
            if peer.id in members:
                continue
            dead = "fail" in peer.flags or "noaddr" in peer.flags
            # Only what was one of ours: it has no address any more, or a port that a node of ours has now.
            ours = "noaddr" in peer.flags or peer.address.port in ports
            # A replica cannot forget its primary before it has another one.
            needed = peer.id == view.myself.primary or peer.slots or peer.handshake
            if dead and ours and not needed:
                yield Forget(name, peer.id)


def nudges(nodes: Mapping[str, NodeView]) -> Iterator[Nudge]:
    """Move the replication offset of primaries that never wrote: their replicas are hidden meanwhile."""
    followed = {view.myself.primary for view in nodes.values() if view.link == "up"}
    for name, view in nodes.items():
        if view.offset == 0 and view.id in followed and view.myself.role == "primary":
            yield Nudge(name)
