"""Formations in a row, none diverging: VALKEY_BOOTSTRAP_SOAK says how many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bootstrap
from bootstrap.planning.slots import format_ranges

from .conftest import Command, Line, nodes_known_to
from .containers import Containers, image_of
from .test_cluster import TROUBLE

pytestmark = [pytest.mark.servers, pytest.mark.slow]

COUNT = int(os.environ.get("VALKEY_BOOTSTRAP_SOAK", "3"))
CONTAINER_COUNT = int(os.environ.get("VALKEY_BOOTSTRAP_SOAK", "2"))
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


@pytest.mark.docker
@pytest.mark.timeout(120 + 30 * CONTAINER_COUNT)
async def test_formations_in_a_row_in_containers(containers: Containers) -> None:
    took = []
    for _ in range(CONTAINER_COUNT):
        timeline = bootstrap.Timeline()
        cluster = await bootstrap.create(
            name=containers.name,
            nodes=6,
            replicas=1,
            runtime="docker",
            image=image_of("valkey-9.1"),
            pull="never",
            base_port="auto",
            observer=timeline,
            timeout=SECONDS,
        )
        assert_every_view_is_the_plan(cluster)
        logs = [await cluster.logs(node.name) for node in cluster.nodes]
        assert len(logs) == 6
        assert [log for log in logs if TROUBLE.search(log) or "Ready to accept connections" not in log] == []
        last = timeline.phases[-1]
        took.append(last.started + last.seconds)
        await cluster.delete()
        containers.assert_nothing_left()
    mean = sum(took) / CONTAINER_COUNT
    print(f"{CONTAINER_COUNT} formations: {min(took):.2f} to {max(took):.2f} s, mean {mean:.2f} s")  # noqa: T201
    assert len(took) == CONTAINER_COUNT


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
