"""Replies of three servers, captured word for word in looks.json, and replies that no server would give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.formation.base import ServerError, read_look
from bootstrap.judging.agreement import agree
from bootstrap.judging.views import (
    NodeView,
    Silent,
    make_view,
    parse_functions,
    parse_info,
    parse_listed,
    parse_nodes,
    parse_version,
    seen,
)
from bootstrap.planning.addressing import Address
from bootstrap.planning.site import Version

LOOKS: dict[str, Any] = json.loads(Path(__file__).with_name("looks.json").read_text())
SERVERS: list[tuple[str, str, Version, int]] = [
    ("valkey-9.1.2", "valkey", (9, 1, 2), 21000),
    ("valkey-8.1.8", "valkey", (8, 1, 8), 21100),
    ("redis-7.0.15", "redis", (7, 0, 15), 21200),
]
servers = pytest.mark.parametrize(("name", "flavor", "version", "port"), SERVERS)
LINE = "a" * 40 + " 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-16383"


def look(name: str, which: str) -> NodeView:
    replies = [ServerError(reply["E"]) if isinstance(reply, dict) else reply for reply in LOOKS[name][which]]
    view = read_look(replies)
    assert isinstance(view, NodeView), view
    return view


@servers
def test_a_blank_node(name: str, flavor: str, version: Version, port: int) -> None:
    view = look(name, "blank")
    assert (view.flavor, view.version, view.state, view.epoch) == (flavor, version, "fail", 0)
    assert view.blank
    assert (view.myself.address, view.myself.bus_port) == (Address("", port), port + 10000)
    assert view.myself.flags == {"myself", "master"}
    assert (view.keys, view.functions, view.listed, view.link, view.zone) == ({}, (), {}, "", "")


@servers
def test_a_server_without_cluster_mode(name: str, flavor: str, version: Version, port: int) -> None:
    view = look(name, "plain")
    assert (view.flavor, view.version, view.cluster_mode) == (flavor, version, False)
    assert seen({"it": view}) == {}


@servers
def test_a_primary_and_its_replica(name: str, flavor: str, version: Version, port: int) -> None:
    first, second, third = LOOKS[name]["ids"]
    primary, replica = look(name, "primary"), look(name, "replica")
    assert (primary.id, replica.id) == (first, third)
    assert primary.myself.slots == ((0, 8191),)
    assert (primary.myself.role, primary.link, primary.epoch) == ("primary", "", 3)
    assert (replica.myself.role, replica.myself.primary, replica.link) == ("replica", first, "up")
    assert replica.epoch == replica.myself.epoch == 3, "a replica speaks with its primary's epoch"
    for view in (primary, replica):
        assert view.state == "ok"
        assert not view.blank
        assert view.offset > 0
        assert view.keys == {"db0": 1}
        assert view.functions == ("mylib",)
        assert {each: peer.slots for each, peer in view.peers.items()} == {
            first: ((0, 8191),),
            second: ((8192, 16383),),
            third: (),
        }
        assert (
            {each: peer.address for each, peer in view.peers.items()}
            == view.listed
            == {each: Address("127.0.0.1", port + at) for at, each in enumerate((first, second, third))}
        )
        assert all(peer.connected and not peer.faults and not peer.handshake for peer in view.peers.values())


@servers
def test_handshakes(name: str, flavor: str, version: Version, port: int) -> None:
    peers = parse_nodes(LOOKS[name]["handshake"])
    pending = [peer for peer in peers.values() if peer.handshake]
    assert sorted(peer.address.port for peer in pending) == [port + 1, port + 2]
    assert not any(peer.connected for peer in pending)


def test_what_real_lines_may_hold_besides() -> None:
    text = "\n".join([
        LINE + " [93-<-" + "b" * 40 + "] [77->-" + "b" * 40 + "]",
        "b" * 40 + " ::1:7001@17001,valkey1.example slave,fail?,noaddr " + "a" * 40 + " 0 0 1 disconnected",
        "c" * 40 + " :0@0 master,fail,noaddr - 0 0 7 disconnected 5 7-9",
        "d" * 40 + " 10.0.0.1:7000@17000,,shard-id=69bc080733d1355567173199cff4a6a039a2f024 master - 0 0 2 connected",
    ])  # fmt: skip
    mine, replica, lost, other = parse_nodes(text).values()
    assert len(mine.open_slots) == 2
    assert mine.slots == ((0, 16383),)
    assert (replica.address, replica.hostname, replica.faults) == (
        Address("::1", 7001),
        "valkey1.example",
        ("fail?", "noaddr"),
    )
    assert not replica.connected
    assert (lost.address, lost.bus_port, lost.slots, lost.faults) == (
        Address("", 0),
        0,
        ((5, 5), (7, 9)),
        ("fail", "noaddr"),
    )
    assert other.hostname == ""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("9.1.2", (9, 1, 2)),
        ("8.0", (8, 0, 0)),
        ("9.0.0-rc1", (9, 0, 0)),
        ("255.255.255", (255, 255, 255)),
        ("", (0, 0, 0)),
        ("7.²", (7, 0, 0)),
        ("9" * 5000, (999999999, 0, 0)),
    ],
)
def test_versions(text: str, version: Version) -> None:
    assert parse_version(text) == version


def test_a_host_that_is_not_known_means_as_you_came() -> None:
    reply = [[0, 5, ["", 7000, "a", []], ["?", 7001, "b"]], [9, 9, [None, 7002, "c", ["hostname", "x"]]]]
    assert parse_listed(reply) == {"a": Address("", 7000), "b": Address("", 7001), "c": Address("", 7002)}


@pytest.mark.parametrize(
    "reply",
    [
        None,
        "text",
        {},
        [[]],
        [[0]],
        [[0, 1, "node"]],
        [[0, 1, ["h", 1]]],
        [[0, 1, ["h", None, "id"]]],
        [[0, 1, ["h", "7000x", "id"]]],
        [None],
    ],
)
def test_slot_lists_that_no_server_gives(reply: Any) -> None:
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        parse_listed(reply)


def test_function_lists_of_both_protocols() -> None:
    assert parse_functions([["library_name", "one", "engine", "LUA"], {"library_name": "two"}, []]) == (
        "one",
        "two",
        "?",
    )
    assert parse_functions(ServerError("NOPERM")) == ()


@pytest.mark.parametrize(
    "line",
    [
        "garbage",
        LINE.replace("7000", "port"),
        LINE.replace(" 1 connected", " epoch connected"),
        LINE.replace("0-16383", "0-16384"),
        LINE.replace("0-16383", "9-3"),
        LINE.replace("0-16383", "0-999999999999999"),
        LINE.replace("0-16383", "-5"),
        LINE.replace("0-16383", "x"),
        LINE.replace("@17000", "@bus"),
    ],
)
def test_lines_that_no_server_writes(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any text will do, the kind is the promise
        parse_nodes(line)
    replies = ["", "", "", "cluster_enabled:1", "cluster_state:ok", line, [], []]
    view = read_look(replies)
    assert isinstance(view, Silent)
    assert view.code == "garbage"
    assert view.reason.startswith("its replies cannot be read: ")


@pytest.mark.parametrize("count", [0, 2])
def test_a_node_is_itself_exactly_once(count: int) -> None:
    lines = [LINE.replace("a" * 40, str(number) * 40) for number in range(count)]
    with pytest.raises(ValueError, match=f"{count} lines flagged myself"):
        make_view({}, {}, "\n".join(lines), [], [])


@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize(
    ("error", "code"),
    [("NOAUTH Authentication required.", "login"), ("NOPERM no", "forbidden"), ("LOADING it is", "busy")],
)
def test_refused_sections_make_a_node_silent(at: int, error: str, code: str) -> None:
    replies: list[Any] = list(LOOKS["valkey-9.1.2"]["primary"])
    replies[at] = ServerError(error)
    view = read_look(replies)
    assert isinstance(view, Silent)
    assert view.code == code
    assert error in view.reason


anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.builds(ServerError, st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=12), inner, max_size=2),
    max_leaves=12,
)
words = st.text(alphabet="0123456789abcf:@,- []\n²myselfmaster", max_size=120)


@settings(deadline=None, max_examples=300)
@given(st.lists(anything | words, min_size=8, max_size=8), st.booleans())
def test_no_reply_can_do_more_than_silence_a_node(replies: list[Any], clustered: bool) -> None:
    replies[3] = "cluster_enabled:1" if clustered else replies[3]
    agree({"it": read_look(replies)})


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 7), st.integers(0, 400), anything | words, st.sampled_from([name for name, *_ in SERVERS]))
def test_no_damage_to_a_real_look_can_do_more(which: int, at: int, damage: Any, name: str) -> None:
    replies: list[Any] = list(LOOKS[name]["replica"])
    whole = replies[which]
    replies[which] = whole[:at] + str(damage) + whole[at + 5 :] if isinstance(whole, str) else damage
    agree({"it": read_look(replies)})


@given(st.text())
def test_info_of_any_text_is_read(text: str) -> None:
    assert all(key.count(":") == 0 for key in parse_info(text))
