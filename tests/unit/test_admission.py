"""Which servers may be taken for a plan, and everything that is said against those that may not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bootstrap.judging.admission import Fault, admit
from bootstrap.judging.simulation import Simulation, play, settle
from bootstrap.judging.views import NodeView, Silent, View
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec

PLAN = build_plan(ClusterSpec(nodes=4, replicas=1), Site.assumed())
Views = dict[str, View]
both = pytest.mark.parametrize("ours", [True, False])


def blank() -> Views:
    return dict(Simulation.of(PLAN.nodes).views())


def formed() -> Simulation:
    simulation = Simulation.of(PLAN.nodes)
    settle(PLAN, simulation)
    return simulation


def change(views: Views, name: str, **fields: Any) -> None:
    view = views[name]
    assert isinstance(view, NodeView)
    views[name] = replace(view, **fields)


@both
def test_blank_servers_are_taken(ours: bool) -> None:
    assert admit(PLAN, blank(), ours=ours) == ()


@both
def test_every_half_of_this_very_plan_is_carried_on(ours: bool) -> None:
    simulation = Simulation.of(PLAN.nodes)
    for step in play(PLAN):
        assert admit(PLAN, simulation.views(), ours=ours) == ()
        simulation.run(step)
    assert admit(PLAN, simulation.views(), ours=ours) == ()


@both
def test_the_cluster_in_use_is_verified_though_it_holds_keys_and_its_roles_moved(ours: bool) -> None:
    simulation = formed()
    simulation.put("valkey0", "k", "v")
    simulation.fail_over("valkey3")
    views = dict(simulation.views())
    change(views, "valkey1", functions=("mylib",))
    assert admit(PLAN, views, ours=ours) == ()


def silence(views: Views) -> None:
    views["valkey1"] = Silent("cannot be reached: connection refused")


def refuse_login(views: Views) -> None:
    views["valkey1"] = Silent("refuses the login: NOAUTH", "login")


def leave_cluster_mode(views: Views) -> None:
    change(views, "valkey1", cluster_mode=False)


def grow_old(views: Views) -> None:
    change(views, "valkey1", version=(6, 2, 14), flavor="redis")


def repeat(views: Views) -> None:
    views["valkey1"] = views["valkey0"]


def hold_keys(views: Views) -> None:
    change(views, "valkey1", keys={"db9": 1, "db0": 2})


def have_functions(views: Views) -> None:
    change(views, "valkey1", functions=("mylib",))


def own_slots(views: Views) -> None:
    view = views["valkey1"]
    assert isinstance(view, NodeView)
    change(views, "valkey1", peers={view.id: replace(view.myself, slots=((0, 9), (8192, 9000)))})


def know_a_stranger(views: Views) -> None:
    view = views["valkey1"]
    assert isinstance(view, NodeView)
    stranger = replace(view.myself, id="e" * 40, address=Address("10.0.0.9", 7000), flags=frozenset({"master"}))
    change(views, "valkey1", peers={**view.peers, stranger.id: stranger})


CASES: list[tuple[Callable[[Views], None], str, str, bool]] = [
    # What it does to valkey1, the fault, and whether it is one among servers of ours, too.
    (silence, "silent", "cannot be reached: connection refused", True),
    (refuse_login, "login", "refuses the login: NOAUTH", True),
    (leave_cluster_mode, "mode", "is not in cluster mode: start it with cluster-enabled yes", True),
    (grow_old, "version", "runs redis 6.2.14, and 7.0 is the oldest that works", True),
    (repeat, "twice", "is the same server as valkey0 (node id {id})", True),
    (hold_keys, "keys", "holds 2 keys in db0, 1 key in db9", True),
    (have_functions, "functions", "has function libraries: mylib", False),
    (own_slots, "slots", "owns slots 0-9, which are not planned for it", False),
    (know_a_stranger, "peers", "already knows eeeeeeee at 10.0.0.9:7000, which this command was not given", True),
]


@pytest.mark.parametrize(("damage", "kind", "text", "always"), CASES)
@both
def test_each_fault(damage: Callable[[Views], None], kind: Any, text: str, always: bool, ours: bool) -> None:
    views = blank()
    first = views["valkey0"]
    assert isinstance(first, NodeView)
    damage(views)
    expected = (Fault("valkey1", kind, text.format(id=first.id[:8])),) if always or not ours else ()
    assert admit(PLAN, views, ours=ours) == expected


def test_all_faults_of_all_nodes_are_told_at_once() -> None:
    views = blank()
    change(views, "valkey0", keys={"db0": 1})
    hold_keys(views)
    have_functions(views)
    know_a_stranger(views)
    assert [(fault.node, fault.kind) for fault in admit(PLAN, views, ours=False)] == [
        ("valkey0", "keys"),
        ("valkey1", "keys"),
        ("valkey1", "functions"),
        ("valkey1", "peers"),
    ]


def test_a_server_that_cannot_be_judged_does_not_hide_the_faults_of_others() -> None:
    views = blank()
    silence(views)
    change(views, "valkey0", keys={"db0": 1})
    change(views, "valkey2", version=(6, 0, 0))
    assert [(fault.node, fault.kind) for fault in admit(PLAN, views, ours=False)] == [
        ("valkey1", "silent"),
        ("valkey2", "version"),
        ("valkey0", "keys"),
    ]


@both
def test_who_cannot_be_seen_is_no_stranger_to_the_others(ours: bool) -> None:
    views = dict(formed().views())
    silence(views)
    assert [(fault.node, fault.kind) for fault in admit(PLAN, views, ours=ours)] == [("valkey1", "silent")]


@both
def test_a_member_that_lost_its_data_is_taken_back(ours: bool) -> None:
    simulation = formed()
    simulation.lose("valkey2")
    assert admit(PLAN, simulation.views(), ours=ours) == ()


def test_keys_of_a_cluster_of_ours_are_its_own() -> None:
    simulation = formed()
    simulation.put("valkey0", "k", "v")
    simulation.lose("valkey2")
    views = simulation.views()
    assert admit(PLAN, views, ours=True) == ()
    assert {fault.kind for fault in admit(PLAN, views, ours=False)} == {"keys"}


def test_another_shape_of_the_same_servers_is_not_this_plan() -> None:
    other = build_plan(ClusterSpec(nodes=4, replicas=0), Site.assumed())
    simulation = Simulation.of(other.nodes)
    settle(other, simulation)
    faults = admit(PLAN, simulation.views(), ours=False)
    assert {fault.node for fault in faults} == {"valkey1", "valkey2", "valkey3"}
    assert {fault.kind for fault in faults} == {"slots"}
