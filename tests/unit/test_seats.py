"""Plans of clusters whose members were changed since their creation, and what a further member can have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.errors import Conflict
from bootstrap.planning.placement import Place, judge, place
from bootstrap.planning.plan import Kept, Plan, Seat, build_plan, seated_spec, seats_of
from bootstrap.planning.ports import PortUse, next_ports
from bootstrap.planning.site import Engine, Host, ServerInfo, Site
from bootstrap.planning.slots import SLOTS, slot_ranges
from bootstrap.planning.spec import DEFAULT_IMAGE, ClusterSpec
from bootstrap.planning.subnets import choose_network

PROCESSES = ClusterSpec(runtime="process")
HERE = Site.assumed(PROCESSES)
LINUX = Site("docker", (Host("vm"),), ServerInfo("valkey", (9, 1, 0), DEFAULT_IMAGE), engine=Engine("local", "28.0.0"))
FIRST, SECOND = slot_ranges(2)
FIVE = (
    Seat(7, 6500, "b", "z", "valkey2"),
    Seat(0, 6379, "a", "y", None, (FIRST,)),
    Seat(3, 6382, "a", "y", "valkey0"),
    Seat(2, 6381, "b", "z", None, (SECOND,)),
    Seat(4, 6400, "a", "", "valkey2"),
)


def seated(seats: tuple[Seat, ...] = FIVE, site: Site = HERE, **fields: Any) -> Plan:
    asked = replace(seated_spec(PROCESSES if site is HERE else ClusterSpec(), seats), **fields)
    made = build_plan(replace(asked, nodes=6, replicas=1), site)
    return build_plan(asked, site, kept=Kept(6379, made.announcement, made.network, seats))


def test_exactly_the_seats_are_planned_in_the_order_of_their_indexes() -> None:
    plan = seated()
    assert plan.seated
    assert plan.base_port == 6379
    assert [(node.name, node.index, node.role) for node in plan.nodes] == [
        ("valkey0", 0, "primary"),
        ("valkey2", 2, "primary"),
        ("valkey3", 3, "replica"),
        ("valkey4", 4, "replica"),
        ("valkey7", 7, "replica"),
    ]
    assert [node.addresses.control.port for node in plan.nodes] == [6379, 6381, 6382, 6400, 6500]
    assert [node.setting("port") for node in plan.nodes] == ["6379", "6381", "6382", "6400", "6500"]
    assert [node.epoch for node in plan.nodes] == [4, 5, 1, 2, 3]
    assert [(node.host, node.zone) for node in plan.nodes] == [
        ("a", "y"),
        ("b", "z"),
        ("a", "y"),
        ("a", ""),
        ("b", "z"),
    ]
    assert [node.setting("availability-zone") for node in plan.nodes] == ["y", "z", "y", "", "z"]
    assert [(s.primary, s.slots, s.replicas) for s in plan.layout.shards] == [
        ("valkey0", (FIRST,), ("valkey3",)),
        ("valkey2", (SECOND,), ("valkey4", "valkey7")),
    ]
    assert seats_of(plan) == tuple(sorted(FIVE, key=lambda seat: seat.index))


def test_what_is_said_of_a_plan_is_said_of_its_seats() -> None:
    plan = seated()
    assert plan.arithmetic == "5 nodes = 2 primaries + 3 replicas"
    assert plan.placement == (
        "2 of 3 replicas share a host with their primary",
        "2 of 3 replicas share a zone with their primary",
    )
    assert plan.warnings == ("2 primaries cannot elect a successor when one is lost; use 6 nodes or more for that",)
    assert [each.name for each in plan.creations] == ["valkey", *(node.name for node in plan.nodes)]
    assert (plan.spec.nodes, plan.spec.replicas) == (5, 1)


def test_one_primary_of_several_may_have_no_replica() -> None:
    plan = seated(FIVE[:2] + FIVE[3:])
    assert plan.spec.replicas == 0
    assert plan.arithmetic == "4 nodes = 2 primaries + 2 replicas"
    assert plan.warnings[0].startswith("2 primaries cannot elect")


def test_a_new_primary_may_have_no_slots_yet_and_ranges_are_as_servers_tell_them() -> None:
    halves = replace(FIVE[1], slots=((100, FIRST[1]), (0, 99)))
    plan = seated((halves, FIVE[3], Seat(9, 6510, "a")))
    assert [node.slots for node in plan.nodes] == [(FIRST,), (SECOND,), ()]
    assert [node.role for node in plan.nodes] == ["primary"] * 3
    assert not plan.warnings


def test_containers_have_the_addresses_of_their_indexes_and_the_ports_of_their_seats() -> None:
    plan = seated(site=LINUX)
    assert plan.network is not None
    assert [node.container.address for node in plan.nodes if node.container] == [
        plan.network.address(index) for index in (0, 2, 3, 4, 7)
    ]
    assert [str(a) for n in plan.nodes if n.container for a in n.container.published] == [
        f"127.0.0.1:{port}" for port in (6379, 6381, 6382, 6400, 6500)
    ]
    assert [node.container.volume for node in plan.nodes if node.container][-1] == "valkey7-data"


@given(nodes=st.integers(2, 20), replicas=st.integers(0, 3), zones=st.sampled_from([(), ("a",), ("a", "b", "c")]))
def test_the_seats_of_any_plan_make_the_same_plan(nodes: int, replicas: int, zones: tuple[str, ...]) -> None:
    for site in (HERE, LINUX):
        asked = PROCESSES if site is HERE else ClusterSpec()
        spec = replace(asked, nodes=max(nodes, replicas + 1), replicas=replicas, zones=zones)
        plan = build_plan(spec, site)
        assert seated_spec(spec, seats_of(plan)) == spec
        assert seated_spec(replace(spec, replicas=9), seats_of(plan)).replicas >= replicas
        again = build_plan(spec, site, kept=Kept(plan.base_port, plan.announcement, plan.network, seats_of(plan)))
        assert (again.nodes, again.placement, again.creations) == (plan.nodes, plan.placement, plan.creations)
        assert not plan.seated


@settings(deadline=None)
@given(st.data())
def test_shards_are_judged_as_placements_are(data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=5))
    spots = st.builds(Place, st.sampled_from("abc"), st.sampled_from(["", "x", "y"]))
    places = data.draw(st.lists(spots, min_size=len(counts) + sum(counts), max_size=len(counts) + sum(counts)))
    placement = place(places, counts)
    chosen = [places[at] for at in placement.order]
    followers = list(zip(placement.primary_of, chosen[len(counts) :], strict=True))
    shards = [[chosen[at], *(spot for primary, spot in followers if primary == at)] for at in range(len(counts))]
    assert judge(shards) == placement.score


@pytest.mark.parametrize(
    ("seats", "why"),
    [
        ((replace(FIVE[0], primary="valkey9"), *FIVE[1:]), "a replica of no primary"),
        ((replace(FIVE[0], primary="valkey3"), *FIVE[1:]), "a replica of no primary"),
        ((replace(FIVE[0], index=0), *FIVE[1:]), "an index twice"),
        ((replace(FIVE[0], port=6379), *FIVE[1:]), "a port twice"),
        ((replace(FIVE[0], slots=((0, 1),)), *FIVE[1:]), "a replica with slots, a slot twice"),
        (FIVE[:1], "no primary, a replica of no primary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_seats_that_make_no_cluster_are_refused(seats: tuple[Seat, ...], why: str) -> None:
    with pytest.raises(Conflict, match=why) as caught:
        build_plan(PROCESSES, HERE, kept=Kept(6379, seats=seats))
    assert caught.value.code == "bad-record"
    assert "delete --name valkey" in caught.value.hint


def test_a_network_without_an_address_left_says_so() -> None:
    network = choose_network("valkey", 6, ())
    assert network.subnet.endswith("/26")
    assert len({network.address(index) for index in range(30)}) == 30
    for index in (30, 61, 62, 10**6):
        with pytest.raises(Conflict, match="has no address for a node") as caught:
            seated((*FIVE, Seat(index, 6600, "vm", primary="valkey0")), LINUX)
        assert caught.value.code == "network-full"
        assert "remove a node" in caught.value.hint


def test_a_cluster_at_the_highest_ports_may_grow_all_the_same() -> None:
    made = replace(PROCESSES, base_port=55530)
    plan = build_plan(made, HERE)
    seats = (*seats_of(plan), Seat(6, 6379, "localhost", primary="valkey0"))
    assert len(build_plan(seated_spec(made, seats), HERE, kept=Kept(55530, seats=seats)).nodes) == 7


@pytest.mark.parametrize(
    ("use", "expected"),
    [("all", (6382, 6385, 6387)), ("data", (6382, 6384, 6385)), ("none", (6382, 6383, 6384))],
)
def test_further_ports_are_the_lowest_that_nobody_has(use: PortUse, expected: tuple[int, ...]) -> None:
    taken = {6379: "the cluster", 16379: "the cluster", 6383: "x", 16384: "y", 6386: "z"}
    site = replace(HERE, taken_ports=taken, reserved_ports={6381: "the cluster", 6388: "w"})
    found = next_ports(site, {6379, 6380, 6381}, 3, use, base=6379)
    assert found == expected
    assert next_ports(site, (), 0, use, base=6379) == ()


def test_a_port_that_was_given_back_is_the_next_one() -> None:
    assert next_ports(HERE, {6380, 6381}, 2, "all", base=6379) == (6379, 6382)


def test_bus_ports_of_further_nodes_meet_no_data_port() -> None:
    assert next_ports(HERE, {16380}, 2, "all", base=6379) == (6379, 6381)
    assert next_ports(HERE, {6379}, 1, "all", base=16379) == (16380,)


def test_further_ports_may_be_lacking() -> None:
    with pytest.raises(Conflict, match="no 3 free data ports from 55534 on") as caught:
        next_ports(HERE, (), 3, "all", base=55534)
    assert caught.value.code == "no-free-ports"
    assert next_ports(HERE, (), 2, "all", base=55534) == (55534, 55535)


def test_slots_are_all_there() -> None:
    assert seated().layout.slots == SLOTS
