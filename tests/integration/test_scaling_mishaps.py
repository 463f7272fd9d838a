"""What cuts a change of shape short: signals, dead servers, other commands; and how it is carried on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from .checker import Checker
from .conftest import Command, ask, find_server, until
from .shapes import Shape, await_health, begins, nth, replicas, roles, slots

pytestmark = pytest.mark.servers

ROUNDS = int(os.environ.get("VALKEY_BOOTSTRAP_TESTS_ROUNDS", "1"))
"""How often a cluster is scaled up and down while the command is killed; ten take about eight minutes."""


@pytest.fixture
def small(command: Command) -> Iterator[Shape]:
    """Three primaries and some keys."""
    shape = Shape(command).create("--nodes", 3, "--replicas", 0, "--server", find_server("valkey-9.1"))
    shape.fill()
    yield shape
    assert shape.kept()
    shape.assert_well()
    command.ok("delete")
    command.assert_nothing_left()


@pytest.fixture
def pairs(command: Command) -> Iterator[Shape]:
    """Three primaries with a replica each, that take over after a second, and some keys."""
    shape = Shape(command).create(
        "--nodes", 6, "--replicas", 1, "--server", find_server("valkey-9.1"), "--set", "cluster-node-timeout=1000"
    )
    shape.fill()
    yield shape
    command.ok("delete")
    command.assert_nothing_left()


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()


def after(seconds: float) -> Callable[[subprocess.Popen[str]], None]:
    def then(process: subprocess.Popen[str]) -> None:
        time.sleep(seconds)
        process.kill()

    return then


# The command is killed.


def scale_and_kill(shape: Shape, draw: random.Random, *args: str | int) -> int:
    """The command, killed once or twice at some moment, and then again until it ends; how often it was killed."""
    killed = 0
    for _ in range(draw.choice((1, 1, 2))):
        code, _ = shape.disturbed("scale", *args, when=nth(draw.randint(2, 30)), then=after(draw.random() / 20))
        killed += code == -signal.SIGKILL
        if code == 0:
            return killed
        assert code == -signal.SIGKILL
    shape.ok("scale", *args)
    return killed


def up_and_down(shape: Shape, draw: random.Random, replicas_each: int) -> int:
    """From 3 primaries to 6, 9 and back, under use; how often the command was killed."""
    killed = 0
    each = 1 + replicas_each
    with Checker(shape.ports()) as checker:
        for primaries in (6, 9, 3):
            killed += scale_and_kill(shape, draw, "--nodes", primaries * each, "--replicas", replicas_each)
            found = shape.assert_well()
            assert [len(found), len(replicas(found))] == [primaries * each, primaries]
            shares = [slots(node) for node in found.values() if node["primary"] is None]
            assert max(shares) - min(shares) <= 0.02 * 16384 / primaries * 2
            again = shape.json("scale", "--nodes", primaries * each)
            assert not again["changed"]
        verdict = checker.verdict()
    assert (verdict.lost, verdict.stale, verdict.unread) == (0, 0, 0), verdict
    assert verdict.writes > 100
    return killed


@pytest.mark.slow
@pytest.mark.timeout(180 + 120 * ROUNDS)
@pytest.mark.parametrize(("version", "replicas_each"), [("valkey-9.1", 0), ("valkey-9.1", 1), ("redis-7.0", 0)])
def test_a_killed_command_is_carried_on_without_losing_a_write(
    command: Command, version: str, replicas_each: int
) -> None:
    args = ("--nodes", 3 + 3 * replicas_each, "--replicas", replicas_each)
    shape = Shape(command).create(*args, "--server", find_server(version))
    shape.fill()
    draws = [random.Random(f"{version} {replicas_each} {number}") for number in range(ROUNDS)]
    assert sum(up_and_down(shape, draw, replicas_each) for draw in draws) >= ROUNDS
    assert shape.kept()
    command.ok("delete")


@pytest.mark.parametrize(
    "moment",
    [begins("start"), begins("join"), begins("move", 100), begins("forget")],
    ids=["start", "join", "move", "forget"],
)
def test_only_that_change_goes_on_after_a_kill(
    small: Shape, moment: Callable[..., bool], request: pytest.FixtureRequest
) -> None:
    down = "forget" in request.node.name
    if down:
        small.ok("scale", "--nodes", 4)
    args = ("--nodes", 3) if down else ("--nodes", 4)
    code, _ = small.disturbed("scale", *args, when=moment, then=kill)
    assert code == -signal.SIGKILL
    assert small.record()["underway"] is not None
    told = small.fails(4, "unfinished", "rebalance")
    assert f"scale --nodes {args[1]} --name valkey" in told
    told = small.command.fails(4, "create", "--nodes", 3, "--replicas", 0)
    assert "(unfinished)" in told
    assert f"scale --nodes {args[1]} --name valkey" in told
    # Another shape may be asked for instead.
    small.ok("scale", "--nodes", 5)
    assert len(small.assert_well()) == 5
    small.ok("scale", "--nodes", 3)


def test_a_change_whose_servers_were_all_ended_is_carried_on(small: Shape) -> None:
    small.ok("scale", "--nodes", 5)
    code, _ = small.disturbed("scale", "--nodes", 3, when=begins("move", 1), then=kill)
    assert code == -signal.SIGKILL
    # As after a loss of power: whoever is to leave has keys that nobody else has.
    small.kill()
    small.ok("scale", "--nodes", 3)
    assert len(small.assert_well()) == 3


def test_a_cluster_that_was_stopped_is_started_first(small: Shape) -> None:
    small.kill(signum=signal.SIGTERM)
    for request in (("scale", "--nodes", 5), ("add-node",), ("rebalance",), ("remove-node", "valkey2")):
        told = small.fails(4, "not-healthy", *request)
        assert "doctor" in told
    assert small.record()["underway"] is None
    small.command.ok("create", "--nodes", 3, "--replicas", 0)
    small.ok("scale", "--nodes", 4)
    small.ok("scale", "--nodes", 3)


# The command is interrupted.


@pytest.mark.parametrize("version", ["valkey-9.1", "redis-7.0"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_move_leaves_no_slot_open(command: Command, version: str, signum: signal.Signals) -> None:
    shape = Shape(command).create("--nodes", 3, "--replicas", 0, "--server", find_server(version))
    shape.fill()
    request = ("reshard", "--from", 0, "--to", 1, "--count", 1000)
    code, _ = shape.disturbed(*request, when=begins("move", 1), then=lambda it: it.send_signal(signum))
    assert code in (128 + signum, 0)
    for port in shape.ports():
        assert "[" not in str(ask(port, "CLUSTER", "NODES"))
    await_health(shape)
    shape.ok(*request)
    shape.assert_well()
    assert [slots(node) for node in shape.nodes().values()] == [4461, 6462, 5461]
    assert shape.kept()
    command.ok("delete")


def test_what_an_interrupted_command_says_last(small: Shape) -> None:
    argv = small.command.argv("scale", "--name", "valkey", "--nodes", 6)
    with subprocess.Popen(
        argv, env=small.command.env(), text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as it:
        assert it.stderr is not None
        while "Started" not in it.stderr.readline():
            pass
        it.send_signal(signal.SIGINT)
        rest = it.stderr.read()
        assert it.wait(30) == 130
    assert "run the same command again: it carries on" in rest.splitlines()[-1]
    assert "Traceback" not in rest
    small.ok("scale", "--nodes", 6)
    small.ok("scale", "--nodes", 3)


def test_newcomers_that_nobody_knows_yet_are_taken_back(small: Shape) -> None:
    code, _ = small.disturbed(
        "scale", "--nodes", 6, when=lambda event: event["event"] == "node.started",
        then=lambda it: it.send_signal(signal.SIGINT),
    )  # fmt: skip
    assert code == 130
    assert len(small.assert_well()) == 3


# A server dies.


@pytest.mark.parametrize(
    ("request_", "moment", "victim"),
    [
        (("scale", "--nodes", 8), begins("move", 1), "valkey1"),
        (("scale", "--nodes", 8), begins("join"), "valkey7"),
        (("add-node", "--primary"), begins("join"), "valkey6"),
        (("rebalance", "--weight", "valkey0=0"), begins("move", 1), "valkey2"),
        (("reshard", "--to", "valkey1", "--count", 3000), begins("move", 1), "valkey0"),
        (("remove-node", "valkey2", "valkey3"), begins("move", 1), "valkey2"),
        (("scale", "--nodes", 9, "--replicas", 2), begins("replicas"), "valkey8"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_a_server_that_dies_meanwhile(
    pairs: Shape, request_: tuple[str | int, ...], moment: Callable[..., bool], victim: str
) -> None:
    verb, *args = map(str, request_)
    if verb == "remove-node":
        args.append("--fewer-replicas")
    code, told = pairs.disturbed(verb, *args, when=moment, then=lambda _: pairs.kill(victim))
    assert code in (5, 6), told[-1]
    error = told[-1]
    assert error["event"] == "error"
    assert victim in error["message"] + str(error["nodes"]), error
    assert "again" in error["hint"], error
    pairs.ok(verb, *args)
    pairs.assert_well()
    assert pairs.kept()


def test_a_dead_replica_is_removed(pairs: Shape) -> None:
    pairs.kill("valkey3")
    await_health(pairs, ok=False)
    until(lambda: "fail" in str(ask(pairs.port("valkey0"), "CLUSTER", "NODES")))
    assert "valkey3" in pairs.fails(4, "not-healthy", "rebalance")
    pairs.fails(4, "too-few-replicas", "remove-node", "valkey3")
    pairs.ok("remove-node", "valkey3", "--fewer-replicas")
    assert set(pairs.assert_well()) == {f"valkey{index}" for index in (0, 1, 2, 4, 5)}
    assert pairs.kept()


def test_a_dead_primary_that_was_taken_over_from_is_removed(pairs: Shape) -> None:
    before = roles(pairs.nodes())
    successor = next(name for name, role in before.items() if role == "valkey0")
    pairs.kill("valkey0")
    until(lambda: pairs.nodes()[successor]["role"] == "primary", 30)
    until(lambda: pairs("remove-node", "valkey0", "--fewer-replicas").returncode == 0, 30)
    found = pairs.assert_well()
    assert "valkey0" not in found
    assert slots(found[successor]) == before["valkey0"]
    assert pairs.kept()
    # The name and the place are free again.
    assert pairs.json("add-node")["changes"][0]["node"] == "valkey0"
    assert replicas(pairs.assert_well())[successor] == ["valkey0"]


def test_a_dead_primary_without_replicas_is_given_up_only_if_told(command: Command) -> None:
    shape = Shape(command).create("--nodes", 3, "--replicas", 0, "--set", "cluster-node-timeout=1000")
    shape.fill()
    lost = slots(shape.nodes()["valkey1"])
    shape.kill("valkey1")
    until(lambda: shape.nodes()["valkey0"]["health"] != "ok", 30)
    told = shape.fails(4, "data-loss", "remove-node", "valkey1")
    assert "--lose-data" in told
    planned = shape.json("remove-node", "valkey1", "--lose-data", "--dry-run")
    shape.ok("remove-node", "valkey1", "--lose-data")
    found = shape.assert_well()
    assert sum(map(slots, found.values())) == 16384
    assert {change["node"]: change["action"] for change in planned["changes"]} == {
        "valkey0": "change", "valkey1": "remove", "valkey2": "change",
    }  # fmt: skip
    with shape.client() as client:
        kept = sum(client.get(f"key{index}") is not None for index in range(300))
    assert 300 * (1 - lost / 16384) * 0.7 < kept < 300
    command.ok("delete")


# Beforehand.


def test_a_member_that_lost_its_data_is_for_the_doctor(pairs: Shape) -> None:
    pairs.kill("valkey3")
    for path in (pairs.folder / "valkey3").iterdir():
        if path.name == "nodes.conf":
            path.unlink()
    # It is started again as it was, by hand: with another id.
    binary = find_server("valkey-9.1")
    node = pairs.folder / "valkey3"
    server = subprocess.Popen([binary, str(node / "valkey.conf")], cwd=node, stdout=subprocess.DEVNULL)
    try:
        until(lambda: pairs.nodes()["valkey3"]["id"], 20)
        for request in (
            ("rebalance", "--weight", "valkey0=2"), ("add-node",), ("scale", "--nodes", 8), ("remove-node", "valkey4"),
            ("reshard", "--to", "valkey1", "--count", 5),
        ):  # fmt: skip
            told = pairs.fails(4, "not-healthy", *map(str, request))
            assert "doctor" in told
            assert "valkey3" in told
    finally:
        server.kill()
        server.wait(10)
    assert pairs.record()["underway"] is None


def test_another_command_is_at_work(small: Shape) -> None:
    def meanwhile(_: object) -> None:
        told = small.fails(4, "busy", "rebalance")
        assert "another" in told

    code, _ = small.disturbed("scale", "--nodes", 5, when=begins("join"), then=meanwhile)
    assert code == 0
    small.ok("scale", "--nodes", 3)


def test_nodes_that_do_not_agree_are_left_alone(pairs: Shape) -> None:
    victim = pairs.process("valkey4")
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        for request in (("rebalance",), ("scale", "--nodes", "9"), ("add-node",), ("remove-node", "valkey3")):
            told = pairs.fails(4, "not-healthy", *request)
            assert "valkey4" in told
    finally:
        os.kill(victim.pid, signal.SIGCONT)
    assert pairs.record()["seated"] is False
