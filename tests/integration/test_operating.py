"""Call and failover, on clusters of ours and of others."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import bootstrap
from tests.integration.conftest import Command, ask, find_server

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("operating")]


@pytest.fixture(scope="module", params=["valkey-9.1", "redis-7.0"])
def made(request: pytest.FixtureRequest, shared_command: Command) -> Iterator[Command]:
    server = find_server(request.param)
    shared_command.ok("--nodes", 7, "--replicas", 1, "--base-port", "auto", "--server", server)
    yield shared_command
    shared_command.ok("delete")


def status(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command.json("status")["nodes"]
    return found


def port(node: dict[str, Any]) -> int:
    return int(node["addresses"]["host"].rpartition(":")[2])


def follower(nodes: list[dict[str, Any]], primary: str) -> dict[str, Any]:
    return next(node for node in nodes if node["primary"] == primary)


# Call.


def answers(command: Command, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(command.ok("call", "--output", "json", *args))
    return found


def test_every_node_answers(made: Command) -> None:
    assert made.ok("call", "PING").splitlines() == [f"{node['name']}  {node['role']}  PONG" for node in status(made)]
    told = answers(made, "--replicas", "--", "CONFIG", "GET", "port")
    assert told["command"] == ["CONFIG", "GET", "port"]
    replicas = [node for node in status(made) if node["role"] == "replica"]
    assert told["nodes"] == [
        {"name": node["name"], "role": "replica", "reply": ["port", str(port(node))], "error": None}
        for node in replicas
    ]
    assert len(made.ok("call", "--primaries", "DBSIZE").splitlines()) == 3


def test_some_nodes_answer(made: Command) -> None:
    nodes = status(made)
    told = answers(made, "--node", "1", "--node", nodes[3]["id"][:12], "--node", "valkey1", "ECHO", "x")
    assert [node["name"] for node in told["nodes"]] == ["valkey1", "valkey3"]
    by_address = answers(made, "--address", f"127.0.0.1:{port(nodes[2])}", "CLUSTER", "MYID")
    assert {each["reply"] for each in by_address["nodes"]} == {node["id"] for node in nodes}


def test_replies_of_several_lines_stand_below_their_node(made: Command) -> None:
    lines = made.ok("call", "--node", "0", "CONFIG", "GET", "maxmemory-policy").splitlines()
    assert lines == ["valkey0  primary", "    1) maxmemory-policy", "    2) noeviction"]


def test_a_refusal_is_an_answer_and_an_exit_code(made: Command) -> None:
    done = made("call", "--replicas", "--", "SET", "key", "value")
    assert done.returncode == 5
    assert len([line for line in done.stdout.splitlines() if "error: MOVED" in line]) == 4
    assert "no node 'nobody'" in made.fails(2, "call", "--node", "nobody", "PING")
    assert "there is no command to call" in made.fails(2, "call")
    assert "exclude each other" in made.fails(2, "call", "--primaries", "--replicas", "PING")


# Failover.


def test_the_replica_that_is_named_leads(made: Command) -> None:
    before = status(made)
    ask(port(before[0]), "SET", "b", "value")
    successor = follower(before, "valkey0")
    done = made("failover", successor["name"])
    assert done.returncode == 0, done.stderr
    assert f"Promoted {successor['name']}" in done.stderr
    after = {node["name"]: node for node in status(made)}
    assert after[successor["name"]]["role"] == "primary"
    assert after[successor["name"]]["slots"] == before[0]["slots"]
    assert after["valkey0"]["primary"] == successor["name"]
    assert {node["health"] for node in after.values()} == {"ok"}
    assert ask(port(successor), "GET", "b") == "value"
    # And back, by index.
    assert made.json("failover", 0)["nodes"][0]["role"] == "primary"


def test_of_a_primary_its_best_replica_leads(made: Command) -> None:
    found = made.json("failover", "valkey1")["nodes"]
    assert found[1]["role"] == "replica"
    assert (
        made.json("failover", "--address", f"127.0.0.1:{port(found[1])}", f"127.0.0.1:{port(found[1])}")["health"]
        == "ok"
    )
    assert status(made)[1]["role"] == "primary"


def test_it_is_refused_where_nodes_do_not_agree(made: Command) -> None:
    nodes = status(made)
    (frozen,) = [process for process in made.processes() if f":{port(nodes[6])}" in " ".join(process.cmdline())]
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        told = made.fails(4, "failover", "valkey3")
        assert "do not agree" in told
        assert "doctor" in told
        done = made("call", "--node", "6", "--node", "0", "PING")
        assert done.returncode == 5
        assert "PONG" in done.stdout
        assert "error: " in done.stdout
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    made.ok("wait")


def test_a_primary_without_replicas_stays(command: Command) -> None:
    command.ok("--name", "lonely", "--nodes", 2, "--replicas", 0, "--base-port", "auto")
    assert "without a replica that could take over (no-replica)" in command.fails(2, "failover", "lonely0")
    command.ok("delete")


async def test_the_same_from_a_program(made: Command) -> None:
    cluster = await bootstrap.attach("valkey", state_root=str(made.root), runtime="process")
    assert {answer.reply[0] for answer in await cluster.call("ROLE", which="replicas")} == {"slave"}
    assert [answer.node for answer in await cluster.call("PING", which=[2, "valkey0"])] == ["valkey2", "valkey0"]
    (refused,) = await cluster.call("NONSENSE", which=[0])
    assert "unknown command" in refused.error
    promoted = await cluster.failover(2, timeout=20)
    assert promoted.nodes[2].role == "replica"
    assert (await cluster.failover(2, timeout=20)).nodes[2].role == "primary"
