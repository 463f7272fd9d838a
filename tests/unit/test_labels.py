"""What an engine's labels hold, and what is read back of it: of the network, or of containers that lost theirs."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import pytest

from bootstrap.planning.plan import Plan, Seat, build_plan, seated_spec, seats_of
from bootstrap.planning.site import Engine, Host, Resolved, ServerInfo, Site
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes import daemons
from bootstrap.runtimes.base import NodeRecord, Record
from bootstrap.runtimes.engine.labels import (
    CLUSTER,
    GENERATION,
    MEMBER,
    NODE,
    RECORD,
    network_labels,
    node_labels,
    read_record,
    with_states,
)

MADE = "2026-01-02T03:04:05+00:00"
SITE = Site(
    "docker",
    (Host("vm"),),
    ServerInfo("valkey", (9, 1, 2), "localhost:5000/valkey:9.1"),
    engine=Engine("desktop", "28.0.0", "me.lan"),
    names={"me.lan": Resolved("127.0.0.1", "loopback")},
)


def plan(**asked: Any) -> Plan:
    fields: dict[str, Any] = {"name": "web1", "nodes": 12, "zones": ("a", "b")} | asked
    return build_plan(ClusterSpec(**fields), SITE)


def labels_of(plan: Plan, *, owner: dict[str, Any] | None = None) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The labels of a cluster's network and containers."""
    network = network_labels(plan, created_at=MADE, owner=owner or {})
    return network, [node_labels(network, node) for node in plan.nodes]


def expected(plan: Plan) -> Record:
    return Record(
        name="web1",
        runtime="docker",
        spec={
            "name": "web1", "nodes": 12, "replicas": 1, "extra_replica_of": [], "base_port": None, "server": None,
            "image": None, "announce": "auto", "announce_host": None, "audience": "auto", "publish": True,
            "expose": None,
            "ephemeral": False,
            "memory": None, "zones": ["a", "b"], "user": None, "tls": False, "settings": {},
        },
        base_port=6379,
        nodes=tuple(
            NodeRecord(n.name, n.index, n.host, n.zone, n.addresses, primary=n.primary, slots=n.slots)
            for n in plan.nodes
        ),
        created_at=MADE,
        server="valkey 9.1.2",
        server_path="localhost:5000/valkey:9.1",
        announcement=plan.announcement,
        network=plan.network,
    )  # fmt: skip


@pytest.mark.parametrize("asked", [{}, {"announce": "client-address"}, {"announce": "same-port"}])
def test_a_network_and_its_containers_tell_the_same_record(asked: dict[str, Any]) -> None:
    planned = plan(**asked)
    network, containers = labels_of(planned)
    wanted = expected(planned)
    wanted = replace(wanted, spec={**wanted.spec, **asked})
    assert read_record(network, containers, runtime="docker") == wanted
    assert read_record(network, [], runtime="docker") == wanted
    # By name they come as web1-0, web1-1, web1-10, web1-11, web1-2 ...
    assert read_record(None, sorted(containers, key=lambda each: each[NODE]), runtime="docker") == wanted


def test_a_record_keeps_what_a_plan_cannot_choose_again() -> None:
    planned = plan()
    assert planned.announcement is not None
    assert (planned.announcement.strategy, planned.announcement.gateway) == ("host-name", "127.0.0.1")
    network, _ = labels_of(planned)
    kept = read_record(network, [], runtime="docker").kept
    taken = replace(SITE, names={}, engine=Engine("desktop", "28.0.0", "me.lan", ("172.28.0.0/15",)))
    assert build_plan(planned.spec, taken, kept=kept).nodes == planned.nodes


def test_labels_are_found_by_cluster_and_node() -> None:
    network, containers = labels_of(plan())
    assert network[CLUSTER] == "web1"
    assert NODE not in network
    assert {each[CLUSTER] for each in containers} == {"web1"}
    assert [each[NODE] for each in containers] == [f"web1-{index}" for index in range(12)]


def test_nothing_secret_is_in_labels() -> None:
    network, containers = labels_of(plan(settings={"maxmemory": "10mb"}))
    assert "10mb" in network[RECORD]
    # The nodes are in the network's, each one in its container's.
    assert "web1-1" in network[RECORD]
    assert "web1-1" not in containers[0][RECORD]
    assert "web1-0" in containers[0][MEMBER]


def test_containers_that_are_left_are_what_is_known() -> None:
    planned = plan()
    _, containers = labels_of(planned)
    found = read_record(None, [containers[7], containers[2]], runtime="docker")
    assert [node.name for node in found.nodes] == ["web1-2", "web1-7"]
    assert found.network == planned.network
    assert found.base_port == 6379


def test_an_owner_that_is_gone_makes_an_orphan() -> None:
    here = daemons.owner()
    for owner, orphan in [
        ({}, False),
        (here, False),
        (here | {"started": here["started"] - 1000}, True),
        (here | {"pid": 2**22 + 1}, True),
        (here | {"pid": 2**22 + 1, "machine": "another"}, False),
    ]:
        network, containers = labels_of(plan(), owner=owner)
        for found in (read_record(network, [], runtime="docker"), read_record(None, containers, runtime="docker")):
            assert (found.owner, found.orphan) == (owner, orphan)
    assert here["pid"] == os.getpid()


def test_states_go_to_their_nodes() -> None:
    planned = plan()
    network, _ = labels_of(planned)
    record = read_record(network, [], runtime="docker")
    states = {"web1-1": (True, "container abc"), "web1-2": (False, "container def"), "stranger": (True, "x")}
    found = with_states(record, states)
    assert [(node.name, node.running, node.detail) for node in found.nodes[:4]] == [
        ("web1-0", False, ""),
        ("web1-1", True, "container abc"),
        ("web1-2", False, "container def"),
        ("web1-3", False, ""),
    ]
    assert found.running == 1


def grown(made: Plan) -> Plan:
    """With a further replica of the first node, and without the last node."""
    network, _ = labels_of(made)
    seats = (*seats_of(made)[:-1], Seat(13, 7000, "vm", primary=made.nodes[0].name))
    kept = replace(read_record(network, [], runtime="docker").kept, seats=seats)
    return build_plan(seated_spec(made.spec, seats), SITE, kept=kept)


def renewal(plan: Plan, generation: int) -> dict[str, str]:
    return {**network_labels(plan, created_at=MADE, owner={}), GENERATION: str(generation)}


def test_the_latest_renewal_of_a_record_counts() -> None:
    made = plan()
    network, members = labels_of(made)
    there = [renewal(made, 9), renewal(grown(made), 10)]
    for order in (there, there[::-1]):
        for of_network in (network, None):
            found = read_record(of_network, members, runtime="docker", renewals=order)
            assert found.seated
            assert found.kept.seats == seats_of(grown(made))
    assert not read_record(network, members, runtime="docker", renewals=[renewal(made, 9)]).seated


@pytest.mark.parametrize("generation", ["", "x", "1.5", ...])
def test_a_renewal_without_a_number_is_no_record(generation: Any) -> None:
    made = plan()
    labels = {**renewal(made, 1), GENERATION: generation}
    there = [{key: value for key, value in labels.items() if value is not ...}, renewal(made, 1)]
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record(labels_of(made)[0], [], runtime="docker", renewals=there)


def test_where_the_renewal_was_pruned_away_newcomers_tell_themselves() -> None:
    made = plan()
    network, members = labels_of(made)
    newcomer = node_labels(network, grown(made).nodes[-1])
    for there in (read_record(network, [*members[1:], newcomer], runtime="docker"),
                  read_record(None, [newcomer, *members], runtime="docker")):  # fmt: skip
        assert there.seated
        assert [node.index for node in there.nodes] == [*range(12), 13]
        assert (there.spec["nodes"], there.spec["replicas"]) == (13, 1)
        again = build_plan(seated_spec(made.spec, there.kept.seats), SITE, kept=there.kept)
        assert again.nodes[-1].addresses == grown(made).nodes[-1].addresses
        assert again.arithmetic == "13 nodes = 6 primaries + 7 replicas"


def test_of_members_that_do_not_say_whom_they_follow_is_known_that_they_are_there() -> None:
    made = plan()
    network, _ = labels_of(made)
    document = json.loads(network[RECORD])
    for node in document["nodes"]:
        del node["primary"], node["slots"]
    newcomer = node_labels(network, grown(made).nodes[-1])
    found = read_record({**network, RECORD: json.dumps(document)}, [newcomer], runtime="docker")
    assert not found.seated
    assert [node.index for node in found.nodes] == [*range(12), 13]
    assert found.spec["nodes"] == 12


def test_a_newcomer_that_cannot_be_read_is_no_record() -> None:
    network, _ = labels_of(plan())
    for text in ("", "7", "[]", "{}"):
        with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
            read_record(network, [{CLUSTER: "web1", NODE: "web1-13", MEMBER: text}], runtime="docker")


def changed(text: str, **fields: Any) -> str:
    document: dict[str, Any] = json.loads(text) | fields
    return json.dumps({key: value for key, value in document.items() if value is not ...})


GARBAGE: list[Any] = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"text"',
    "{}",
    '{"format_version": 1}',
    '{"format_version": 99}',
]


@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_on_a_network_is_no_record(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record({CLUSTER: "web1", RECORD: text}, [], runtime="docker")


@pytest.mark.parametrize("label", [RECORD, MEMBER])
@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_on_a_container_is_no_record(label: str, text: str) -> None:
    _, containers = labels_of(plan())
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record(
            None, [*containers[:3], {**containers[3], label: text}][:: -1 if label == RECORD else 1], runtime="x"
        )


@pytest.mark.parametrize("label", [RECORD, MEMBER])
def test_a_label_that_is_missing_is_no_record(label: str) -> None:
    _, containers = labels_of(plan())
    bare = {key: value for key, value in containers[0].items() if key != label}
    with pytest.raises(ValueError, match="record"):
        read_record(None, [bare, *containers[1:]], runtime="docker")
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record({CLUSTER: "web1"}, containers, runtime="docker")


@pytest.mark.parametrize(
    "damage",
    [
        {"nodes": ...},
        {"nodes": 7},
        {"nodes": [7]},
        {"nodes": [{}]},
        {"server": "valkey"},
        {"announcement": {"strategy": "gateway"}},
        {"announcement": {"strategy": "gateway", "why": "x", "newer": 1}},
        {"announcement": 7},
        {"network": {"name": "x"}},
        {"network": "x"},
        {"created_at": ...},
        {"format_version": 2},
        {"base_port": ...},
    ],
    ids=str,
)
def test_damage_to_a_record_is_no_record(damage: dict[str, Any]) -> None:
    network, _ = labels_of(plan())
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record({**network, RECORD: changed(network[RECORD], **damage)}, [], runtime="docker")


@pytest.mark.parametrize(
    "where",
    [{"host": 7}, {"host": "nonsense"}, {"network": "a:b"}, {"announced": "1"}, {"meet": ...}, {"bus_port": ...}],
    ids=str,
)
def test_addresses_that_cannot_be_read_are_no_record(where: dict[str, Any]) -> None:
    _, containers = labels_of(plan())
    member = json.loads(containers[0][MEMBER])
    member["addresses"] = json.loads(changed(json.dumps(member["addresses"]), **where))
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record(None, [{**containers[0], MEMBER: json.dumps(member)}], runtime="docker")


@pytest.mark.parametrize("owner", [{"pid": "x", "started": 1.0}, {"started": 1.0}, 7, [1], {"pid": 1, "started": "x"}])
def test_an_owner_that_cannot_be_read_is_no_record(owner: Any) -> None:
    network, _ = labels_of(plan())
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        read_record({**network, RECORD: changed(network[RECORD], owner=owner)}, [], runtime="docker")
