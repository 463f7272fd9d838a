"""Do all nodes tell one healthy story, and is it the one that was asked for?

`agree` needs no plan: it compares what every node says about itself with what every other node says about it.
`conforms` compares the story with a layout, exactly (who is what) straight after formation, by shape (nodes, replicas
of each shard, slots covered) ever after, since roles move with failovers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bootstrap.judging.views import NodeView, Peer, Silent, Views, seen
from bootstrap.planning.addressing import Address
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.slots import SLOTS, expand, format_ranges, slots_text
from bootstrap.planning.text import listing, plural

DoubtKind = Literal[
    "silent", "mode", "identity", "unknown", "stranger", "flag", "link", "state",
    "belief", "coverage", "open", "replication", "hidden", "address",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Doubt:
    """One reason why the nodes do not tell one healthy story: who says or lacks what.

    Args:
        node: the node whose view it is, "" for the cluster as a whole.
        kind: what sort of reason.
        text: in words, without the node's name.
        about: the node that the reason is about, where it is another one.
    """

    node: str
    kind: DoubtKind
    text: str
    about: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.text}" if self.node else self.text


@dataclass(frozen=True, slots=True)
class Agreement:
    """The layout by node names, if the nodes' own words give one, and every doubt about it."""

    layout: Layout | None
    doubts: tuple[Doubt, ...]

    @property
    def healthy(self) -> bool:
        """All nodes tell the same story and nothing is missing."""
        return not self.doubts

    def by_node(self) -> dict[str, str]:
        """What each node lacks, in words; the key "cluster" for what concerns all."""
        texts: dict[str, list[str]] = {}
        for doubt in self.doubts:
            texts.setdefault(doubt.node or "cluster", []).append(doubt.text)
        return {node: "; ".join(lines) for node, lines in texts.items()}

    def of(self, *kinds: DoubtKind) -> tuple[Doubt, ...]:
        """The doubts of some kinds."""
        return tuple(doubt for doubt in self.doubts if doubt.kind in kinds)


def agree(views: Views, announced: Mapping[str, Address] | None = None) -> Agreement:
    """Judge whether every node tells the same healthy story.

    Args:
        views: what each node said, by name; nodes that did not answer are `Silent`.
        announced: by name, where clients are to be sent for a node, as far as that is known.
    """
    nodes = seen(views)
    doubts = [*_absent(views), *_identity(nodes)]
    names = {view.id: name for name, view in nodes.items()}
    # CLUSTER SLOTS lists whoever serves slots, and their replicas.
    serving = {view.id for view in nodes.values() if view.myself.slots}
    replicas = [view.id for view in nodes.values() if view.myself.primary in serving]
    # What one node rightly says of another is one object in all views (see `parse_nodes`), and is looked at once.
    right: set[int] = set()
    for name, view in nodes.items():
        doubts += _membership(name, view, names, complete=len(nodes) == len(views))
        doubts += _beliefs(name, view, names, nodes, right)
        doubts += _own_health(name, view)
        doubts += _hidden(name, view, names, replicas)
        doubts += _misled(name, view, names, announced or {})
    layout = _layout(nodes, names)
    doubts += _coverage(nodes)
    return Agreement(layout, tuple(doubts))


def conforms(layout: Layout, target: Layout, *, exact: bool) -> tuple[str, ...]:
    """What differs from the target, in words; empty when nothing does.

    Args:
        layout: the story that the nodes agree on.
        target: the one that was asked for.
        exact: compare which nodes make up which shard, and its slots, whoever of them leads it now; otherwise only
            nodes, replicas of each shard, and slots covered.
    """
    if exact:
        planned = {frozenset(shard.nodes): shard.slots for shard in target.shards}
        wanted = {shard.primary: shard for shard in target.shards}
        return tuple(
            f"{shard.primary} has {_shard_text(shard)}, planned is {_shard_text(wanted.get(shard.primary))}"
            for shard in layout.shards
            if planned.get(frozenset(shard.nodes)) != shard.slots
        )
    found = []
    if len(layout.nodes) != len(target.nodes):
        found.append(f"{plural(len(layout.nodes), 'node')} instead of {len(target.nodes)}")
    shapes = [Counter(len(shard.replicas) for shard in each.shards if shard.slots) for each in (layout, target)]
    if shapes[0] != shapes[1]:
        found.append(f"{_shape_text(shapes[0])} instead of {_shape_text(shapes[1])}")
    if layout.slots != target.slots:
        found.append(f"{layout.slots} slots covered instead of {target.slots}")
    return tuple(found)


def taken_over(layout: Layout, target: Layout) -> dict[str, str]:
    """Who leads a shard instead of the planned primary, by the planned one: a replica took over from it."""
    leaders = {node: shard.primary for shard in layout.shards for node in shard.nodes}
    found = {shard.primary: leaders.get(shard.primary, shard.primary) for shard in target.shards}
    return {planned: leader for planned, leader in found.items() if leader != planned}


def summarize(agreement: Agreement, total: int) -> str:
    """What is still missing, in one short line for people who wait."""
    parts = []
    if silent := agreement.of("silent", "mode"):
        parts.append(f"{listing([doubt.node for doubt in silent], 3)} not answering")
    if unknown := {doubt.node for doubt in agreement.of("unknown", "link", "identity")}:
        parts.append(f"{total - len(unknown)}/{total} nodes know all {total}")
    if flagged := agreement.of("flag", "stranger"):
        parts.append(str(flagged[0]))
    if belief := {doubt.about for doubt in agreement.of("belief")}:
        parts.append(f"{listing(sorted(belief), 3)} not yet seen in its role by all")
    if state := agreement.of("state"):
        parts.append(f"{total - len(state)}/{total} nodes say ok")
    if replication := agreement.of("replication"):
        parts.append(f"{listing([doubt.node for doubt in replication], 3)} link down")
    if hidden := {doubt.about for doubt in agreement.of("hidden")}:
        parts.append(f"{listing(sorted(hidden), 3)} not yet in CLUSTER SLOTS")
    if misled := agreement.of("address"):
        parts.append(str(misled[0]))
    if other := agreement.of("coverage", "open"):
        parts.append(str(other[0]))
    return "; ".join(parts[:3])


def _absent(views: Views) -> Iterator[Doubt]:
    for name, view in views.items():
        if isinstance(view, Silent):
            yield Doubt(name, "silent", view.reason)
        elif not view.cluster_mode:
            yield Doubt(name, "mode", "is not in cluster mode")


def _identity(nodes: Mapping[str, NodeView]) -> Iterator[Doubt]:
    first: dict[str, str] = {}
    for name, view in nodes.items():
        if (other := first.setdefault(view.id, name)) != name:
            yield Doubt(name, "identity", f"has the same node id as {other}", other)


def _membership(name: str, view: NodeView, names: Mapping[str, str], *, complete: bool) -> Iterator[Doubt]:
    settled = {peer.id for peer in view.peers.values() if not peer.handshake}
    if missing := [other for node_id, other in names.items() if node_id not in settled]:
        yield Doubt(name, "unknown", f"does not know {listing(missing)}", missing[0])
    # Two nodes that meet each other at once have two entries for one handshake.
    for address in dict.fromkeys(peer.address for peer in view.peers.values() if peer.handshake):
        yield Doubt(name, "link", f"is in handshake with {address}")
    for peer in view.peers.values():
        known_as = names.get(peer.id)
        if peer.handshake:
            continue
        if known_as is None:
            flags = ",".join(sorted(peer.flags))
            what = f"{peer.id[:8]} {peer.address} {flags}"
            if complete:
                yield Doubt(name, "stranger", f"knows a node of another cluster or a lost one: {what}")
            elif peer.faults:
                # Most likely one of the silent; their ids are not known.
                yield Doubt(name, "flag", f"flags {peer.address} as {','.join(peer.faults)}")
        elif peer.faults:
            yield Doubt(name, "flag", f"flags {known_as} as {','.join(peer.faults)}", known_as)
        elif not peer.connected:
            yield Doubt(name, "link", f"has no link to {known_as}", known_as)


def _beliefs(
    name: str, view: NodeView, names: Mapping[str, str], nodes: Mapping[str, NodeView], right: set[int]
) -> Iterator[Doubt]:
    for peer in view.peers.values():
        if id(peer) in right:
            continue
        other = names.get(peer.id)
        if other is None or other == name or peer.handshake:
            continue
        own = nodes[other].myself
        if (peer.role, peer.primary, peer.slots) == (own.role, own.primary, own.slots):
            right.add(id(peer))
        else:
            text = f"shows {other} as {_role_text(peer, names)}, which calls itself {_role_text(own, names)}"
            yield Doubt(name, "belief", text, other)


def _own_health(name: str, view: NodeView) -> Iterator[Doubt]:
    if view.state != "ok":
        yield Doubt(name, "state", f"cluster_state is {view.state}")
    if view.myself.open_slots:
        yield Doubt(name, "open", f"has open slots {listing(view.myself.open_slots, 3)}")
    if view.myself.role == "replica" and view.link != "up":
        yield Doubt(name, "replication", f"replication link is {view.link or 'down'}")


def _hidden(name: str, view: NodeView, names: Mapping[str, str], replicas: Collection[str]) -> Iterator[Doubt]:
    for node_id in (each for each in replicas if each not in view.listed):
        peer = view.peers.get(node_id)
        if peer is not None and peer.role == "replica":
            other = names[node_id]
            yield Doubt(name, "hidden", f"does not list replica {other} in CLUSTER SLOTS", other)


def _misled(name: str, view: NodeView, names: Mapping[str, str], announced: Mapping[str, Address]) -> Iterator[Doubt]:
    for node_id, listed in view.listed.items():
        other = names.get(node_id, "")
        wanted = announced.get(other)
        # No host means "as you came": a node says that of itself before others have told it its address.
        if wanted is not None and listed != wanted and (listed.host or listed.port != wanted.port):
            yield Doubt(name, "address", f"sends clients for {other} to {listed} instead of {wanted}", other)


def _coverage(nodes: Mapping[str, NodeView]) -> Iterator[Doubt]:
    owners: dict[int, str] = {}
    twice: dict[tuple[str, str], list[int]] = {}
    for name, view in nodes.items():
        for slot in expand(view.myself.slots):
            if (other := owners.setdefault(slot, name)) != name:
                twice.setdefault((other, name), []).append(slot)
    for (one, other), slots in twice.items():
        yield Doubt("", "coverage", f"{one} and {other} both claim {slots_text(slots)}")
    if nodes and len(owners) < SLOTS:
        yield Doubt("", "coverage", f"no primary has {slots_text(set(range(SLOTS)) - owners.keys())}")


def _layout(nodes: Mapping[str, NodeView], names: Mapping[str, str]) -> Layout | None:
    """The layout by every node's word about itself; None while a replica follows nobody who is known."""
    if not nodes or len(names) != len(nodes):
        return None
    following: dict[str, list[str]] = {}
    for name, view in nodes.items():
        if view.myself.role == "replica":
            primary = names.get(view.myself.primary or "")
            if primary is None or nodes[primary].myself.role != "primary":
                return None
            following.setdefault(primary, []).append(name)
    return make_layout(
        Shard(name, view.myself.slots, tuple(following.get(name, ())))
        for name, view in nodes.items()
        if view.myself.role == "primary"
    )


def _role_text(peer: Peer, names: Mapping[str, str]) -> str:
    if peer.role == "replica":
        return f"a replica of {names.get(peer.primary or '', (peer.primary or 'nobody')[:8])}"
    return f"a primary of {format_ranges(peer.slots)}" if peer.slots else "an empty primary"


def _shard_text(shard: Shard | None) -> str:
    if shard is None:
        return "a replica"
    return f"{format_ranges(shard.slots) or 'no slots'} and {listing(shard.replicas) or 'no replicas'}"


def _shape_text(shape: Mapping[int, int]) -> str:
    return (
        " and ".join(
            f"{plural(count, 'primary', 'primaries')} with {plural(replicas, 'replica')}"
            for replicas, count in sorted(shape.items())
        )
        or "no primaries"
    )
