"""May these servers be formed into this cluster? All faults of all nodes at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bootstrap.judging.agreement import agree, conforms
from bootstrap.judging.views import Peer, Silent, Views, seen
from bootstrap.planning.plan import Plan, PlannedNode
from bootstrap.planning.site import OLDEST
from bootstrap.planning.slots import expand, format_ranges, merge
from bootstrap.planning.text import listing, plural

FaultKind = Literal["silent", "login", "mode", "version", "twice", "keys", "functions", "slots", "peers"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason why a node cannot be taken."""

    node: str
    kind: FaultKind
    text: str


def admit(plan: Plan, views: Views, *, ours: bool) -> tuple[Fault, ...]:
    """Every reason against forming the plan on these servers; empty when it may go ahead.

    A cluster that already is what the plan asks for is admitted, and so is this very plan half done.

    Args:
        plan: what is to be formed.
        views: what every node said.
        ours: the servers were made by this package (a record says so), so their keys are the cluster's own.
    """
    faults = [*_unusable(views), *_twice(views)]
    found = agree(views)
    settled = found.layout and not faults and not found.of("unknown", "stranger", "coverage")
    if settled and found.layout and not conforms(found.layout, plan.layout, exact=False):
        return ()
    usable = seen(views)
    for node in plan.nodes:
        if node.name in usable:
            faults += _not_empty(node, plan.nodes, views, ours=ours)
    return tuple(faults)


def unfit(
    newcomers: Sequence[PlannedNode], views: Views, *, functions: Collection[str], members: Collection[str]
) -> tuple[Fault, ...]:
    """Every reason against adding these servers to a running cluster; empty when they may join.

    Args:
        newcomers: the servers.
        views: what they and the members said.
        functions: the function libraries of the cluster: a newcomer that has them was to join before.
        members: the ids of the members; whoever knows only them was to join before, too.
    """
    names = {node.name for node in newcomers}
    there = {name: view for name, view in views.items() if name in names}
    faults = [*_unusable(there), *_twice(views)]
    for name, view in seen(there).items():
        if view.id in members:
            # The same server as a member, under another address.
            continue
        if view.keys:
            where = ", ".join(f"{plural(number, 'key')} in {base}" for base, number in sorted(view.keys.items()))
            faults.append(Fault(name, "keys", f"holds {where}"))
        if view.myself.slots:
            faults.append(Fault(name, "slots", f"owns slots {format_ranges(view.myself.slots)}"))
        if foreign := [library for library in view.functions if library not in functions]:
            faults.append(Fault(name, "functions", f"has function libraries: {listing(foreign)}"))
        known = [peer for peer in view.peers.values() if peer.id not in {view.id, *members} and not peer.handshake]
        if known and not {peer.id for peer in known} <= {each.id for each in seen(there).values()}:
            shown = [f"{peer.id[:8]} at {peer.address}" for peer in known]
            faults.append(Fault(name, "peers", f"already knows {listing(shown, 3)}, which are not of this cluster"))
    return tuple(faults)


def _unusable(views: Views) -> Iterator[Fault]:
    for name, view in views.items():
        if isinstance(view, Silent):
            yield Fault(name, "login" if view.code in ("login", "forbidden") else "silent", view.reason)
            continue
        if not view.cluster_mode:
            yield Fault(name, "mode", "is not in cluster mode: start it with cluster-enabled yes")
        if view.version < OLDEST:
            version = ".".join(map(str, view.version))
            yield Fault(
                name,
                "version",
                f"runs {view.flavor} {version}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that works",
            )


def _twice(views: Views) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for name, view in seen(views).items():
        if (other := first.setdefault(view.id, name)) != name:
            yield Fault(name, "twice", f"is the same server as {other} (node id {view.id[:8]})")


def _not_empty(node: PlannedNode, target: Sequence[PlannedNode], views: Views, *, ours: bool) -> Iterator[Fault]:
    view = seen(views)[node.name]
    if view.keys and (not ours or view.blank):
        where = ", ".join(f"{plural(count, 'key')} in {name}" for name, count in sorted(view.keys.items()))
        yield Fault(node.name, "keys", f"holds {where}")
    if view.functions and not ours:
        yield Fault(node.name, "functions", f"has function libraries: {listing(view.functions)}")
    if not ours and (foreign := expand(view.myself.slots) - expand(node.slots)):
        yield Fault(node.name, "slots", f"owns slots {format_ranges(merge(foreign))}, which are not planned for it")
    yield from _foreign_peers(node, target, views, ours=ours)


def _foreign_peers(node: PlannedNode, target: Sequence[PlannedNode], views: Views, *, ours: bool) -> Iterator[Fault]:
    members = {each.id for each in seen(views).values()}
    ports = {each.addresses.meet.port for each in target}
    # Most likely the ones that were not seen: who they are is not known, and they have a fault of their own.
    unseen = {each.addresses.meet.port for each in target if each.name not in seen(views)}

    def lost(peer: Peer) -> bool:
        # One of this cluster under an id that it had before its data was lost. On servers of others only a dead one
        # is taken for that: a live one at our address may be a stranger's.
        return (ours and peer.address.port in ports) or bool(peer.faults and peer.address.port in {*ports, 0})

    strangers = [
        f"{peer.id[:8]} at {peer.address}"
        for peer in seen(views)[node.name].peers.values()
        if peer.id not in members and not peer.handshake and not lost(peer) and peer.address.port not in unseen
    ]
    if strangers:
        yield Fault(node.name, "peers", f"already knows {listing(strangers, 3)}, which this command was not given")
