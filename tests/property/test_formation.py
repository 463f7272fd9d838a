"""The loop ends in the planned layout from wherever it is started: after any prefix of its steps, whatever was lost."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from bootstrap.judging.agreement import agree, conforms
from bootstrap.judging.simulation import Refused, Simulation, play, settle
from bootstrap.judging.steps import AddSlots, Forget, Meet, Replicate, SetEpoch, Step, next_steps
from bootstrap.planning.plan import Plan, build_plan
from bootstrap.planning.site import Host, Site
from bootstrap.planning.spec import ClusterSpec

quick = settings(deadline=None, max_examples=30)


@st.composite
def plans(draw: st.DrawFn, *, least: int = 1, most: int = 20, replicas: int = 0) -> Plan:
    share = draw(st.integers(replicas, 3))
    nodes = draw(st.integers(max(least, share + 1), most))
    return make_plan(nodes, share)


def make_plan(nodes: int, replicas: int) -> Plan:
    return build_plan(ClusterSpec(nodes=nodes, replicas=replicas), Site.assumed())


def formed(plan: Plan) -> Simulation:
    simulation = Simulation.of(plan.nodes)
    settle(plan, simulation)
    return simulation


def restarted(plan: Plan, steps: tuple[Step, ...], count: int) -> Simulation:
    """Servers after the first steps of a run that was killed then; gossip goes on by itself."""
    simulation = Simulation.of(plan.nodes)
    for step in steps[:count]:
        # Meetings are heard of together: gossip after each of them makes a difference to nobody and takes long here.
        simulation.held = isinstance(step, Meet)
        simulation.run(step)
    simulation.held = False
    return simulation


def assert_formed(plan: Plan, simulation: Simulation) -> None:
    simulation.views()  # what takes time has now happened, too
    found = agree(simulation.views())
    assert found.healthy, found.by_node()
    assert found.layout == plan.layout
    assert_epochs(plan, simulation)


def assert_epochs(plan: Plan, simulation: Simulation) -> None:
    epochs = [simulation.nodes[node.name].epoch for node in plan.nodes]
    assert len(set(epochs)) == len(epochs)
    assert min(epochs) >= 1
    primaries = [simulation.nodes[node.name].epoch for node in plan.primaries]
    replicas = [simulation.nodes[node.name].epoch for node in plan.replicas]
    assert max(replicas, default=0) < min(primaries)


@quick
@given(plans())
@example(make_plan(1, 0))
@example(make_plan(5, 1))
def test_every_plan_is_formed(plan: Plan) -> None:
    steps = play(plan)
    assert steps == play(plan)
    simulation = restarted(plan, steps, len(steps))
    assert_formed(plan, simulation)
    assert next_steps(plan.nodes, simulation.views()) == ()


@quick
@given(plans())
def test_epochs_come_before_any_meeting_and_meetings_before_replicas(plan: Plan) -> None:
    order = [type(step) for step in play(plan)]
    assert order.count(SetEpoch) == len(plan.nodes)
    assert order.count(AddSlots) == len(plan.primaries)
    assert order.count(Replicate) == len(plan.replicas)
    assert Forget not in order
    last = {kind: max((at for at, each in enumerate(order) if each is kind), default=-1) for kind in set(order)}
    first = {kind: order.index(kind) for kind in set(order)}
    if Meet in first:
        assert last[SetEpoch] < first[Meet]
    if Replicate in first:
        assert last[Meet] < first[Replicate]


@pytest.mark.parametrize(("nodes", "replicas"), [(1, 0), (2, 1), (3, 0), (5, 1), (6, 1), (7, 2)])
def test_every_prefix_can_be_carried_on(nodes: int, replicas: int) -> None:
    plan = make_plan(nodes, replicas)
    steps = play(plan)
    for count in range(len(steps) + 1):
        simulation = restarted(plan, steps, count)
        settle(plan, simulation)
        assert_formed(plan, simulation)


@quick
@given(plans(), st.data())
def test_any_prefix_of_any_plan_can_be_carried_on_again_and_again(plan: Plan, data: st.DataObject) -> None:
    simulation = Simulation.of(plan.nodes)
    for _ in range(data.draw(st.integers(0, 4), "interruptions")):
        steps = next_steps(plan.nodes, simulation.views())
        for step in steps[: data.draw(st.integers(0, len(steps)), "steps of the round")]:
            simulation.run(step)
    settle(plan, simulation)
    assert_formed(plan, simulation)


@quick
@given(plans(), st.data())
def test_the_steps_of_a_round_may_run_in_any_order_of_the_nodes(plan: Plan, data: st.DataObject) -> None:
    simulation = Simulation.of(plan.nodes)
    for _ in range(6):
        steps = next_steps(plan.nodes, simulation.views())
        nodes = data.draw(st.permutations(sorted({step.node for step in steps})))
        simulation.held = data.draw(st.booleans(), "held")
        for step in [step for node in nodes for step in steps if step.node == node]:
            simulation.run(step)
        simulation.held = False
    assert_formed(plan, simulation)


@quick
@given(plans(most=12), st.data())
def test_late_gossip_delays_and_does_not_derail(plan: Plan, data: st.DataObject) -> None:
    simulation = Simulation.of(plan.nodes)
    simulation.held = True
    names = [node.name for node in plan.nodes]
    for _ in range(data.draw(st.integers(0, 10), "rounds")):
        for step in next_steps(plan.nodes, simulation.views()):
            simulation.run(step)
        simulation.gossip(only=data.draw(st.sets(st.sampled_from(names)), "who hears"))
    simulation.held = False
    settle(plan, simulation)
    assert_formed(plan, simulation)


@quick
@given(plans(), st.integers(1, 5))
def test_no_step_is_repeated_while_nobody_hears(plan: Plan, rounds: int) -> None:
    simulation = Simulation.of(plan.nodes)
    simulation.held = True
    taken: list[Step] = []
    for _ in range(rounds):
        steps = next_steps(plan.nodes, simulation.views())
        for step in steps:
            simulation.run(step)
        taken += steps
    assert len(set(taken)) == len(taken)


@quick
@given(plans(least=2, replicas=1), st.data())
def test_a_replica_that_lost_its_data_is_attached_again(plan: Plan, data: st.DataObject) -> None:
    simulation = formed(plan)
    lost = data.draw(st.sampled_from(plan.replicas))
    old = simulation.nodes[lost.name].id
    simulation.lose(lost.name)
    steps = settle(plan, simulation)
    assert {step.node for step in steps if isinstance(step, Forget)} == {n.name for n in plan.nodes} - {lost.name}
    assert {step.lost_id for step in steps if isinstance(step, Forget)} == {old}
    assert agree(simulation.views()).layout == plan.layout


@quick
@given(plans(least=2, replicas=1), st.data())
def test_a_primary_that_lost_its_data_follows_its_successor(plan: Plan, data: st.DataObject) -> None:
    simulation = formed(plan)
    lost = data.draw(st.sampled_from(plan.primaries))
    successor = data.draw(st.sampled_from([node for node in plan.replicas if node.primary == lost.name]))
    simulation.set_up(lost.name, up=False)
    simulation.views()
    simulation.fail_over(successor.name)
    simulation.views()
    simulation.lose(lost.name)
    settle(plan, simulation, exact=False)
    views = simulation.views()
    layout = agree(views).layout
    assert layout is not None
    shard = layout.shard_of(lost.name)
    assert shard is not None
    assert (shard.primary, shard.slots) == (successor.name, lost.slots)
    assert not conforms(layout, plan.layout, exact=False)
    assert next_steps(plan.nodes, views) == ()


@quick
@given(plans(least=2, replicas=1), st.data())
def test_roles_that_moved_are_left_alone(plan: Plan, data: st.DataObject) -> None:
    simulation = formed(plan)
    successors = data.draw(st.lists(st.sampled_from(plan.replicas), min_size=1, unique_by=lambda node: node.primary))
    for successor in successors:
        assert successor.primary is not None
        restart = data.draw(st.booleans(), "the old primary is down meanwhile")
        simulation.set_up(successor.primary, up=not restart)
        simulation.views()
        simulation.fail_over(successor.name)
        assert not (restart and next_steps(plan.nodes, simulation.views()))
        simulation.set_up(successor.primary, up=True)
    simulation.views()
    simulation.views()
    views = simulation.views()
    found = agree(views)
    assert found.healthy, found.by_node()
    assert found.layout is not None
    assert {shard.primary for shard in found.layout.shards} >= {node.name for node in successors}
    assert not conforms(found.layout, plan.layout, exact=False)
    assert next_steps(plan.nodes, views) == ()


@quick
@given(plans(least=2), st.data())
def test_nothing_is_done_while_a_node_cannot_be_seen(plan: Plan, data: st.DataObject) -> None:
    steps = play(plan)
    simulation = restarted(plan, steps, data.draw(st.integers(0, len(steps))))
    down = data.draw(st.sampled_from(plan.nodes)).name
    simulation.set_up(down, up=False)
    assert next_steps(plan.nodes, simulation.views()) == ()
    simulation.set_up(down, up=True)
    settle(plan, simulation)
    assert_formed(plan, simulation)


@quick
@given(plans(least=2), st.data())
def test_a_node_lost_on_the_way_is_taken_as_new(plan: Plan, data: st.DataObject) -> None:
    steps = play(plan)
    simulation = restarted(plan, steps, data.draw(st.integers(0, len(steps))))
    simulation.views()
    lost = simulation.nodes[data.draw(st.sampled_from(plan.nodes)).name]
    known = [node.peers[lost.id] for node in simulation.nodes.values() if lost.id in node.peers]
    # The servers hold on to the slots of a primary that is gone: only its replica, or its return, can serve them.
    assume(not any(peer.slots for peer in known))
    simulation.lose(lost.name)
    settle(plan, simulation)
    assert agree(simulation.views()).layout == plan.layout


def test_without_epochs_the_servers_never_agree() -> None:
    """The trap that the epochs are there for: it must be in the model, or the tests above would prove nothing."""
    plan = make_plan(6, 1)
    simulation = Simulation.of(plan.nodes)
    for step in play(plan):
        if not isinstance(step, SetEpoch):
            try:
                simulation.run(step)
            except Refused as refused:
                pytest.fail(refused.text)
    for _ in range(5):
        simulation.gossip()
    assert agree(simulation.views()).of("belief")


def test_hosts_and_zones_change_nothing_for_the_loop() -> None:
    site = Site("process", tuple(Host(f"h{n}", f"z{n % 2}") for n in range(4)), Site.assumed().server)
    plan = build_plan(ClusterSpec(nodes=11, replicas=2), site)
    assert_formed(plan, restarted(plan, play(plan), 10**6))
