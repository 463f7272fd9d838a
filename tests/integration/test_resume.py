"""The same command on what is left of a cluster: stopped, killed, wiped, failed over, half made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootstrap.judging.pace import HEAD_START_FROM

from .conftest import Command, Line, ask, await_end, nodes_known_to, require_root, setting, until

pytestmark = pytest.mark.servers

CREATE = ("--nodes", 6, "--replicas", 1, "--base-port", "auto")
SETTINGS = {
    "cluster-node-timeout": "5000",
    "cluster-ping-interval": "0",
    "repl-diskless-sync-delay": "5",
    "repl-diskless-load": "disabled",
}


def ports(command: Command) -> list[int]:
    (record,) = command.json("list")["clusters"]
    return [int(node["addresses"]["host"].rpartition(":")[2]) for node in record["nodes"]]


def folder(command: Command, node: str) -> Path:
    return Path(command.json("list")["clusters"][0]["folder"]) / node


def end(command: Command, signum: int, *nodes: str) -> None:
    """Signal servers, all unless some are named, and wait until they are gone."""
    folders = {str(folder(command, node)) for node in nodes}
    victims = [process for process in command.processes() if not nodes or process.cwd() in folders]
    assert len(victims) == len(nodes) or not nodes
    for process in victims:
        process.send_signal(signum)
    await_end(victims)


def again(command: Command, *more: str | int) -> list[dict[str, Any]]:
    """The same command, insisted on; its events."""
    done = command(*CREATE, *more, "--progress", "json")
    assert done.returncode == 0, done.stderr
    assert command("status", "--exit-code").returncode == 0
    return [json.loads(line) for line in done.stderr.splitlines()]


def names(events: list[dict[str, Any]]) -> set[str]:
    return {event["event"] for event in events}


def ids(command: Command) -> dict[str, str]:
    return {node["name"]: node["id"] for node in command.json("status")["nodes"]}


def put(command: Command, count: int = 100) -> None:
    port = ports(command)[0]
    for number in range(count):
        # Slots 0 to 5460 are the first primary's; {06S} is in slot 0.
        assert ask(port, "SET", f"{{06S}}:{number}", number) is True


def kept(command: Command) -> int:
    found: int = ask(ports(command)[0], "DBSIZE")
    return found


def test_a_stopped_cluster_is_started_with_its_data(command: Command) -> None:
    command.ok(*CREATE)
    put(command)
    where, who = ports(command), ids(command)
    end(command, signal.SIGTERM)
    (record,) = command.json("list")["clusters"]
    assert record["running"] == 0
    assert command("status", "--exit-code").returncode == 7
    events = again(command)
    assert {event["node"] for event in events if event["event"] == "node.started"} == {f"valkey{n}" for n in range(6)}
    assert events[-1]["created"] is False
    assert (ports(command), ids(command), kept(command)) == (where, who, 100)


def test_a_killed_node_is_restarted(command: Command) -> None:
    command.ok(*CREATE)
    put(command)
    who = ids(command)
    others = {process.pid for process in command.processes()}
    end(command, signal.SIGKILL, "valkey4")
    events = again(command)
    assert [event["node"] for event in events if event["event"] == "node.started"] == ["valkey4"]
    assert ids(command) == who
    assert kept(command) == 100
    assert len(others & {process.pid for process in command.processes()}) == 5


def test_a_killed_primary_is_restarted_and_keeps_its_keys(command: Command) -> None:
    command.ok(*CREATE)
    put(command)
    end(command, signal.SIGKILL, "valkey0")
    again(command)
    # Roles may have moved meanwhile: the keys are where slot 0 is now.
    owner = next(n for n in command.json("status")["nodes"] if any(low == 0 for low, _ in n["slots"]))
    assert ask(int(owner["addresses"]["host"].rpartition(":")[2]), "DBSIZE") == 100


def test_a_wiped_node_comes_back_under_a_new_id(command: Command) -> None:
    command.ok(*CREATE)
    put(command)
    before = ids(command)
    wiped = folder(command, "valkey3")
    end(command, signal.SIGKILL, "valkey3")
    shutil.rmtree(wiped)
    again(command)
    after = ids(command)
    assert after["valkey3"] != before["valkey3"]
    assert {name: node_id for name, node_id in after.items() if name != "valkey3"}.items() <= before.items()
    for port in ports(command):
        assert set(nodes_known_to(port)) == set(after.values())
    node = command.json("status")["nodes"][3]
    assert (node["role"], node["primary"]) == ("replica", "valkey2")
    assert kept(command) == 100


def test_roles_moved_by_a_failover_are_accepted(command: Command) -> None:
    command.ok(*CREATE)
    replica = ports(command)[3]
    assert ask(replica, "CLUSTER", "FAILOVER") in ("OK", True)

    def mine() -> Line:
        return next(line for line in nodes_known_to(replica).values() if "myself" in line.flags)

    until(lambda: "master" in mine().flags)
    command.ok("wait", "--nodes", 6)
    moved = command.json("status")["nodes"]
    assert (moved[2]["role"], moved[2]["primary"], moved[3]["role"]) == ("replica", "valkey3", "primary")
    events = again(command)
    assert not names(events) & {"steps.ran", "node.started", "settings.restored"}
    assert command.json("status")["nodes"] == moved


def test_settings_of_an_interrupted_formation_are_restored(command: Command) -> None:
    command.ok(*CREATE)
    low = {"cluster-node-timeout": 500, "cluster-ping-interval": 100, "repl-diskless-sync-delay": 0}
    for port in ports(command):
        for name, value in low.items():
            ask(port, "CONFIG", "SET", name, value)
        ask(port, "CONFIG", "SET", "repl-diskless-load", "on-empty-db")
    events = again(command)
    assert [event["nodes"] for event in events if event["event"] == "settings.restored"] == [6]
    assert "steps.ran" not in names(events)
    for port in ports(command):
        assert {name: setting(port, name) for name in SETTINGS} == SETTINGS


def test_a_setting_of_ones_own_is_what_is_restored(command: Command) -> None:
    own = ("--set", "cluster-node-timeout=7000", "--set", "repl-diskless-sync-delay=3")
    command.ok(*CREATE, *own)
    ask(ports(command)[5], "CONFIG", "SET", "cluster-node-timeout", 500)
    again(command, *own)
    assert {setting(port, "cluster-node-timeout") for port in ports(command)} == {"7000"}
    assert {setting(port, "repl-diskless-sync-delay") for port in ports(command)} == {"3"}


@pytest.mark.slow
def test_of_two_creators_of_one_name_one_wins(command: Command) -> None:
    names = [f"round-{number}x" for number in range(10)]

    def creator(name: str) -> subprocess.Popen[str]:
        one = ("--nodes", 1, "--replicas", 0, "--base-port", "auto", "--progress", "json", "--name", name)
        return subprocess.Popen(
            command.argv(*one), env=command.env(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    winners = [creator(name) for name in names]
    for winner in winners:
        assert winner.stderr is not None
        # The plan is told while the name is held; a winner that is stopped cannot be done before the loser comes.
        assert "plan.made" in winner.stderr.readline()
        winner.send_signal(signal.SIGSTOP)
    losers = [creator(name) for name in names]
    told = [json.loads(loser.communicate(timeout=60)[1]) for loser in losers]
    for winner in winners:
        winner.send_signal(signal.SIGCONT)
    assert ["cluster.ready" in winner.communicate(timeout=60)[1] for winner in winners] == [True] * 10
    assert [winner.returncode for winner in winners] == [0] * 10
    assert [loser.returncode for loser in losers] == [4] * 10
    assert [error["code"] for error in told] == ["busy"] * 10
    assert [error["message"] for error in told] == [f'another command is at work on "{name}"' for name in names]
    records = {record["name"]: record["running"] for record in command.json("list")["clusters"]}
    assert records == dict.fromkeys(names, 1)
    assert len(command.processes()) == 10
    command.ok("delete", "--all")
    command.assert_nothing_left()


def test_two_clusters_at_once_take_different_ports(command: Command, default_ports: None) -> None:
    three = ("--nodes", 3, "--replicas", 0)
    both = [
        subprocess.Popen(
            command.argv(*three, "--name", name), env=command.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("left", "right")
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    taken = {name: {node["addresses"]["host"] for node in command.json("status", "--name", name)["nodes"]}
             for name in ("left", "right")}  # fmt: skip
    assert [len(addresses) for addresses in taken.values()] == [3, 3]
    assert taken["left"].isdisjoint(taken["right"])
    for name in taken:
        assert command("status", "--name", name, "--exit-code").returncode == 0
    assert "there are 2 clusters" in command.fails(2, "status")
    assert "give one of" in command.fails(2, "delete", "--all", "--orphans")
    assert json.loads(command.ok("delete", "--all", "-o", "json"))["deleted"] == ["left", "right"]
    command.assert_nothing_left()


OWNER = """
import sys, anyio, bootstrap

async def main():
    async with bootstrap.cluster(name="owned", nodes=1, replicas=0, runtime="process", state_root=sys.argv[1]):
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_orphans_are_deleted_and_nothing_else(command: Command) -> None:
    command.ok("--nodes", 1, "--replicas", 0, "--base-port", "auto", "--name", "mine")
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(command.root)], stdout=subprocess.PIPE, text=True,
        env={**command.env(), "PYTHONPATH": root},
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        orphans = {record["name"]: record["orphan"] for record in command.json("list")["clusters"]}
        assert orphans == {"mine": False, "owned": False}
        # Its owner lives: it is nobody's to sweep away.
        assert json.loads(command.ok("delete", "--orphans", "-o", "json"))["deleted"] == []
        owner.kill()
        owner.wait(10)
    orphans = {record["name"]: record["orphan"] for record in command.json("list")["clusters"]}
    assert orphans == {"mine": False, "owned": True}
    assert len(command.processes()) == 2
    assert json.loads(command.ok("delete", "--orphans", "-o", "json"))["deleted"] == ["owned"]
    assert [record["name"] for record in command.json("list")["clusters"]] == ["mine"]
    assert command("status", "--name", "mine", "--exit-code").returncode == 0
    command.ok("delete", "--name", "mine")
    command.assert_nothing_left()


@pytest.mark.parametrize("event", ["node.started", "node.answered", "steps.ran"])
def test_a_half_made_cluster_is_deleted(command: Command, event: str) -> None:
    with subprocess.Popen(
        command.argv(*CREATE, "--progress", "json"), env=command.env(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == event for line in process.stderr)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert command.processes() != []
    assert json.loads(command.ok("delete", "--name", "valkey", "-o", "json"))["deleted"] == ["valkey"]
    command.assert_nothing_left()
    done = command("delete", "--name", "valkey")
    assert done.returncode == 0
    assert "nothing to delete" in done.stderr


FIRST_PROCESS = """
import subprocess, sys

# The first process of a container, one that never collects what others leave to it.
for args in (["--nodes", "2", "--replicas", "0", "--base-port", "auto"], ["delete"], ["list", "-o", "json"]):
    done = subprocess.run([sys.executable, "-m", "bootstrap", *args], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
sys.stdout.write(done.stdout)
"""


@pytest.mark.root
def test_servers_that_nobody_collects_have_ended(command: Command) -> None:
    require_root()
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", FIRST_PROCESS],
        env=command.env(), cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["clusters"] == []
    command.assert_nothing_left()


LARGE = ("--nodes", HEAD_START_FROM + 5, "--replicas", 1, "--base-port", "auto")


def test_a_large_cluster_forms_while_it_starts(command: Command) -> None:
    done = command(*LARGE, "--progress", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    answered = [index for index, event in enumerate(events) if event["event"] == "node.answered"]
    met = [i for i, event in enumerate(events) if event["event"] == "steps.ran" and "MEET" in str(event["steps"])]
    assert met[0] < answered[-1]
    assert not [event for event in events if event["event"] == "warning.raised"]
    for port in ports(command):
        assert {key: setting(port, key) for key in SETTINGS} == SETTINGS


def test_a_large_cluster_killed_while_it_starts_is_finished_by_the_same_command(command: Command) -> None:
    with subprocess.Popen(
        command.argv(*LARGE, "--progress", "json"), env=command.env(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if '"steps.ran"' in line and "MEET" in line:
                process.kill()
                break
        assert process.wait(10) == -signal.SIGKILL
    done = command(*LARGE)
    assert done.returncode == 0, done.stderr
    assert command("status", "--exit-code").returncode == 0
    for port in ports(command):
        assert {key: setting(port, key) for key in SETTINGS} == SETTINGS
