"""A model of cluster servers at the level of views: their commands with their preconditions, and gossip.

Gossip is instant unless it is held back, and no time passes: what takes servers seconds happens at the next
look. The dry run plays the steps against this model, tests start the loop from every state it can be in, and
`bootstrap.testing` puts the servers' commands in front of it. Nothing here does I/O or is random.

Modelled on purpose is the trap that the plan's epochs avoid: a peer ignores what a node says of itself with a
lower config epoch than the one it stored (`clusterProcessPacket` in cluster_legacy.c), and nodes that meet
with equal epochs bump them (`clusterHandleConfigEpochCollision`). Servers fall into it only when messages
arrive in an unlucky order; the model always does, so that rules that depend on luck fail here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha1

from bootstrap.judging.agreement import Agreement, DoubtKind, agree, conforms
from bootstrap.judging.steps import (
    AddSlots,
    Bump,
    Failover,
    FirstWrite,
    Forget,
    Meet,
    Nudge,
    Renew,
    Replicate,
    SetEpoch,
    Step,
    next_steps,
)
from bootstrap.judging.views import NodeView, Peer, Silent, View, Views
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import Plan, PlannedNode
from bootstrap.planning.site import ServerInfo
from bootstrap.planning.slots import SLOTS, SlotRange, key_slot

ROUNDS = 20
"""How many rounds `play` gives the loop; formation takes four, whatever the number of nodes."""

TAKES_TIME: frozenset[DoubtKind] = frozenset({"state", "replication", "hidden"})
"""Doubts that no step clears: servers clear them by themselves after a while."""

ALL_SLOTS = (1 << SLOTS) - 1
_KNOWS_OTHERS = "The user can assign a config epoch only when the node does not know any other node."

WRITTEN = 37
"""What a command adds to a primary's replication offset: here always that of ``REPLCONF GETACK *``."""


class Refused(Exception):
    """A command that a server refuses; ``text`` is its error as clients show it, without ``ERR``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(slots=True)
class SimulatedNode:
    """One server: what it is, and what it believes of the others.

    Args:
        name: how the simulation's user calls it.
        address: where its peers reach it.
        bus_port: the cluster bus there.
        generation: how often it lost its data; part of what its id is made of.
        epoch: its own config epoch.
        primary: id of the primary it replicates.
        slots: the slots it serves, as a bit mask.
        peers: what it believes of others, by id, handshakes included.
        heard: ids of the replicas from which it heard a replication offset.
        banned: ids that it was told to forget.
        offset: its replication offset.
        data: database (``db0``) -> its keys and values.
        introduced: whether it learned its own address from a peer.
        up, bus: whether it runs, and whether its bus port is open.
        linked: whether the replication link of a replica is up.
    """

    name: str
    address: Address
    bus_port: int
    generation: int = 0
    epoch: int = 0
    primary: str | None = None
    slots: int = 0
    peers: dict[str, Peer] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)
    banned: set[str] = field(default_factory=set)
    offset: int = 0
    data: dict[str, dict[str, str]] = field(default_factory=dict)
    introduced: bool = False
    up: bool = True
    bus: bool = True
    linked: bool = False
    id: str = ""
    _word: Peer | None = None

    def __post_init__(self) -> None:
        self.id = sha1(f"{self.name} {self.generation}".encode(), usedforsecurity=False).hexdigest()

    @property
    def claimed_epoch(self) -> int:
        """The epoch it speaks with: a replica's is its primary's."""
        primary = self.peers.get(self.primary or "")
        return primary.epoch if primary is not None else self.epoch

    @property
    def keys(self) -> dict[str, int]:
        """Database -> number of keys, empty databases left out."""
        return {name: len(values) for name, values in self.data.items() if values}

    def word(self) -> Peer:
        """What it says of itself; equal words are one object."""
        word = Peer(
            id=self.id,
            address=self.address,
            bus_port=self.bus_port,
            hostname="",
            flags=frozenset({"slave" if self.primary else "master"}),
            primary=self.primary,
            connected=True,
            epoch=self.claimed_epoch,
            slots=_ranges(self.slots),
        )
        if word != self._word:
            self._word = word
        assert self._word is not None
        return self._word

    def myself(self) -> Peer:
        """Its own line of CLUSTER NODES; it knows its address from the peers it has met."""
        word = self.word()
        address = self.address if self.introduced else Address("", self.address.port)
        return replace(word, address=address, flags=word.flags | {"myself"})


class Simulation:
    """Servers that know of each other what gossip has told them.

    While ``held`` is true nobody hears anything: a meeting leaves a handshake behind.
    """

    def __init__(self, server: ServerInfo | None = None) -> None:
        self.server = server or ServerInfo("valkey", (9, 1, 0), "", "simulated")
        self.nodes: dict[str, SimulatedNode] = {}
        self.held = False
        self._stirred = False
        self._generations: dict[str, int] = {}

    @classmethod
    def of(cls, nodes: Iterable[PlannedNode], server: ServerInfo | None = None) -> Simulation:
        """Blank servers where these nodes are planned."""
        simulation = cls(server)
        for node in nodes:
            simulation.add(node.name, node.addresses.meet, node.addresses.bus_port)
        return simulation

    # What somebody does to servers.

    def add(self, name: str, address: Address, bus_port: int) -> SimulatedNode:
        """A blank server."""
        assert name not in self.nodes, name
        self.nodes[name] = SimulatedNode(name, address, bus_port, self._generations.get(name, 0))
        self._stirred = True
        return self.nodes[name]

    def remove(self, name: str) -> None:
        """Take a server away with its data; one that is added again by this name has another id."""
        del self.nodes[name]
        self._generations[name] = self._generations.get(name, 0) + 1
        self._stirred = True

    def set_up(self, name: str, *, up: bool) -> None:
        """Stop a server, or start it again with all it knew."""
        self.nodes[name].up = up
        self._stirred = True

    def set_bus(self, name: str, *, opened: bool) -> None:
        """Block or open a server's bus port."""
        self.nodes[name].bus = opened
        self._stirred = True

    def lose(self, name: str) -> None:
        """A server comes back without its data: blank, and with a new id."""
        old = self.nodes[name]
        self.remove(name)
        self.add(name, old.address, old.bus_port).bus = old.bus

    def fail_over(self, name: str) -> None:
        """A replica takes its primary's place, with the highest epoch; a primary that runs will follow it."""
        self._settle()
        node = self.nodes[name]
        assert node.primary is not None, f"{name} is a primary"
        node.slots = _mask(node.peers[node.primary].slots)
        node.primary, node.epoch = None, self._next_epoch()
        self._stirred = True

    def give(self, name: str, target: str, slots: Iterable[int]) -> None:
        """A primary's slots and their keys go to another one, as at the end of a migration of either kind.

        The target takes an epoch of its own for it; a source without slots follows the target.
        """
        self._settle()
        node, other = self.nodes[name], self.nodes[target]
        mask = sum(1 << slot for slot in set(slots))
        assert other.primary is None, f"{target} is a replica"
        assert mask & node.slots == mask, f"{name} has not all of these slots"
        other.epoch = self._next_epoch()
        other.slots |= mask
        node.slots &= ~mask
        node.peers[other.id], other.peers[node.id] = other.word(), node.word()
        for base, values in node.data.items():
            gone = {key: value for key, value in values.items() if mask >> _slot_of(key) & 1}
            other.data.setdefault(base, {}).update(gone)
            node.data[base] = {key: value for key, value in values.items() if key not in gone}
        if not node.slots:
            node.primary = other.id
        node.offset += WRITTEN
        other.offset += WRITTEN
        self._stirred = True

    def _next_epoch(self) -> int:
        known = [peer.epoch for each in self.nodes.values() for peer in each.peers.values()]
        return max([*known, *(each.epoch for each in self.nodes.values())]) + 1

    def put(self, name: str, key: str, value: str, *, database: str = "db0") -> None:
        """A key on a primary, which its replicas will get."""
        node = self.nodes[name]
        node.data.setdefault(database, {})[key] = value
        node.offset += WRITTEN
        self._stirred = True

    def discard(self, name: str, key: str) -> bool:
        """Delete a key on a primary; whether it was there."""
        node = self.nodes[name]
        node.offset += WRITTEN
        self._stirred = True
        return node.data.get("db0", {}).pop(key, None) is not None

    # The servers' own commands.

    def run(self, step: Step) -> None:
        """Take one step; raises `Refused` where the server would."""
        match step:
            case SetEpoch():
                self.set_epoch(step.node, step.epoch)
            case AddSlots():
                self.add_slots(step.node, step.slots)
            case Meet():
                self.meet(step.node, step.address, step.bus_port)
            case Replicate():
                self.replicate(step.node, step.primary_id)
            case Failover():
                self.take_over(step.node)
            case Renew():
                self.reset(step.node)
            case Bump():
                self.bump(step.node)
            case Forget():
                self.forget(step.node, step.lost_id)
            case FirstWrite():
                self.write(step.node)
            case Nudge():
                self.wait(step.node)

    def set_epoch(self, name: str, epoch: int) -> None:
        """CLUSTER SET-CONFIG-EPOCH."""
        node = self._asked(name)
        if epoch < 0:
            raise Refused(f"Invalid config epoch specified: {epoch}")
        if node.peers:
            raise Refused(_KNOWS_OTHERS)
        if node.epoch:
            raise Refused("Node config epoch is already non-zero")
        node.epoch = epoch

    def add_slots(self, name: str, slots: Sequence[SlotRange]) -> None:
        """CLUSTER ADDSLOTSRANGE: all of them or none."""
        node = self._asked(name)
        busy = node.slots | _union(node.peers.values())
        wanted = 0
        for first, last in slots:
            if not (0 <= first < SLOTS and 0 <= last < SLOTS):
                raise Refused("Invalid or out of range slot")
            if first > last:
                raise Refused(f"start slot number {first} is greater than end slot number {last}")
            mask = _mask(((first, last),))
            if mask & busy:
                raise Refused(f"Slot {_lowest(mask & busy)} is already busy")
            if mask & wanted:
                raise Refused(f"Slot {_lowest(mask & wanted)} specified multiple times")
            wanted |= mask
        node.slots |= wanted
        self._stirred = True

    def meet(self, name: str, address: Address, bus_port: int) -> None:
        """CLUSTER MEET: IP literals only; what is met is a handshake until gossip goes through."""
        node = self._asked(name)
        try:
            ipaddress.ip_address(address.host)
        except ValueError:
            raise Refused(f"Invalid node address specified: {address.host}:{address.port}") from None
        for port, words in ((address.port, "Port number"), (bus_port, "Cluster bus port number")):
            if not 1 <= port <= 65535:
                raise Refused(f"{words} is out of range")
        known = node.peers.values()
        if not any(peer.handshake and (peer.address, peer.bus_port) == (address, bus_port) for peer in known):
            handshake = _handshake(node, address, bus_port)
            node.peers[handshake.id] = handshake
            self._stirred = True

    def replicate(self, name: str, node_id: str) -> None:
        """CLUSTER REPLICATE: only by a node without slots and keys, only of a primary that it knows."""
        node = self._asked(name)
        if node_id == node.id:
            raise Refused("Can't replicate myself")
        peer = node.peers.get(node_id)
        if peer is None or peer.handshake:
            raise Refused(f"Unknown node {node_id}")
        if peer.role != "primary":
            raise Refused("I can only replicate a master, not a replica.")
        if node.primary is None and (node.slots or node.keys):
            raise Refused("To set a master the node must be empty and without assigned slots.")
        node.primary = node_id
        self._stirred = True

    def take_over(self, name: str) -> None:
        """CLUSTER FAILOVER; done at once."""
        node = self._asked(name)
        if node.primary is None:
            raise Refused("You should send CLUSTER FAILOVER to a replica")
        if not any(each.id == node.primary and each.up for each in self.nodes.values()):
            raise Refused("Primary is down or failed, please use CLUSTER FAILOVER FORCE")
        self.fail_over(name)

    def bump(self, name: str) -> bool:
        """CLUSTER BUMPEPOCH: the highest epoch of all, unless it has that already; whether it had not."""
        node = self._asked(name)
        if node.epoch and node.epoch >= max((peer.epoch for peer in node.peers.values()), default=0):
            return False
        node.epoch = self._next_epoch()
        self._stirred = True
        return True

    def forget(self, name: str, node_id: str) -> None:
        """CLUSTER FORGET: the id is dropped, and not learned again from others."""
        node = self._asked(name)
        if node_id == node.id:
            raise Refused("I tried hard but I can't forget myself...")
        if node_id not in node.peers:
            raise Refused(f"Unknown node {node_id}")
        if node_id == node.primary:
            raise Refused("Can't forget my master!")
        del node.peers[node_id]
        node.banned.add(node_id)

    def reset(self, name: str) -> None:
        """CLUSTER RESET HARD: it knows nobody, owns nothing and has another id; of a replica the keys go, too."""
        node = self._asked(name)
        if node.primary is None and node.keys:
            raise Refused("CLUSTER RESET can't be called with master nodes containing keys")
        self.lose(name)

    def flush(self, name: str) -> None:
        """FLUSHALL."""
        node = self._asked(name)
        node.data.clear()
        node.offset += WRITTEN
        self._stirred = True

    def write(self, name: str) -> None:
        """A command that is replicated and changes nothing, such as FUNCTION FLUSH where there are none."""
        self._asked(name).offset += WRITTEN
        self._stirred = True

    def wait(self, name: str) -> int:
        """WAIT for more replicas than there are: asks those that are linked; how many there are."""
        node = self._asked(name)
        linked = sum(other.linked and other.primary == node.id for other in self.nodes.values())
        if linked:
            node.offset += WRITTEN
            self._stirred = True
        return linked

    # What the servers say.

    def views(self) -> Views:
        """What every server says now."""
        self._settle()
        return {name: self._view(node) for name, node in self.nodes.items()}

    def view(self, name: str) -> View:
        """What one server says now; `Silent` while it is stopped."""
        self._settle()
        return self._view(self.nodes[name])

    def _view(self, node: SimulatedNode) -> View:
        if not node.up:
            return Silent("cannot be reached: connection refused")
        myself = node.myself()
        replica = node.primary is not None
        return NodeView(
            id=node.id,
            flavor=self.server.flavor,
            version=self.server.version,
            state=_state(node),
            epoch=node.claimed_epoch,
            peers={node.id: myself, **node.peers},
            link=("up" if node.linked else "down") if replica else "",
            offset=node.offset,
            listed=dict(_listed(node, myself)),
            keys=node.keys,
        )

    def _asked(self, name: str) -> SimulatedNode:
        self._settle()
        node = self.nodes[name]
        assert node.up, f"{name} is stopped"
        return node

    # Gossip.

    def _settle(self) -> None:
        if self._stirred and not self.held:
            self.gossip()

    def gossip(self, only: Collection[str] | None = None) -> None:
        """Let the servers that can hear each other exchange all they know; only some of them, if given."""
        hearing = [n for n in self.nodes.values() if n.up and n.bus and (only is None or n.name in only)]
        _shake_hands(hearing)
        changed = False
        for group in _groups(hearing):
            if len(group) > 1:
                _settle_epochs(group)
                _settle_slots(group)
                changed |= _exchange(group)
        self._flag_lost({node.name for node in hearing})
        # What replication changed is told in the next exchange, as heartbeats come after the link.
        changed |= self._replicate()
        self._stirred = changed or only is not None

    def _flag_lost(self, hearing: Collection[str]) -> None:
        ids = {node.id: node for node in self.nodes.values()}
        places = {node.address for node in self.nodes.values() if node.up}
        for node in self.nodes.values():
            if not node.up or (node.bus and node.name not in hearing):
                continue
            lost = [
                peer
                for peer in node.peers.values()
                if not peer.handshake and not (node.bus and (at := ids.get(peer.id)) and at.up and at.bus)
            ]
            fault = "fail" if _has_quorum(node, {peer.id for peer in lost}) else "fail?"
            for peer in lost:
                flags = peer.flags - {"fail", "fail?"} | {fault}
                # Another server answers at its address: it is nowhere any more.
                if peer.id not in ids and peer.address in places:
                    flags |= {"noaddr"}
                    peer = replace(peer, address=Address("", 0), bus_port=0)  # noqa: PLW2901 - the same peer
                node.peers[peer.id] = replace(peer, flags=flags, connected=False)
                node.heard.discard(peer.id)

    def _replicate(self) -> bool:
        ids = {node.id: node for node in self.nodes.values()}
        changed = False
        for node in self.nodes.values():
            primary = ids.get(node.primary or "")
            linked = node.up and primary is not None and primary.up
            changed |= linked != node.linked
            node.linked = linked
            if linked and primary is not None:
                changed |= node.offset != primary.offset
                node.offset = primary.offset
                node.data = {name: dict(values) for name, values in primary.data.items()}
        return changed


def play(plan: Plan) -> tuple[Step, ...]:
    """The steps that forming the plan on blank servers takes, in order, as the loop would run them.

    The node ids in them are simulated ones; `Replicate` has the primary's name.

    Raises:
        RuntimeError: the loop does not come to an end, which would be a mistake in the rules.
    """
    return settle(plan, Simulation.of(plan.nodes, plan.server))


def settle(plan: Plan, simulation: Simulation, *, exact: bool = True) -> tuple[Step, ...]:
    """Run the loop on simulated servers until they agree on what the plan asks for; the steps it took.

    Args:
        plan: what is asked for.
        simulation: its servers, in whatever state.
        exact: who is what, or only the shape; see `conforms`.

    Raises:
        RuntimeError: they do not agree within `ROUNDS` rounds.
        Refused: a server refused a step.
    """
    played: list[Step] = []
    agreement = Agreement(None, ())
    for _ in range(ROUNDS):
        views = simulation.views()
        agreement = agree(views)
        steps = next_steps(plan.nodes, views)
        if not steps and _formed(agreement, plan, exact=exact):
            return tuple(played)
        # Nobody looks between the steps of a round: what gossip tells in between makes no difference to them.
        held, simulation.held = simulation.held, True
        for step in steps:
            simulation.run(step)
        simulation.held = held
        played += steps
    raise RuntimeError(f"not settled within {ROUNDS} rounds: {agreement.by_node()}")


def _formed(agreement: Agreement, plan: Plan, *, exact: bool) -> bool:
    if agreement.layout is None or any(doubt.kind not in TAKES_TIME for doubt in agreement.doubts):
        return False
    return not conforms(agreement.layout, plan.layout, exact=exact)


def _shake_hands(hearing: Sequence[SimulatedNode]) -> None:
    at = {(node.address, node.bus_port): node for node in hearing}
    for node in hearing:
        for peer in [peer for peer in node.peers.values() if peer.handshake]:
            other = at.get((peer.address, peer.bus_port))
            if other is None:
                continue
            del node.peers[peer.id]
            if other is not node:
                for one, two in ((node, other), (other, node)):
                    one.banned.discard(two.id)
                    one.peers.setdefault(two.id, two.word())
                    one.introduced = True


def _groups(hearing: Sequence[SimulatedNode]) -> Iterator[list[SimulatedNode]]:
    """The nodes that hear of each other, over any number of others; everyone in exactly one group."""
    ids = {node.id: node for node in hearing}
    near: dict[str, set[str]] = {node.id: set() for node in hearing}
    for node in hearing:
        for node_id in node.peers.keys() & ids.keys():
            near[node.id].add(node_id)
            near[node_id].add(node.id)
    left = dict.fromkeys(ids)
    while left:
        group, edge = [], [next(iter(left))]
        while edge:
            node_id = edge.pop()
            if node_id in left:
                del left[node_id]
                group.append(ids[node_id])
                edge += near[node_id]
        yield group


def _settle_epochs(group: Sequence[SimulatedNode]) -> None:
    """Of primaries with equal epochs the one with the smaller id takes the next epoch that there is."""
    current = max(max(node.epoch, *(peer.epoch for peer in node.peers.values())) for node in group)
    used: set[int] = set()
    for node in sorted(group, key=lambda node: node.id, reverse=True):
        if node.primary is None:
            if node.epoch in used:
                current += 1
                node.epoch = current
            used.add(node.epoch)


def _settle_slots(group: Sequence[SimulatedNode]) -> None:
    """The higher epoch owns a slot; who loses all slots follows the new owner, and so do its replicas."""
    owners: list[SimulatedNode] = []
    for node in sorted((n for n in group if n.primary is None), key=lambda node: -node.epoch):
        for owner in owners:
            if node.slots & owner.slots:
                node.slots &= ~owner.slots
                if not node.slots:
                    node.primary = owner.id
                    break
        else:
            owners.append(node)
    serving = {owner.id for owner in owners}
    for node in group:
        for peer in [peer for peer in node.peers.values() if peer.slots and peer.id not in serving]:
            _take_over(node, peer, [owner for owner in owners if owner.epoch > peer.epoch])


def _take_over(node: SimulatedNode, peer: Peer, owners: Sequence[SimulatedNode]) -> None:
    """The node learns who serves the slots of a peer that is gone or demoted, and follows it if it has to."""
    for owner in owners:
        if _mask(peer.slots) & owner.slots:
            peer = replace(peer, slots=_ranges(_mask(peer.slots) & ~owner.slots))
            node.peers[peer.id] = peer
            if node.primary == peer.id and not peer.slots:
                node.primary = owner.id


def _exchange(group: Sequence[SimulatedNode]) -> bool:
    """Everyone hears everyone's word; whether that was new to anybody."""
    changed = False
    # Primaries first: a replica speaks with the epoch that it knows of its primary.
    for speaker in sorted(group, key=lambda node: node.primary is not None):
        word = speaker.word()
        for node in group:
            if node is speaker:
                continue
            known = node.peers.get(speaker.id)
            if known is None and speaker.id in node.banned:
                continue
            told = word if known is None else _believe(known, word)
            if known is not told and known != told:
                node.peers[speaker.id] = told
                changed = True
            node.introduced = True
            if word.role == "replica" and speaker.offset and speaker.id not in node.heard:
                node.heard.add(speaker.id)
                changed = True
    return changed


def _believe(known: Peer, word: Peer) -> Peer:
    """What a node makes of another's word: stale ones tell it no more than that the other is there.

    Of replicas no epoch is kept: one that follows another primary now is believed whatever the epochs of the two are.
    """
    if word.epoch >= known.epoch or known.role == word.role == "replica":
        return word
    return replace(known, flags=known.flags - {"fail", "fail?"}, connected=True, address=word.address)


def _has_quorum(node: SimulatedNode, lost: Collection[str]) -> bool:
    voters = [peer.id for peer in node.peers.values() if peer.slots] + ([node.id] if node.slots else [])
    return 2 * sum(voter not in lost for voter in voters) > len(voters)


def _state(node: SimulatedNode) -> str:
    lost = {peer.id for peer in node.peers.values() if peer.faults}
    served = node.slots | _union(peer for peer in node.peers.values() if "fail" not in peer.flags)
    return "ok" if served == ALL_SLOTS and _has_quorum(node, lost) else "fail"


def _listed(node: SimulatedNode, myself: Peer) -> Iterator[tuple[str, Address]]:
    """Its CLUSTER SLOTS: primaries with slots, and their replicas once an offset was heard of."""
    known: Mapping[str, Peer] = {node.id: myself, **node.peers}
    for peer in known.values():
        heard = node.offset if peer is myself else peer.id in node.heard
        follows = known.get(peer.primary or "")
        replica = peer.role == "replica" and heard and follows is not None and bool(follows.slots)
        if peer.slots or (replica and "fail" not in peer.flags):
            yield peer.id, peer.address


def _handshake(node: SimulatedNode, address: Address, bus_port: int) -> Peer:
    made_up = sha1(f"{node.id} meets {address}".encode(), usedforsecurity=False).hexdigest()
    return Peer(made_up, address, bus_port, "", frozenset({"handshake"}), None, connected=False, epoch=0)


def _union(peers: Iterable[Peer]) -> int:
    union = 0
    for peer in peers:
        if peer.slots:
            union |= _mask(peer.slots)
    return union


def _slot_of(key: str) -> int:
    return key_slot(key.encode(errors="surrogateescape"))


def _lowest(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


@lru_cache(maxsize=2048)
def _mask(ranges: tuple[SlotRange, ...]) -> int:
    mask = 0
    for first, last in ranges:
        mask |= ((1 << (last - first + 1)) - 1) << first
    return mask


@lru_cache(maxsize=2048)
def _ranges(mask: int) -> tuple[SlotRange, ...]:
    return tuple((run.start(), run.end() - 1) for run in re.finditer("1+", bin(mask)[:1:-1]))
