"""The judge of the soak finds what is wrong: a judge that never does would be no witness."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ask, find_server, nodes_known_to, until
from .judge import Case, judge
from .scenarios import calm
from .worlds import Created

pytestmark = pytest.mark.servers


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Created]:
    find_server("valkey-9.1")
    made = Created(calm("create", "valkey-9.1", 4, 1), tmp_path)
    made.command.ok(*made.words)
    yield made
    made.close()


def test_it_finds_what_is_wrong(world: Created) -> None:
    case = world.case()
    first, second, third, fourth = (seat.port for seat in case.seats)
    assert judge(case) == ()
    assert judge(Case(case.seats, (2, 0))) == ("the shards have [1, 1] replicas instead of [0, 2]",)

    ask(third, "CONFIG", "SET", "repl-ping-replica-period", 1)
    assert judge(case) == ("soak2: repl-ping-replica-period is 1 instead of 10",)
    ask(third, "CONFIG", "SET", "repl-ping-replica-period", 10)

    ask(first, "SET", "{3}key", "kept")
    assert judge(case) == ("soak0: holds 1 keys",)
    ask(first, "DEL", "{3}key")

    # One node knows one node less than the others do.
    lost = next(line for line in nodes_known_to(second).values() if line.port == fourth)
    ask(first, "CLUSTER", "FORGET", lost.id)
    found = "\n".join(judge(case))
    assert "soak0: knows 3 nodes" in found
    assert "soak1" not in found.replace("['soak1'", "")


def test_it_finds_a_replica_that_is_not_connected(world: Created) -> None:
    case = world.case()
    first, _, _, fourth = (seat.port for seat in case.seats)
    # Its primary has no password, and refuses any.
    ask(fourth, "CONFIG", "SET", "primaryauth", "wrong")
    ask(first, "CLIENT", "KILL", "TYPE", "replica")
    ask(case.seats[1].port, "CLIENT", "KILL", "TYPE", "replica")
    found = until(lambda: judge(case))
    assert "soak3: its replication link is down" in found
    assert "has 0 connected replicas instead of 1" in "".join(found)


def test_it_finds_slots_without_an_owner(world: Created) -> None:
    case = world.case()
    ask(case.seats[0].port, "CLUSTER", "DELSLOTS", 5)
    found = judge(case)
    assert "16383 slots have an owner" in found
    assert any(text.startswith("soak1: shows soak0 as") for text in found)


def test_it_finds_a_node_that_has_ended(world: Created) -> None:
    case = world.case()
    world.kill(3, 0)
    (found,) = judge(case)
    assert "soak3 cannot be asked" in found
