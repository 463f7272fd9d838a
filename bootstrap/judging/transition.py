"""What to do next on the way from one shape of a running cluster to another, decided from what every node says now.

`next_steps` forms a cluster and takes nothing from anybody. `transition` takes slots, roles and memberships away, in an
order in which no key and no acknowledged write is lost: newcomers join first, replicas that are to lead take over,
slots move between nodes that all agree, replicas find their new primaries, and only whoever has nothing left is
forgotten. It has no memory, so a run that was killed is carried on by the next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bootstrap.judging.steps import (
    AddSlots,
    Bump,
    Failover,
    Forget,
    Renew,
    Replicate,
    Step,
    epochs,
    forgettings,
    meetings,
    nudges,
)
from bootstrap.judging.views import NodeView, Peer, View, Views, seen
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.moves import SlotMove
from bootstrap.planning.plan import PlannedNode
from bootstrap.planning.scaling import moves_between, successor
from bootstrap.planning.slots import expand, merge


@dataclass(frozen=True, slots=True)
class Todo:
    """What can be done now.

    Args:
        steps: commands; those of different nodes may run at once.
        moves: slots to move, only once all nodes agree.
        farewell: all that is left is that the leaving nodes are forgotten; these steps do it, at once on all nodes.
        missing: what is waited for, in words, where there is nothing to do.
    """

    steps: tuple[Step, ...] = ()
    moves: tuple[SlotMove, ...] = ()
    farewell: tuple[Forget, ...] = ()
    missing: str = ""

    @property
    def done(self) -> bool:
        """Nothing is left to do or to wait for."""
        return not (self.steps or self.moves or self.farewell or self.missing)


@dataclass(frozen=True, slots=True)
class Lost:
    """A node that does not answer, as the others know it."""

    id: str
    slots: tuple[tuple[int, int], ...]
    primary: str | None


def transition(
    members: Sequence[PlannedNode],
    goal: Layout,
    leaving: Sequence[PlannedNode],
    views: Views,
    *,
    given_up: Collection[str] = (),
) -> Todo:
    """What to do next.

    Args:
        members: the nodes that are to be in the cluster.
        goal: who of them is to lead, with which slots and replicas.
        leaving: the nodes that are to be in it no more.
        views: what all of them said.
        given_up: the leaving nodes whose slots are given to others, empty, where they do not answer.
    """
    nodes = seen(views)
    there = {node.name: nodes[node.name] for node in members if node.name in nodes}
    if absent := [node.name for node in members if node.name not in there]:
        return Todo(missing=f"{absent[0]} does not answer")
    ids = {name: view.id for name, view in there.items()}
    # Whoever leaves and still has slots has to know the newcomers; where all members are new, only he can.
    hosts = [node for node in leaving if node.name in nodes and nodes[node.name].myself.slots]
    company = there | {node.name: nodes[node.name] for node in hosts}
    joining = _joining([*members, *hosts], company)
    if joining or not _acquainted(company):
        return Todo(joining, missing="" if joining else "nodes are being introduced")
    going = departing(leaving, views)
    known = there | {name: nodes[name] for name in going if name in nodes}
    strangers = tuple(forgettings(members, known, {*ids.values(), *going.values()}))
    # Only where they were given up: otherwise their owner may not be known here, and come back.
    homeless = tuple(_unowned(goal, there, nodes)) if given_up else ()
    attaching = _replications(goal, nodes, ids, blank_only=True)
    taking_over, missing = _taking_over(goal, nodes)
    if early := (*strangers, *homeless, *attaching, *taking_over, *nudges(there)):
        return Todo(early)
    if dead := {name: each for name, each in lost(leaving, views).items() if each.slots}:
        # As long as anybody knows whose the slots are, nobody else can have them.
        return _bury(dead, there, nodes, _replications(goal, nodes, ids, blank_only=False), given_up)
    if missing or (moves := moves_between(shape(nodes), goal)):
        return Todo(missing=missing) if missing else Todo(moves=moves)
    late = _replications(goal, nodes, ids, blank_only=False)
    return Todo(late) if late else _end(there, goal, going)


def _bury(
    dead: Mapping[str, Lost],
    there: Mapping[str, NodeView],
    nodes: Mapping[str, NodeView],
    rehoming: Sequence[Replicate | Bump],
    given_up: Collection[str],
) -> Todo:
    """Let all forget nodes that are gone with their slots, but for replicas of theirs that leave, too.

    A node refuses to forget the one that it follows, so members follow somebody else first.
    """
    for name, each in dead.items():
        if name not in given_up:
            return Todo(missing=f"{name} does not answer, and nobody else has its keys")
        if not all(view.peers[each.id].faults for view in nodes.values() if each.id in view.peers):
            return Todo(missing=f"not every node has noticed that {name} is gone")
    ids = {each.id for each in dead.values()}
    orphans = {name for name, view in there.items() if view.myself.primary in ids}
    if orphaned := tuple(step for step in rehoming if step.node in orphans or isinstance(step, Bump)):
        return Todo(orphaned)
    if orphans:
        return Todo(missing=f"{min(orphans)} still follows a node that is gone")
    forgetful = {name: view for name, view in nodes.items() if view.myself.primary not in ids}
    return Todo(
        tuple(Forget(name, lost_id) for name, view in forgetful.items() for lost_id in sorted(ids & view.peers.keys()))
    )


def _end(there: Mapping[str, NodeView], goal: Layout, going: Mapping[str, str]) -> Todo:
    """What is left when every slot and every replica is where it is to be."""
    if shape(there) != goal:
        return Todo(missing="not every node is what it is to be yet")
    # Whoever still follows a leaving node refuses to forget it; that was waited for above.
    return Todo(
        farewell=tuple(
            Forget(name, node_id) for name, view in there.items() for node_id in going.values() if node_id in view.peers
        )
    )


def acquainted(leaving: Sequence[PlannedNode], views: Views) -> Views:
    """The views that have to agree: of whoever leaves only while others know him, and he and his primary answer."""
    going, there = departing(leaving, views), seen(views)
    ids = {view.id for view in there.values()}
    well = {name for name, view in there.items() if view.myself.primary is None or view.myself.primary in ids}
    return apart_from([node for node in leaving if node.name not in going or node.name not in well], views)


def apart_from(others: Sequence[PlannedNode], views: Views) -> Views:
    """The views without some nodes, and without what is said of them."""
    ids, names = set(departing(others, views).values()), {node.name for node in others}
    return {name: _unaware(view, ids) for name, view in views.items() if name not in names}


def strangers(nodes: Sequence[PlannedNode], views: Views) -> list[PlannedNode]:
    """The nodes that do not run, or have not joined yet: no member knows them, and they know none.

    They may know each other, where they were being introduced when a command was killed.
    """
    there = seen(views)
    names = {view.id: name for name, view in there.items()}
    if any(view.myself.slots for view in there.values()):
        apart = {n.name: n for n in nodes if n.name not in there or _owns_nothing(there[n.name])}
    else:
        apart = {n.name: n for n in nodes if n.name not in there or there[n.name].blank}
    while joined := [
        name
        for name, node in apart.items()
        if any(_knows(view, node, views.get(name)) for other, view in there.items() if other not in apart)
        or (name in there and not all(_is_one(peer, apart, names) for peer in _known(there[name])))
    ]:
        for name in joined:
            del apart[name]
    return list(apart.values())


def _owns_nothing(view: NodeView) -> bool:
    return view.myself.role == "primary" and not view.myself.slots


def _known(view: NodeView) -> list[Peer]:
    return [peer for peer in view.peers.values() if peer.id != view.id and not peer.handshake]


def _is_one(peer: Peer, nodes: Mapping[str, PlannedNode], names: Mapping[str, str]) -> bool:
    """Whether a line is about one of these nodes: by its id, or by its place where none that answers has the id."""
    return names[peer.id] in nodes if peer.id in names else any(is_at(peer, node) for node in nodes.values())


def _knows(other: NodeView, node: PlannedNode, view: View | None) -> bool:
    if isinstance(view, NodeView):
        return view.id in other.peers
    return any(is_at(peer, node) for peer in other.peers.values())


def departing(leaving: Sequence[PlannedNode], views: Views) -> dict[str, str]:
    """Name -> node id of whoever is to leave, and is still known to others; also of those that do not answer."""
    nodes = seen(views)
    gone = {node.name for node in leaving}
    known: dict[str, Peer] = {
        peer.id: peer for name, view in nodes.items() if name not in gone for peer in view.peers.values()
    }
    members = {view.id for view in nodes.values()}
    found = {}
    for node in leaving:
        if node.name in nodes:
            if nodes[node.name].id in known:
                found[node.name] = nodes[node.name].id
            continue
        ghost = next((peer.id for peer in known.values() if peer.id not in members and is_at(peer, node)), None)
        if ghost is not None:
            found[node.name] = ghost
    return found


def is_at(peer: Peer, node: PlannedNode) -> bool:
    """Whether a line of CLUSTER NODES is about this node: ports tell nodes apart in every view, hosts may differ."""
    where = node.addresses
    hosts = {address.host for address in (where.meet, where.host, where.network, where.announced) if address}
    ports = {address.port for address in (where.meet, where.host, where.announced) if address}
    return not peer.handshake and peer.address.port in ports and (peer.address.host in hosts or not peer.address.host)


def lost(leaving: Sequence[PlannedNode], views: Views) -> dict[str, Lost]:
    """Name -> what the others know of it, for leaving nodes that do not answer."""
    nodes = seen(views)
    found: dict[str, Lost] = {}
    for name, node_id in departing(leaving, views).items():
        if name in nodes:
            continue
        lines = [view.peers[node_id] for view in nodes.values() if node_id in view.peers]
        slots = merge(expand({pair for line in lines for pair in line.slots}))
        found[name] = Lost(node_id, slots, lines[0].primary)
    return found


def shape(nodes: Mapping[str, NodeView], absent: Mapping[str, Lost] | None = None) -> Layout:
    """Who leads, with which slots, and who follows, by every node's own word; of those that are lost by the others'.

    A replica that follows nobody of these is left out.
    """
    names = {view.id: name for name, view in nodes.items()} | {each.id: name for name, each in (absent or {}).items()}
    roles = {name: (view.myself.primary, view.myself.slots) for name, view in nodes.items()}
    roles |= {name: (each.primary, each.slots) for name, each in (absent or {}).items()}
    following: dict[str, list[str]] = {}
    for name, (primary, _) in roles.items():
        if primary is not None and primary in names:
            following.setdefault(names[primary], []).append(name)
    return make_layout(
        Shard(name, slots, tuple(following.get(name, ())))
        for name, (primary, slots) in roles.items()
        if primary is None
    )


def _unaware(view: View, ids: Collection[str]) -> View:
    if not isinstance(view, NodeView):
        return view
    return replace(view, peers={node_id: peer for node_id, peer in view.peers.items() if node_id not in ids})


def _joining(company: Sequence[PlannedNode], there: Mapping[str, NodeView]) -> tuple[Step, ...]:
    # No node may be met before it has its epoch: the command is refused from then on.
    ids = {name: view.id for name, view in there.items()}
    return tuple(epochs(company, there)) or tuple(meetings(company, there, ids))


def _acquainted(there: Mapping[str, NodeView]) -> bool:
    """Whether all know each other, and nobody is in the middle of a handshake with whom a step could collide."""
    wanted = {view.id for view in there.values()}
    return all(
        wanted <= {peer.id for peer in view.peers.values() if not peer.handshake}
        and not any(peer.handshake for peer in view.peers.values())
        for view in there.values()
    )


def _unowned(goal: Layout, there: Mapping[str, NodeView], nodes: Mapping[str, NodeView]) -> Iterator[AddSlots]:
    """Slots that nobody has any more, since a lost node had them and was forgotten."""
    told = {pair for view in there.values() for peer in view.peers.values() for pair in peer.slots}
    owned = expand(told | {pair for view in nodes.values() for pair in view.myself.slots})
    for shard in goal.shards:
        free = expand(shard.slots) - owned
        if free and there[shard.primary].myself.role == "primary":
            yield AddSlots(shard.primary, merge(free))


def _taking_over(goal: Layout, nodes: Mapping[str, NodeView]) -> tuple[tuple[Step, ...], str]:
    """Who is to lead and follows: by failover where its primary is to lead no more, otherwise as a blank node.

    The steps, and what is waited for.
    """
    names = {view.id: name for name, view in nodes.items()}
    serving = {peer.id for view in nodes.values() for peer in view.peers.values() if peer.slots}
    now = {shard.primary: shard for shard in shape(nodes).shards}
    leaders = {shard.primary for shard in goal.shards}
    blank: list[Step] = []
    for leader in sorted(leaders):
        view = nodes[leader]
        if view.myself.role == "primary":
            continue
        if view.myself.primary in serving - names.keys():
            # It may be the only one that has the keys of its primary.
            return (), f"the primary of {leader} does not answer"
        followed = names.get(view.myself.primary or "", "")
        shard = now.get(followed)
        if shard is None or not shard.slots or successor(shard, goal) != leader:
            blank.append(Renew(leader))
            continue
        # One at a time: elections at once compete for votes.
        if view.link == "up":
            return (Failover(leader),), ""
        return (), f"{leader} is not in sync with {followed} yet"
    return tuple(blank), ""


def _replications(
    goal: Layout, nodes: Mapping[str, NodeView], ids: Mapping[str, str], *, blank_only: bool
) -> tuple[Replicate | Bump, ...]:
    found: list[Replicate] = []
    overtaken: dict[str, Bump] = {}
    for shard in goal.shards:
        leader = nodes[shard.primary]
        if leader.myself.role != "primary":
            continue
        for name in shard.replicas:
            view = nodes[name]
            blank = view.myself.role == "primary" and not view.myself.slots and not view.keys
            following = view.myself.role == "replica" and view.myself.primary != leader.id
            known = view.peers.get(ids[shard.primary])
            ready = known is not None and not known.handshake and known.role == "primary"
            if ready and (blank if blank_only else blank or following):
                found.append(Replicate(name, shard.primary, ids[shard.primary]))
                if view.myself.role == "primary" and view.epoch > leader.epoch:
                    overtaken[shard.primary] = Bump(shard.primary)
    # The others know the newcomer's epoch, and would not believe that it follows one of a lower epoch.
    return (*overtaken.values(), *(step for step in found if step.primary not in overtaken))
