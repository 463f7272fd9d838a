"""Formations in a row, none diverging: VALKEY_BOOTSTRAP_SOAK says how many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bootstrap
from bootstrap.planning.slots import format_ranges

from .conftest import Command, Line, nodes_known_to

pytestmark = [pytest.mark.servers, pytest.mark.slow]

COUNT = int(os.environ.get("VALKEY_BOOTSTRAP_SOAK", "3"))
SECONDS = 60


@pytest.mark.timeout(120 + 15 * COUNT)
async def test_formations_in_a_row(command: Command) -> None:
    took = []
    for _ in range(COUNT):
        timeline = bootstrap.Timeline()
        cluster = await bootstrap.create(
            nodes=12, replicas=1, runtime="process", state_root=str(command.root), observer=timeline, timeout=SECONDS
        )
        assert_every_view_is_the_plan(cluster)
        assert_logs_are_clean(command.root / cluster.name, 12)
        last = timeline.phases[-1]
        took.append(last.started + last.seconds)
        await cluster.delete()
        command.assert_nothing_left()
    print(f"{COUNT} formations: {min(took):.2f} to {max(took):.2f} s, mean {sum(took) / COUNT:.2f} s")  # noqa: T201
    assert len(took) == COUNT


def assert_every_view_is_the_plan(cluster: bootstrap.Cluster) -> None:
    """Each node's own CLUSTER NODES, against what was planned: roles, slots, primaries."""
    assert cluster.plan is not None
    name_of = {node.addresses.host.port: node.name for node in cluster.plan.nodes}
    planned = {node.name: (node.role, format_ranges(node.slots), node.primary) for node in cluster.plan.nodes}
    for port in name_of:
        known = nodes_known_to(port)
        names = {line.id: name_of[line.port] for line in known.values()}
        assert {names[line.id]: shape(line, names) for line in known.values()} == planned
        assert [line.flags - {"myself", "master", "slave"} for line in known.values()] == [frozenset()] * len(planned)


def shape(line: Line, names: dict[str, str]) -> tuple[str, str, str | None]:
    role = "primary" if "master" in line.flags else "replica"
    return role, ",".join(line.slots), names.get(line.primary)


def assert_logs_are_clean(folder: Path, nodes: int) -> None:
    logs = sorted(folder.glob("*/server.log"))
    assert len(logs) == nodes
    assert [log for log in logs if "Ignore stale message" in log.read_text()] == []
