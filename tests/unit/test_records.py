"""What a cluster's record holds, and how what is asked for is compared with it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.planning.addressing import loopback
from bootstrap.planning.plan import Kept, Plan, Seat, build_plan, seated_spec, seats_of
from bootstrap.planning.site import Engine, Host, Resolved, ServerInfo, Site
from bootstrap.planning.spec import DEFAULT_IMAGE, ClusterSpec
from bootstrap.runtimes.base import Record
from bootstrap.runtimes.records import differences, dump_record, load_record, reserved_ports

PROCESSES = ClusterSpec(runtime="process")
LINUX = Site("docker", (Host("vm"),), ServerInfo("valkey", (9, 1, 0), DEFAULT_IMAGE), engine=Engine("local", "28.0.0"))


NAMES = {"me.lan": Resolved("127.0.0.1", "loopback")}


def recorded(spec: ClusterSpec, site: Site | None = None) -> Record:
    plan = build_plan(spec, site or Site.assumed(spec))
    text = dump_record(plan, created_at="2026-01-02T03:04:05+00:00", owner={})
    return load_record(text, runtime=plan.runtime, folder="/x")


def asked(**fields: Any) -> ClusterSpec:
    return ClusterSpec(**fields)


def test_a_record_keeps_ports_network_and_announcement() -> None:
    record = recorded(ClusterSpec(base_port=7000), LINUX)
    assert record.announcement is not None
    assert record.network is not None
    assert record.kept == Kept(7000, record.announcement, record.network)
    assert recorded(PROCESSES).kept == Kept(6379, None, None)


def test_a_record_of_the_first_version_is_read_and_compared() -> None:
    """Such a one has neither the fields of containers nor announced addresses."""
    plan = build_plan(PROCESSES, Site.assumed(PROCESSES))
    document = json.loads(dump_record(plan, created_at="2025-01-02T03:04:05+00:00", owner={}))
    for field in ("announcement", "network"):
        del document[field]
    for field in ("image", "announce", "announce_host", "publish", "ephemeral", "memory"):
        del document["spec"][field]
    del document["seated"]
    for node in document["nodes"]:
        del node["addresses"]["announced"], node["primary"], node["slots"]
    record = load_record(json.dumps(document), runtime="process", folder="/x")
    assert [node.addresses for node in record.nodes] == [loopback(6379 + index) for index in range(6)]
    assert record.kept == Kept(6379, None, None)
    assert not differences(PROCESSES, record)
    assert differences(asked(memory="256m", publish=False), record) == {
        "publish": (True, False),
        "memory": (None, "256m"),
    }


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"base_port": "auto"},
        {"base_port": 6379},
        {"announce": "fixed-address"},
        {"image": DEFAULT_IMAGE},
        {"runtime": "docker", "pull": "always", "min_primaries": 3, "state_root": "/elsewhere"},
    ],
    ids=str,
)
def test_what_asks_for_nothing_else_is_the_same_cluster(fields: dict[str, Any]) -> None:
    assert not differences(asked(**fields), recorded(ClusterSpec(), LINUX))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"nodes": 8}, {"nodes": (6, 8)}),
        ({"base_port": 7000}, {"base_port": (6379, 7000)}),
        ({"announce": "gateway"}, {"announce": ("fixed-address", "gateway")}),
        ({"image": "redis:7.0"}, {"image": (DEFAULT_IMAGE, "redis:7.0")}),
        ({"publish": False}, {"publish": (True, False)}),
        ({"ephemeral": True}, {"ephemeral": (False, True)}),
        ({"memory": "1g"}, {"memory": (None, "1g")}),
        ({"zones": ("a",)}, {"zones": ([], ["a"])}),
        ({"extra_replica_of": ("0",), "nodes": 7}, {"nodes": (6, 7), "extra_replica_of": ([], ["0"])}),
        ({"settings": {"save": ""}}, {"settings": ({}, {"save": ""})}),
    ],
    ids=str,
)
def test_another_cluster_is_told_by_field(fields: dict[str, Any], told: dict[str, Any]) -> None:
    assert differences(asked(**fields), recorded(ClusterSpec(), LINUX)) == told


@pytest.mark.parametrize(
    ("had", "wanted", "told"),
    [
        # What was asked for then and is left open now asks for nothing.
        ({"base_port": 7000, "announce": "gateway", "image": "valkey/valkey:8.1"}, {}, {}),
        # What is not open is the same only if it is said again.
        ({"memory": "1g"}, {}, {"memory": ("1g", None)}),
        ({"publish": False, "ephemeral": True}, {}, {"publish": (False, True), "ephemeral": (True, False)}),
        ({"announce_host": "me.lan"}, {}, {}),
        ({"announce_host": "me.lan"}, {"announce_host": "me.lan", "announce": "host-name"}, {}),
        ({"announce_host": "me.lan"}, {"announce_host": "you.lan"}, {"announce_host": ("me.lan", "you.lan")}),
        ({"settings": {"save": ""}}, {"settings": {"save": ""}}, {}),
        ({"zones": ["b", "a"]}, {"zones": ("b", "a")}, {}),
    ],
    ids=str,
)
def test_what_was_asked_for_then_is_compared_with_now(
    had: dict[str, Any], wanted: dict[str, Any], told: dict[str, Any]
) -> None:
    site = replace(LINUX, server=replace(LINUX.server, path=had.get("image", DEFAULT_IMAGE)), names=NAMES)
    assert differences(asked(**wanted), recorded(asked(**had), site)) == told


def test_a_server_may_be_given_by_any_path_that_leads_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(sys.executable)
    spec = asked(server=str(path))
    record = recorded(spec)
    assert not differences(spec, record)
    assert not differences(PROCESSES, record)
    monkeypatch.setenv("PATH", str(path.parent))
    assert not differences(asked(server=path.name), record)
    assert differences(asked(server="/bin/false"), record) == {"server": (str(path), "/bin/false")}


@pytest.mark.parametrize(
    ("fields", "data", "bus"),
    [
        ({"runtime": "process"}, True, True),
        ({"announce": "gateway"}, True, True),
        ({"announce": "fixed-address"}, True, False),
        ({"announce": "same-port"}, True, False),
        ({"announce": "fixed-address", "publish": False}, False, False),
    ],
    ids=str,
)
def test_ports_that_a_record_takes_are_reserved_by_name(fields: dict[str, Any], data: bool, bus: bool) -> None:
    one = recorded(asked(name="one", nodes=2, replicas=0, **fields))
    two = recorded(asked(name="two", nodes=1, replicas=0, runtime="process", base_port=7000))
    expected = dict.fromkeys((7000, 17000), 'the cluster "two"')
    expected |= dict.fromkeys([*([6379, 6380] if data else []), *([16379, 16380] if bus else [])], 'the cluster "one"')
    assert reserved_ports([one, two]) == expected


def test_the_name_that_was_chosen_then_may_be_asked_for_now() -> None:
    desktop = replace(LINUX, engine=Engine("desktop", "28.0.0", machine="me.lan"), names=NAMES)
    record = recorded(asked(), desktop)
    assert not differences(asked(announce_host="me.lan"), record)
    assert differences(asked(announce_host="you.lan"), record) == {"announce_host": ("me.lan", "you.lan")}


def test_the_same_memory_in_other_words_is_the_same() -> None:
    assert not differences(asked(memory="1024m"), recorded(asked(memory="1g")))


def changed_members(spec: ClusterSpec = PROCESSES, site: Site | None = None) -> Plan:
    """The second of six nodes was removed, with its replica, and a replica was added to the third."""
    site = site or Site.assumed(spec)
    made = build_plan(spec, site)
    seats = [seat for seat in seats_of(made) if made.nodes[1].name not in (made.nodes[seat.index].name, seat.primary)]
    seats[1] = replace(seats[1], slots=((5461, 16383),))
    seats.append(Seat(9, 6400, "localhost", primary=made.nodes[2].name))
    kept = replace(recorded(spec, site).kept, seats=tuple(seats))
    return build_plan(seated_spec(spec, seats), site, kept=kept)


@pytest.mark.parametrize(("spec", "site"), [(PROCESSES, None), (ClusterSpec(), LINUX)], ids=["process", "docker"])
def test_a_record_of_changed_members_gives_the_same_plan_again(spec: ClusterSpec, site: Site | None) -> None:
    plan = changed_members(spec, site)
    text = dump_record(plan, created_at="2026-01-02T03:04:05+00:00", owner={})
    record = load_record(text, runtime=plan.runtime, folder="/x")
    assert (record.seated, record.base_port, record.kept.seats) == (True, 6379, seats_of(plan))
    again = build_plan(plan.spec, site or Site.assumed(spec), kept=record.kept)
    assert again == plan
    assert not differences(replace(spec, nodes=5, base_port=6379), record)
    assert differences(spec, record) == {"nodes": (5, 6)}


def test_ports_are_reserved_by_node_where_members_were_changed() -> None:
    plan = changed_members()
    text = dump_record(plan, created_at="2026-01-02T03:04:05+00:00", owner={})
    ports = {node.addresses.control.port for node in plan.nodes}
    assert max(ports) == 6400
    assert len(ports) == 5
    reserved = reserved_ports([load_record(text, runtime="process", folder="/x")])
    assert reserved.keys() == ports | {port + 10000 for port in ports}


@pytest.mark.parametrize(
    "change",
    [
        {"index": "0"},
        {"index": True},
        {"index": -1},
        {"primary": 7},
        {"primary": ["valkey0"]},
        {"slots": 7},
        {"slots": [7]},
        {"slots": [[1]]},
        {"slots": [[1, 2, 3]]},
        {"slots": [["1", "2"]]},
        {"slots": [[2, 1]]},
        {"slots": [[0, 16384]]},
        {"slots": [[-1, 2]]},
        {"slots": [[0, 1e9]]},
    ],
    ids=str,
)
def test_a_member_that_cannot_be_read_is_no_record(change: dict[str, Any]) -> None:
    text = dump_record(changed_members(), created_at="2026-01-02T03:04:05+00:00", owner={})
    document = json.loads(text)
    document["nodes"][0] |= change
    with pytest.raises(ValueError, match="not"):
        load_record(json.dumps(document), runtime="process", folder="/x")


@pytest.mark.parametrize(
    "change",
    [
        {"owner": {"pid": "x"}},
        {"owner": {"pid": 1}},
        {"owner": 7},
        {"owner": {"pid": 1, "started": "x"}},
        {"nodes": {}},
        {"seated": 1},
        {"seated": "yes"},
        {"seated": None},
        {"spec": 7},
        {"spec": []},
    ],
    ids=str,
)
def test_a_damaged_record_is_no_record(change: dict[str, Any]) -> None:
    plan = build_plan(PROCESSES, Site.assumed(PROCESSES))
    document = json.loads(dump_record(plan, created_at="2026-01-02T03:04:05+00:00", owner={}))
    with pytest.raises(ValueError, match="not"):
        load_record(json.dumps(document | change), runtime="process", folder="/x")
