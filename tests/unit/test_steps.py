"""What the rules do next, by situation; that they always come to an end is in property/test_formation.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootstrap.judging.simulation import Simulation, settle
from bootstrap.judging.steps import (
    HUBS,
    MESH_UP_TO,
    AddSlots,
    Forget,
    Meet,
    Nudge,
    Replicate,
    SetEpoch,
    Step,
    confirmed,
    next_steps,
)
from bootstrap.judging.views import NodeView, Silent
from bootstrap.planning.addressing import Address, given
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import Member, Plan, build_plan, plan_members
from bootstrap.planning.site import ServerInfo, Site
from bootstrap.planning.spec import ClusterSpec


def make_plan(nodes: int, replicas: int) -> Plan:
    return build_plan(ClusterSpec(nodes=nodes, replicas=replicas), Site.assumed())


PLAN = make_plan(4, 1)


def formed(plan: Plan = PLAN) -> Simulation:
    simulation = Simulation.of(plan.nodes)
    settle(plan, simulation)
    return simulation


def run(simulation: Simulation, *steps: Step) -> Simulation:
    for step in steps:
        simulation.run(step)
    return simulation


def following(simulation: Simulation, plan: Plan = PLAN) -> tuple[Step, ...]:
    return next_steps(plan.nodes, simulation.views())


def words(steps: tuple[Step, ...]) -> list[str]:
    return [f"{step.node} {' '.join(step.command)}" for step in steps]


def test_blank_nodes_get_epochs_and_slots_and_meet_nobody_yet() -> None:
    assert words(following(Simulation.of(PLAN.nodes))) == [
        "valkey0 CLUSTER SET-CONFIG-EPOCH 3",
        "valkey1 CLUSTER SET-CONFIG-EPOCH 4",
        "valkey2 CLUSTER SET-CONFIG-EPOCH 1",
        "valkey3 CLUSTER SET-CONFIG-EPOCH 2",
        "valkey0 FUNCTION FLUSH",
        "valkey1 FUNCTION FLUSH",
        "valkey0 CLUSTER ADDSLOTSRANGE 0 8191",
        "valkey1 CLUSTER ADDSLOTSRANGE 8192 16383",
    ]


def test_one_node_without_an_epoch_keeps_all_from_meeting() -> None:
    simulation = Simulation.of(PLAN.nodes)
    run(simulation, *[step for step in following(simulation) if step.node != "valkey3"])
    assert following(simulation) == (SetEpoch("valkey3", 2),)


def test_then_all_meet_and_then_replicas_follow() -> None:
    simulation = Simulation.of(PLAN.nodes)
    run(simulation, *following(simulation))
    meetings = following(simulation)
    pairs = [(step.node, step.peer) for step in meetings if isinstance(step, Meet)]
    names = [node.name for node in PLAN.nodes]
    assert len(pairs) == len(meetings)
    assert pairs == [(one, other) for at, one in enumerate(names) for other in names[at + 1 :]]
    simulation.held = True
    run(simulation, *meetings)
    assert following(simulation) == (), "meetings under way are not repeated"
    simulation.held = False
    ids = {name: simulation.nodes[name].id for name in names}
    replicas = (Replicate("valkey2", "valkey1", ids["valkey1"]), Replicate("valkey3", "valkey0", ids["valkey0"]))
    assert following(simulation) == replicas
    run(simulation, *replicas)
    assert following(simulation) == ()


def test_whom_only_one_side_knows_is_introduced_from_the_other() -> None:
    simulation = formed()
    # A MEET that got lost: valkey0 knows valkey3, which has never heard of it.
    del simulation.nodes["valkey3"].peers[simulation.nodes["valkey0"].id]
    simulation.held = True
    where = PLAN.nodes[0].addresses.meet
    once, doubtful = confirmed(following(simulation), ())
    assert once == (), "it may only look so"
    again, _ = confirmed(following(simulation), doubtful)
    assert again == (Meet("valkey3", "valkey0", where, where.port + 10000, again=True),)
    run(simulation, *again)
    assert following(simulation) == (), "it is under way"


def test_large_clusters_are_introduced_by_hubs() -> None:
    plan = make_plan(MESH_UP_TO + 2, 0)
    simulation = Simulation.of(plan.nodes)
    run(simulation, *following(simulation, plan))
    meetings = [step for step in following(simulation, plan) if isinstance(step, Meet)]
    assert {step.node for step in meetings} == {node.name for node in plan.nodes[:HUBS]}
    for hub in plan.nodes[:HUBS]:
        assert {step.peer for step in meetings if step.node == hub.name} == {
            n.name for n in plan.nodes[hub.index + 1 :]
        }


def test_a_primary_of_others_is_nudged_when_it_is_followed() -> None:
    ports = range(7000, 7004)
    members = [Member(Address("127.0.0.1", port), "127.0.0.1", port + 10000, Place(f"h{port}")) for port in ports]
    plan = plan_members(members, 1, ServerInfo("valkey", (9, 1, 0), ""))
    simulation = Simulation.of(plan.nodes)
    played = settle(plan, simulation)
    assert not [step for step in played if "FLUSH" in step.command], "nothing is flushed on servers of others"
    nudges = [step for step in played if isinstance(step, Nudge)]
    assert {step.node for step in nudges} == {node.name for node in plan.primaries}
    assert all(played.index(nudge) > played.index(step) for nudge in nudges for step in played
               if isinstance(step, Replicate))  # fmt: skip
    assert following(simulation, plan) == ()


def test_who_has_written_is_not_asked_to_write() -> None:
    simulation = Simulation.of(PLAN.nodes)
    simulation.put("valkey0", "key", "value")
    simulation.set_epoch("valkey1", 7)
    assert not [step for step in following(simulation) if "FLUSH" in step.command]


def test_the_bus_port_is_named_where_it_is_not_the_usual_one() -> None:
    usual, other = Meet("a", "b", Address("10.0.0.1", 7000), 17000), Meet("a", "b", Address("10.0.0.1", 7000), 7001)
    assert usual.command == ("CLUSTER", "MEET", "10.0.0.1", "7000")
    assert other.command == ("CLUSTER", "MEET", "10.0.0.1", "7000", "7001")


def test_names_are_met_by_the_address_that_they_resolved_to() -> None:
    members = [Member(Address("localhost", port), "127.0.0.1", port + 10000, Place("h")) for port in (7000, 7001)]
    plan = plan_members(members, 0, ServerInfo("valkey", (9, 1, 0), ""))
    assert plan.nodes[0].addresses == given(Address("localhost", 7000), "127.0.0.1")
    simulation = Simulation.of(plan.nodes)
    run(simulation, *following(simulation, plan))
    assert words(following(simulation, plan)) == ["localhost:7000 CLUSTER MEET 127.0.0.1 7001"]


@pytest.mark.parametrize("view", [Silent("cannot be reached"), NodeView("", "valkey", (9, 1, 0), cluster_mode=False)])
def test_nothing_is_done_beside_a_node_that_cannot_be_judged(view: Silent | NodeView) -> None:
    views = dict(Simulation.of(PLAN.nodes).views())
    views["valkey3"] = view
    assert next_steps(PLAN.nodes, views) == ()


def test_a_formed_cluster_is_left_alone() -> None:
    assert following(formed()) == ()


def test_slots_that_are_served_elsewhere_are_not_given_again() -> None:
    simulation = Simulation.of(PLAN.nodes)
    simulation.add_slots("valkey1", [(0, 99), (8192, 9000)])
    given_slots = [step for step in following(simulation) if isinstance(step, AddSlots)]
    assert given_slots == [AddSlots("valkey0", ((100, 8191),)), AddSlots("valkey1", ((9001, 16383),))]


def test_slots_of_a_lost_primary_are_not_given_away() -> None:
    simulation = formed()
    old = simulation.nodes["valkey0"].id
    simulation.lose("valkey0")
    steps = following(simulation)
    assert steps == (SetEpoch("valkey0", 1),), "the replica of the lost id still speaks with its epoch, 3"
    run(simulation, *steps)
    kinds = {type(step) for step in following(simulation)}
    assert kinds == {Meet}
    run(simulation, *following(simulation))
    assert following(simulation) == (), "data may come back with the lost id: nothing is decided over it"
    assert simulation.nodes["valkey1"].peers[old].slots == ((0, 8191),)


def test_a_lost_replica_is_forgotten_by_all_and_followed_up() -> None:
    simulation = formed()
    old = simulation.nodes["valkey2"].id
    simulation.lose("valkey2")
    run(simulation, *following(simulation))
    steps = following(simulation)
    assert {step for step in steps if isinstance(step, Forget)} == {Forget(f"valkey{n}", old) for n in (0, 1, 3)}
    run(simulation, *steps)
    assert following(simulation) == (Replicate("valkey2", "valkey1", simulation.nodes["valkey1"].id),)


def test_the_epoch_of_a_node_lost_on_the_way_is_free_again() -> None:
    simulation = Simulation.of(PLAN.nodes)
    run(simulation, *following(simulation))
    run(simulation, *following(simulation))
    simulation.lose("valkey2")
    # With a higher epoch than its primary's it could be shown as an empty primary for ever.
    assert following(simulation) == (SetEpoch("valkey2", 1),)


def test_strangers_are_not_forgotten() -> None:
    simulation = formed()
    stranger = simulation.add("stranger", Address("127.0.0.1", 9999), 19999)
    simulation.set_epoch("stranger", 99)
    simulation.meet("stranger", PLAN.nodes[0].addresses.meet, PLAN.nodes[0].addresses.bus_port)
    mine = {name: view for name, view in simulation.views().items() if name != "stranger"}
    assert stranger.id in simulation.nodes["valkey3"].peers
    assert next_steps(PLAN.nodes, mine) == ()
    simulation.set_up("stranger", up=False)
    mine = {name: view for name, view in simulation.views().items() if name != "stranger"}
    assert "fail" in simulation.nodes["valkey3"].peers[stranger.id].flags
    assert next_steps(PLAN.nodes, mine) == (), "it fails, and it was never one of ours"


def test_a_newcomer_does_not_get_an_epoch_that_is_in_use() -> None:
    simulation = formed()
    simulation.nodes["valkey1"].epoch = 2  # as after a collision
    for node in simulation.nodes.values():
        for peer in list(node.peers.values()):
            if peer.id == simulation.nodes["valkey1"].id:
                node.peers[peer.id] = replace(peer, epoch=2)
    simulation.lose("valkey3")
    (step,) = (step for step in following(simulation) if isinstance(step, SetEpoch))
    assert step == SetEpoch("valkey3", 1)
