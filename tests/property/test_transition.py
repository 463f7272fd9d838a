"""From any shape to any other: the goal is reached and agreed on, and no slot is ever without an owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bootstrap.judging.agreement import agree
from bootstrap.judging.simulation import Refused, Simulation
from bootstrap.judging.simulation import settle as form
from bootstrap.judging.steps import AddSlots, Failover, Forget, Meet, Renew, Replicate, SetEpoch, Step, confirmed
from bootstrap.judging.transition import Todo, lost, shape, strangers
from bootstrap.judging.views import Silent, Views, seen
from bootstrap.operations.reshaping import Destination, _may_part, _settled
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.moves import rebalance
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import build_plan
from bootstrap.planning.scaling import Standing, moved, scaled, with_primaries, with_replicas, without
from bootstrap.planning.site import Site
from bootstrap.planning.slots import SLOTS, covering_key, expand
from bootstrap.planning.spec import ClusterSpec, replica_counts

quick = settings(deadline=None, max_examples=40)
ROUNDS = 60
"""Looks that a way may take; one failover and one promotion of each node are the longest."""

NODES = {
    node.name: node
    for node in build_plan(ClusterSpec(nodes=12, replicas=0, name="n", base_port=7000), Site.assumed()).nodes
}
"""All the servers that there may be: those of a cluster, and newcomers."""

NAMES = list(NODES)


@dataclass
class Way:
    """A simulated cluster on its way to a goal.

    ``lapse`` is asked before each round how much of it goes wrong: how many of its steps and slots are done (None for
    all of them).
    """

    simulation: Simulation
    members: list[str]
    goal: Layout
    leaving: list[str] = field(default_factory=list)
    given_up: frozenset[str] = frozenset()
    lapse: Callable[[int], int | None] = lambda _: None
    taken: list[Step] = field(default_factory=list)
    moves: int = 0
    _doubtful: frozenset[Step] = frozenset()

    @property
    def destination(self) -> Destination:
        return Destination(
            [NODES[name] for name in self.members], self.goal, [NODES[name] for name in self.leaving], self.given_up
        )

    def look(self) -> Views:
        there = self.simulation.views()
        gone = {name: Silent("cannot be reached: connection refused") for name in self.leaving if name not in there}
        return {name: view for name, view in there.items() if name in {*self.members, *self.leaving}} | gone

    def round(self, limit: int | None = None) -> bool:
        """One look, and what it calls for; whether there is nothing left to do."""
        views = self.look()
        self.assert_owned()
        destination = self.destination
        agreement, todo = destination.agreement(views), destination.todo(views)
        if todo.done and agreement.healthy:
            return True
        steps, self._doubtful = confirmed(todo.steps, self._doubtful)
        if steps:
            self.take(steps[:limit])
        elif todo.moves and _settled(agreement):
            self.move(todo, limit)
        elif todo.farewell and _may_part(agreement, destination, views):
            self.take(todo.farewell[:limit])
            if limit is None or limit >= len(todo.farewell):
                for name in [name for name in self.leaving if name in self.simulation.nodes]:
                    self.simulation.remove(name)
        return False

    def take(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Forget):
                self.assert_needless(step)
            # Gossip may have been faster; the real loop tolerates this very answer.
            with _tolerating("Unknown node") if isinstance(step, Forget) else nullcontext():
                self.simulation.run(step)
        self.taken += steps

    def move(self, todo: Todo, limit: int | None) -> None:
        for move in todo.moves[:limit]:
            slots = sorted(expand(move.slots))
            # Cut off in the middle of it, too.
            self.simulation.give(move.source, move.target, slots if limit is None else slots[: 1 + len(slots) // 2])
            self.moves += 1
            self.assert_owned()

    def assert_owned(self) -> None:
        """Every slot has an owner that runs, or one that was lost with it."""
        union = 0
        for node in self.simulation.nodes.values():
            union |= node.slots
        given = [step for step in self.taken if isinstance(step, AddSlots)]
        assert self.given_up or union == (1 << SLOTS) - 1
        assert self.given_up or not given

    def assert_needless(self, step: Forget) -> None:
        """Nobody forgets a node that has slots, or that a member follows."""
        node = next((node for node in self.simulation.nodes.values() if node.id == step.lost_id), None)
        if node is not None and node.name not in self.given_up:
            assert not node.slots
        followers = [n.name for n in self.simulation.nodes.values() if n.primary == step.lost_id and n.up]
        assert not set(followers) & set(self.members)

    def go(self) -> None:
        """Run the loop to its end."""
        for number in range(ROUNDS):
            if self.round(self.lapse(number)):
                break
        else:
            views = self.look()
            pytest.fail(f"not there: {self.destination.todo(views)}, {self.destination.agreement(views).by_node()}")
        found = agree({name: view for name, view in self.simulation.views().items() if name in self.members})
        assert found.healthy, found.by_node()
        assert found.layout == self.goal
        for name in self.members:
            assert len(self.simulation.nodes[name].peers) == len(self.members) - 1

    def standing(self) -> Standing:
        """As a command decides on it that comes anew."""
        views = self.look()
        nodes = [NODES[name] for name in views]
        outside = {node.name for node in strangers(nodes, views)}
        absent = lost([NODES[name] for name in self.leaving], views)
        now = shape({name: view for name, view in seen(views).items() if name not in outside}, absent)
        return Standing(now, places())


@contextmanager
def _tolerating(text: str) -> Iterator[None]:
    try:
        yield
    except Refused as refused:
        if text not in refused.text:
            raise


def places() -> dict[str, Place]:
    return {name: Place(f"h{index % 5}") for index, name in enumerate(NAMES)}


def start(nodes: int, replicas: int) -> tuple[Simulation, Standing]:
    plan = build_plan(ClusterSpec(nodes=nodes, replicas=replicas, name="n", base_port=7000), Site.assumed())
    simulation = Simulation.of(plan.nodes)
    form(plan, simulation)
    for node in plan.primaries:
        simulation.put(node.name, covering_key(*node.slots[0], f" of {node.name}"), "1")
    simulation.views()
    return simulation, Standing(plan.layout, places())


def join(simulation: Simulation, goal: Layout) -> None:
    """Start the servers that are not there yet."""
    for name in goal.nodes:
        if name not in simulation.nodes:
            simulation.add(name, NODES[name].addresses.meet, NODES[name].addresses.bus_port)


@st.composite
def ways(draw: st.DrawFn, *, a_primary_leaves: bool = False) -> Way:
    """A formed cluster, and a goal that one of the functions of planning gives for it."""
    replicas = draw(st.integers(0, 2), "replicas")
    nodes = draw(st.integers(replicas + 1, 7), "nodes")
    simulation, standing = start(nodes, replicas)
    layout = standing.layout
    members = list(layout.nodes)
    newcomers = NAMES[nodes : nodes + draw(st.integers(1, 3), "newcomers")]
    primaries = [shard.primary for shard in layout.shards]
    gone = [draw(st.sampled_from(primaries))] if a_primary_leaves else []
    kinds = ["scale", "remove", *(() if gone else ("add primaries", "add replicas", "rebalance"))]
    kind = draw(st.sampled_from(kinds if len(primaries) > 1 or not gone else kinds[:1]), "kind")
    if kind == "scale":
        pool = [name for name in (*members, *newcomers) if name not in gone]
        kept = draw(st.lists(st.sampled_from(pool), min_size=1, unique=True), "members")
        kept.sort(key=standing.rank)
        counts = [0] * draw(st.integers(1, len(kept)), "primaries")
        for _ in range(len(kept) - len(counts)):
            counts[draw(st.integers(0, len(counts) - 1))] += 1
        goal = scaled(standing, kept, counts)
    elif kind == "add primaries":
        goal = with_primaries(standing, newcomers)
    elif kind == "add replicas":
        goal = with_replicas(standing, newcomers)
    elif kind == "rebalance":
        weights = {shard.primary: Fraction(draw(st.integers(1, 5))) for shard in layout.shards}
        goal = moved(layout, rebalance(layout, weights))
    else:
        staying = draw(st.sampled_from([name for name in primaries if name not in gone]))
        others = [name for name in members if name not in (staying, *gone)]
        also = draw(st.lists(st.sampled_from(others), min_size=not gone, unique=True), "leaving") if others else []
        leaving = [*gone, *also]
        assume(leaving)
        goal = without(standing, leaving, replicas=0, fewer=True)
    join(simulation, goal)
    return Way(simulation, list(goal.nodes), goal, [name for name in members if name not in goal.nodes])


@quick
@given(ways())
def test_every_goal_is_reached(way: Way) -> None:
    keys = all_keys(way)
    way.go()
    assert all_keys(way) == keys
    assert way.round()
    assert all(name not in way.simulation.nodes for name in way.leaving)


def all_keys(way: Way) -> dict[str, str]:
    nodes = [node for node in way.simulation.nodes.values() if node.primary is None]
    return {key: value for node in nodes for key, value in node.data.get("db0", {}).items()}


@quick
@given(ways(), st.data())
def test_it_may_stop_after_any_steps_and_begin_anew(way: Way, data: st.DataObject) -> None:
    way.lapse = lambda number: data.draw(st.none() | st.integers(0, 4), "steps of the round") if number < 12 else None
    keys = all_keys(way)
    way.go()
    assert all_keys(way) == keys


@quick
@given(ways(), st.data())
def test_late_gossip_delays_and_does_not_derail(way: Way, data: st.DataObject) -> None:
    way.simulation.held = True
    keys = all_keys(way)
    for _ in range(data.draw(st.integers(0, 10), "rounds")):
        way.round()
        names = [name for name, node in way.simulation.nodes.items() if node.up]
        way.simulation.gossip(only=data.draw(st.sets(st.sampled_from(names)), "who hears"))
    way.simulation.held = False
    way.go()
    assert all_keys(way) == keys


@quick
@given(ways(), st.data())
def test_another_goal_on_the_way_is_reached(way: Way, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 6), "rounds")):
        way.round(data.draw(st.none() | st.integers(0, 3), "steps"))
    there = sorted((name for name in way.simulation.nodes), key=NAMES.index)
    standing = way.standing()
    keep = data.draw(st.integers(1, len(there)), "nodes")
    replicas = data.draw(st.integers(0, min(2, keep - 1)), "replicas")
    counts = replica_counts(ClusterSpec(nodes=keep, replicas=replicas))
    goal = scaled(standing, there[:keep], counts)
    again = Way(way.simulation, there[:keep], goal, there[keep:])
    again.go()
    assert Counter(len(shard.replicas) for shard in goal.shards) == Counter(counts)


@quick
@given(ways(), st.data())
def test_a_failover_on_the_way_is_undone_or_lived_with(way: Way, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(0, 5), "rounds")):
        way.round(data.draw(st.none() | st.integers(0, 3), "steps"))
    way.simulation.views()
    # Whoever was forgotten by its primary already is not heard there.
    leaders = {node.id: node for node in way.simulation.nodes.values() if node.slots}
    able = [
        node.name
        for node in way.simulation.nodes.values()
        if node.linked and node.primary in leaders and node.id in leaders[node.primary].peers
    ]
    assume(able)
    way.simulation.fail_over(data.draw(st.sampled_from(able), "who takes over"))
    way.go()


@quick
@given(st.integers(2, 7), st.integers(0, 2), st.data())
def test_a_dead_node_can_leave(nodes: int, replicas: int, data: st.DataObject) -> None:
    assume(nodes > replicas + 1)
    simulation, standing = start(nodes, replicas)
    layout = standing.layout
    if data.draw(st.booleans(), "an empty primary among them"):
        goal = with_primaries(standing, [NAMES[nodes]])
        empty = make_layout([*layout.shards, Shard(NAMES[nodes], ())])
        join(simulation, goal)
        Way(simulation, list(empty.nodes), empty).go()
        layout, standing = empty, Standing(empty, standing.places)
        dying = NAMES[nodes]
    else:
        dying = data.draw(st.sampled_from(layout.nodes), "who dies")
    shard = next(shard for shard in layout.shards if dying in shard.nodes)
    leads = shard.primary == dying and bool(shard.slots)
    also = data.draw(st.lists(st.sampled_from(layout.nodes), unique=True, max_size=2), "who leaves, too")
    leaving = list(dict.fromkeys([dying, *also, *(shard.replicas if leads else ())]))
    assume(any(each.slots and each.primary not in leaving for each in layout.shards))
    simulation.set_up(dying, up=False)
    goal = without(standing, leaving, replicas=0, fewer=True)
    way = Way(simulation, list(goal.nodes), goal, leaving, frozenset({dying} if leads else ()))
    assert way.standing().layout == layout
    way.lapse = lambda number: data.draw(st.none() | st.integers(0, 3), "steps of the round") if number < 8 else None
    way.go()


@quick
@given(ways(a_primary_leaves=True), st.data())
def test_slots_of_a_node_that_dies_while_it_leaves_are_not_given_up(way: Way, data: st.DataObject) -> None:
    serving = [name for name in way.leaving if way.simulation.nodes[name].slots]
    dying = data.draw(st.sampled_from(serving), "who dies")
    for _ in range(data.draw(st.integers(0, 4), "rounds")):
        way.round(data.draw(st.none() | st.integers(0, 2), "steps"))
    # By then all have heard who took over from whom.
    way.simulation.views()
    assume(dying in way.simulation.nodes and way.simulation.nodes[dying].slots)
    way.simulation.set_up(dying, up=False)
    node_id = way.simulation.nodes[dying].id
    followers = {name for name, node in way.simulation.nodes.items() if node.primary == node_id}
    knowing = {name for name, node in way.simulation.nodes.items() if node_id in node.peers}
    for _ in range(8):
        assert not way.round()
    assert not any(isinstance(step, AddSlots) for step in way.taken)
    renewed = {step.node for step in way.taken if isinstance(step, Renew)}
    assert not renewed & followers
    assert all(node_id in way.simulation.nodes[name].peers for name in knowing - renewed)
    way.simulation.set_up(dying, up=True)
    way.go()


def order(steps: Sequence[Step]) -> Iterator[type[Step]]:
    for step in steps:
        yield type(step)


def test_newcomers_that_know_only_each_other_have_not_joined() -> None:
    """A command may have been killed between its first introductions."""
    simulation, standing = start(3, 0)
    goal = with_replicas(standing, ["n3", "n4"])
    join(simulation, goal)
    for number, name in enumerate(("n3", "n4")):
        simulation.run(SetEpoch(name, 20 + number))
    to = NODES["n4"].addresses
    simulation.run(Meet("n3", "n4", to.meet, to.bus_port))
    nodes = [NODES[name] for name in NAMES[:5]]
    assert [node.name for node in strangers(nodes, simulation.views())] == ["n3", "n4"]
    simulation.set_up("n4", up=False)
    assert [node.name for node in strangers(nodes, simulation.views())] == ["n3", "n4"]
    simulation.set_up("n4", up=True)
    Way(simulation, NAMES[:5], goal).go()
    assert strangers(nodes, simulation.views()) == []
    # Whoever knows somebody else is somebody else's.
    simulation.add("n5", NODES["n5"].addresses.meet, NODES["n5"].addresses.bus_port)
    simulation.add("n6", NODES["n6"].addresses.meet, NODES["n6"].addresses.bus_port)
    to = NODES["n6"].addresses
    simulation.run(Meet("n5", "n6", to.meet, to.bus_port))
    assert strangers([*nodes, NODES["n5"]], simulation.views()) == []


def test_two_replicas_of_one_shard_that_are_to_lead() -> None:
    """One goes on with the slots, the other begins anew: it has to be the same one for the goal and for the way."""
    simulation, standing = start(3, 2)
    goal = scaled(standing, ["n1", "n2"], [0, 0])
    way = Way(simulation, ["n1", "n2"], goal, ["n0"])
    way.go()
    kinds = list(order(way.taken))
    assert kinds.count(Failover) == 1
    assert kinds.count(Renew) == 1
    assert way.moves == 1


def test_the_order_of_a_way() -> None:
    simulation, standing = start(6, 1)
    goal = scaled(standing, NAMES[:8], replica_counts(ClusterSpec(nodes=8, replicas=1)))
    join(simulation, goal)
    way = Way(simulation, NAMES[:8], goal)
    way.go()
    kinds = list(order(way.taken))
    assert kinds.count(SetEpoch) == 2
    assert kinds.count(Replicate) == 1
    assert Meet in kinds
    assert Failover not in kinds
    assert Renew not in kinds
    assert way.moves == 3
