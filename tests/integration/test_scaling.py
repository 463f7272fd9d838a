"""Clusters of ours that grow, shrink and are spread anew, as processes on every server."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from .conftest import Command, find_server
from .shapes import Node, Shape, events, phases, replicas, roles, slots

pytestmark = pytest.mark.servers

SERVERS = [
    pytest.param(version, marks=pytest.mark.xdist_group(f"scaling-{version}"))
    for version in ("valkey-9.1", "valkey-8.1", "redis-7.0")
]
# Servers before Valkey 9 move slots key by key and one by one: thousands of them take seconds.
quick_moves = pytest.mark.parametrize("three", SERVERS[:1], indirect=True)


@pytest.fixture(scope="module", params=SERVERS)
def three(request: pytest.FixtureRequest, shared_command: Command) -> Iterator[Shape]:
    """Three primaries with a replica each, and some keys; each test leaves them so."""
    shape = Shape(shared_command, request.param.replace(".", "-") + "x")
    shape.create("--nodes", 6, "--replicas", 1, "--server", find_server(request.param))
    shape.fill()
    yield shape
    shape.ok("delete")


@pytest.fixture
def six(three: Shape) -> Iterator[Shape]:
    """The same, looked at before and after each test."""
    before = three.assert_well()
    yield three
    assert_alike(three.assert_well(), before)
    assert three.kept()


def assert_alike(nodes: Mapping[str, Node], before: Mapping[str, Node]) -> None:
    """The same nodes in the same roles, and primaries with as many slots, but for a few that rounding moved."""
    assert nodes.keys() == before.keys()
    assert [node["role"] for node in nodes.values()] == [node["role"] for node in before.values()]
    assert {key: len(each) for key, each in replicas(nodes).items()} == {
        key: len(each) for key, each in replicas(before).items()
    }
    assert all(abs(slots(node) - slots(before[each])) <= 5 for each, node in nodes.items()), roles(nodes)


def name(shape: Shape, *indexes: int) -> list[str]:
    return [f"{shape.name}{index}" for index in indexes]


# The case of the guide.


@pytest.mark.parametrize("version", ["valkey-9.1", "redis-7.0"])
def test_an_extra_replica_of_a_primary_outlives_a_stop(command: Command, version: str) -> None:
    guide = Shape(command).create("--nodes", 4, "--replicas", 1, "--server", find_server(version))
    done = guide.ok("add-node", "--replica-of", "valkey1")
    assert 'Cluster "valkey" has 5 nodes: 2 primaries, 3 replicas (' in done.stderr
    assert "Introduced 1 node " in done.stderr
    assert "Attached 1 replica " in done.stderr
    found = guide.assert_well()
    assert replicas(found) == {"valkey0": ["valkey3"], "valkey1": ["valkey2", "valkey4"]}
    guide.kill(signum=signal.SIGTERM)
    command.ok("create", "--nodes", 5, "--replicas", 1)
    assert replicas(guide.assert_well()) == replicas(found)
    assert "nothing was changed" in command("create", "--nodes", 5, "--replicas", 1).stderr
    told = command.fails(4, "create", "--nodes", 4, "--replicas", 1)
    assert "valkey-bootstrap scale" in told.replace("python -m bootstrap", "valkey-bootstrap")
    command.ok("delete")
    command.assert_nothing_left()


# Adding and removing.


def test_a_replica_comes_and_goes(six: Shape) -> None:
    before = roles(six.nodes())
    made = six.json("add-node")
    new = f"{six.name}6"
    assert made["changed"]
    assert [(change["action"], change["node"]) for change in made["changes"]] == [("add", new)]
    assert made["moves"] == []
    found = six.assert_well()
    assert roles(found) == {**before, new: f"{six.name}0"}
    refused = six.fails(4, "too-few-replicas", "remove-node", *name(six, 6, *(index for index in range(3, 6))))
    assert "--fewer-replicas" in refused
    gone = six.json("remove-node", 6)
    assert [(change["action"], change["node"]) for change in gone["changes"]] == [("remove", new)]
    assert roles(six.nodes()) == before


@pytest.mark.parametrize("three", [SERVERS[0], SERVERS[2]], indirect=True)
def test_primaries_come_with_their_share_and_go_without_a_key(six: Shape) -> None:
    before = six.nodes()
    six.ask(f"{six.name}0", "FUNCTION", "LOAD", "REPLACE", LIBRARY)
    six.ok("call", "--", "ACL", "SETUSER", *USER)
    number = 2 if "9-1" in six.name else 1
    total = 6554 if "9-1" in six.name else 4096
    made = six.ok("add-node", "--primary", "--count", number, "--progress", "json")
    told = events(made.stderr)
    what = ["1 server", "1 node"] if number == 1 else ["2 servers", "2 nodes"]
    assert [title for title in phases(told) if not title.startswith("Every")] == [
        "Looked at every node", f"Started {what[0]}", f"Introduced {what[1]}", f"Moved {total} slots",
    ]  # fmt: skip
    assert sum(event.get("total", 0) == total for event in told if event["event"] == "phase.progressed") > 1
    found = six.assert_well()
    shares = [slots(node) for node in found.values() if not node["primary"]]
    assert max(shares) - min(shares) <= 1
    assert six.kept()
    new = name(six, 6, 7)[:number]
    for each in new:
        assert "twice" in str(six.ask(each, "FUNCTION", "LIST"))
        assert rules(six, each) == rules(six, f"{six.name}0")
        assert ask_as(six.port(each), "app", "a password", "GET", "nothing") is not None
    # No replica was asked for them, so none is missed when they go.
    gone = six.ok("remove-node", *new, "--progress", "json")
    assert f"Forgot {what[1]}" in phases(events(gone.stderr))
    assert_alike(six.nodes(), before)
    six.ok("call", "--", "ACL", "DELUSER", "app")
    six.ok("call", "--primaries", "--", "FUNCTION", "FLUSH")


LIBRARY = "#!lua name=twice\nredis.register_function('twice', function(keys, args) return 2 * args[1] end)"
USER = ("app", "on", ">a password", "~app:*", "resetchannels", "&news", "-@all", "+get", "(~log:* +get +append)")


def rules(shape: Shape, node: str) -> list[str]:
    """What a user may do; Redis 7.0 tells the commands of a selector in another order each time."""
    return sorted(str(shape.ask(node, "ACL", "GETUSER", "app")).replace("'", " ").split())


def ask_as(port: int, user: str, password: str, *words: str) -> Any:
    import redis

    with redis.Redis(port=port, username=user, password=password) as client:
        try:
            return client.execute_command(*words)
        except redis.ResponseError as error:
            # The user is known: what it may not do it is told.
            return error


@quick_moves
def test_what_cannot_be_removed(six: Shape) -> None:
    told = six.fails(4, "last-primary", "remove-node", *name(six, 0, 1, 2))
    assert "failover" in told
    told = six.fails(4, "last-primary", "remove-node", *name(six, *range(6)))
    assert "delete" in told
    assert "would be left with 0 replicas, and 1 is asked for" in six.fails(4, "too-few-replicas", "remove-node", 3)
    assert "no node 'nobody'" in six.fails(2, "no-such-node", "remove-node", "nobody")
    six.fails(2, "no-such-node", "remove-node", 9)
    assert six.json("remove-node", 3, "--fewer-replicas", "--dry-run")["changes"][0]["action"] == "remove"


# Spreading.


@quick_moves
def test_weights_spread_slots_and_take_them_back(six: Shape) -> None:
    one, two, three_ = name(six, 0, 1, 2)
    before = roles(six.nodes())
    planned = six.json("rebalance", "--weight", f"{two}=0", "--dry-run")
    assert roles(six.nodes()) == before
    made = six.json("rebalance", "--weight", f"{two}=0")
    assert (made["moves"], made["changes"]) == (planned["moves"], planned["changes"])
    found = six.nodes()
    assert [slots(found[each]) for each in (one, two, three_)] == [8192, 0, 8192]
    six.ok("rebalance", "--weight", f"{one}=2", "--weight", f"{two}=0.5", "--weight", f"{three_}=1.5")
    assert [slots(six.nodes()[each]) for each in (one, two, three_)] == [8192, 2048, 6144]
    again = six.json("rebalance", "--weight", f"{one}=2", "--weight", f"{two}=0.5", "--weight", f"{three_}=1.5")
    assert (again["changed"], again["moves"], again["changes"]) == (False, [], [])
    assert six.kept()
    six.ok("rebalance")
    done = six.ok("rebalance")
    assert "nothing was changed" in done.stderr
    six.fails(2, "bad-weight", "rebalance", "--weight", f"{one}=-1")
    six.fails(2, "bad-weight", "rebalance", "--weight", f"{one}=many")
    assert "twice" in six.fails(2, "usage", "rebalance", "--weight", f"{one}=1", "--weight", f"{one}=2")
    replica = next(each for each, node in six.nodes().items() if node["primary"])
    assert "no primary" in six.fails(2, "no-such-node", "rebalance", "--weight", f"{replica}=1")


@quick_moves
def test_what_is_within_the_threshold_stays(six: Shape) -> None:
    one, two, _ = name(six, 0, 1, 2)
    six.ok("reshard", "--from", one, "--to", two, "--count", 100)
    assert not six.json("rebalance")["changed"], "100 of 5461 are less than 2 per cent"
    assert six.json("rebalance", "--threshold", 1.5)["changed"]


def test_slots_are_moved_by_count_and_by_range(six: Shape) -> None:
    one, two, three_ = name(six, 0, 1, 2)
    before = six.nodes()
    made = six.json("reshard", "--to", three_, "--count", 300)
    assert [(move["source"], sum(b - a + 1 for a, b in move["slots"])) for move in made["moves"]] == [
        (one, 150), (two, 150),
    ]  # fmt: skip
    first = before[one]["slots"][0][0]
    made = six.json("reshard", "--to", two, "--slots", f"{first}-{first + 9},{first + 20}")
    assert made["moves"] == [
        {"source": one, "target": two, "slots": [[first, first + 9], [first + 20, first + 20]]}
    ]  # fmt: skip
    # They are there by now.
    done = six.ok("reshard", "--to", two, "--slots", f"{first}-{first + 9}")
    assert "nothing was changed" in done.stderr
    for ranges in before[one]["slots"], before[two]["slots"], before[three_]["slots"]:
        owner = next(each for each in (one, two, three_) if before[each]["slots"] == ranges)
        six.ok("reshard", "--to", owner, "--slots", ",".join(f"{a}-{b}" for a, b in ranges))
    assert roles(six.nodes()) == roles(before)


@quick_moves
def test_slots_move_in_jobs_of_a_given_size(six: Shape) -> None:
    one, two, _ = name(six, 0, 1, 2)
    before = len(six.ask(one, "CLUSTER", "GETSLOTMIGRATIONS"))
    done = six.ok("reshard", "--from", one, "--to", two, "--count", 90, "--slots-at-once", 40, "--progress", "json")
    assert len(six.ask(one, "CLUSTER", "GETSLOTMIGRATIONS")) - before == 3
    told = [event["done"] for event in events(done.stderr) if event.get("total") == 90 and "done" in event]
    assert [number for number in dict.fromkeys(told) if number] == [40, 80, 90]
    six.ok("reshard", "--from", two, "--to", one, "--count", 90)


@quick_moves
def test_moves_that_cannot_be(six: Shape) -> None:
    one, two, _ = name(six, 0, 1, 2)
    nodes = six.nodes()
    replica = next(each for each, node in nodes.items() if node["primary"])
    for code, *args in (
        ("no-such-node", "--to", replica, "--count", 1),
        ("no-such-node", "--to", "nobody", "--count", 1),
        ("no-such-node", "--to", one, "--from", replica, "--count", 1),
        ("same-node", "--to", one, "--from", one, "--count", 1),
        ("bad-slots", "--to", one, "--from", two, "--count", 16384),
        ("bad-slots", "--to", one, "--slots", "0-16384"),
        ("bad-slots", "--to", one, "--slots", "9-3"),
        ("bad-slots", "--to", one, "--slots", "x"),
        ("usage", "--to", one),
        ("usage", "--to", one, "--slots", "1", "--count", 1),
        ("usage", "--to", one, "--to", two, "--slots", "1"),
        ("bad-slots", "--to", two, "--from", f"{six.name}2", "--slots", str(nodes[one]["slots"][0][0])),
    ):
        six.fails(2, str(code), "reshard", *args)


# Scaling.


def test_replicas_come_and_go(six: Shape) -> None:
    before = roles(six.nodes())
    planned = six.json("scale", "--nodes", 9, "--replicas", 2, "--dry-run")
    record = (six.folder / "cluster.json").read_bytes()
    assert six.nodes().keys() == before.keys()
    made = six.json("scale", "--nodes", 9, "--replicas", 2)
    assert (made["moves"], made["changes"]) == (planned["moves"], planned["changes"]) == ([], planned["changes"])
    assert {len(each) for each in replicas(six.assert_well()).values()} == {2}
    assert (six.folder / "cluster.json").read_bytes() != record
    again = six.ok("scale", "--nodes", 9, "--replicas", 2)
    assert "nothing was changed" in again.stderr
    assert not six.json("scale", "--nodes", 9)["changed"], "as many replicas as are asked for"
    six.ok("scale", "--nodes", 3, "--replicas", 0)
    assert set(roles(six.assert_well()).values()) == {5461, 5462}
    six.ok("scale", "--nodes", 6, "--replicas", 1)
    assert {len(each) for each in replicas(six.nodes()).values()} == {1}


@quick_moves
def test_a_dry_run_is_what_happens_and_changes_nothing(six: Shape) -> None:
    record = (six.folder / "cluster.json").read_bytes()
    before = {path.name for path in six.folder.iterdir()}
    text = six.ok("scale", "--nodes", 8, "--dry-run")
    assert text.stderr == ""
    lines = text.stdout.splitlines()
    assert lines[-1] == "Plan: 2 to add, 3 to change, 0 to remove, 4096 slots to move. Nothing was changed."
    assert sum(line.startswith("  + ") for line in lines) == 2
    assert sum(line.startswith("  ~ ") for line in lines) == 3
    assert "slots to move:" in lines
    planned = six.json("scale", "--nodes", 8, "--dry-run")
    assert not planned["changed"]
    assert (six.folder / "cluster.json").read_bytes() == record
    assert {path.name for path in six.folder.iterdir()} == before
    made = six.json("scale", "--nodes", 8)
    assert (made["changes"], made["moves"]) == (planned["changes"], planned["moves"])
    found = six.assert_well()
    for change in planned["changes"]:
        node = found[change["node"]]
        assert change["address"] == node["addresses"]["host"]
        what = f"replica of {node['primary']}" if node["primary"] else f"primary of {slots(node)} slots"
        assert change["text"].endswith(what)
    planned = six.json("scale", "--nodes", 6, "--dry-run")
    made = six.json("scale", "--nodes", 6)
    assert (made["changes"], made["moves"]) == (planned["changes"], planned["moves"])
    assert six.nodes().keys() == {each for each in found if each not in name(six, 6, 7)}


@quick_moves
def test_shapes_that_are_none(six: Shape) -> None:
    told = six.command.fails(2, "scale", "--nodes", 2, "--replicas", 2, "--name", six.name)
    assert "replica" in told
    assert "Missing option '--nodes'" in six.command.fails(2, "scale", "--name", six.name)


@quick_moves
def test_quiet_and_json_progress(six: Shape) -> None:
    done = six.ok("rebalance", "-q")
    assert done.stderr == ""
    assert done.stdout.strip().split(",") == [node["addresses"]["host"] for node in six.nodes().values()]
    done = six("remove-node", "nobody", "--progress", "json")
    assert json.loads(done.stderr.splitlines()[-1])["code"] == "no-such-node"


def test_zones_decide_where_a_replica_is_missed(command: Command) -> None:
    shape = Shape(command).create("--nodes", 4, "--replicas", 1, "--zones", "a,b")
    made = shape.json("add-node", "--count", 2)
    found = {node["name"]: node["zone"] for node in made["nodes"]}
    assert [found[each] for each in ("valkey4", "valkey5")] == ["a", "b"]
    nodes = shape.assert_well()
    for primary, followers in replicas(nodes).items():
        assert {found[each] for each in (primary, *followers)} == {"a", "b"}
    command.ok("delete")
    command.assert_nothing_left()
