"""Short versions of `scripts/bench churn` and `scripts/bench cancel`, which end with 1 when something is left."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from .conftest import find_server
from .containers import image_of
from .test_bench import bench

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SEED = 3673


def test_clusters_made_and_deleted_side_by_side(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_server("valkey-9.1")  # its own default
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    printed = bench("churn", "--clusters", "6", "--processes", "2", "--seed", str(SEED), "--runtime", "process")
    assert "6 clusters from 2 processes" in printed
    assert "0 failed or collided, 0 left" in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.docker
def test_containers_and_processes_side_by_side(engine: docker.DockerClient) -> None:
    find_server("valkey-9.1")
    image = image_of("valkey-9.1")
    printed = bench("churn", "--clusters", "6", "--processes", "2", "--seed", str(SEED), "--image", image)
    assert [line.split()[:3] for line in printed.splitlines()[1:3]] == [["process", "3", "0"], ["docker", "3", "0"]]


def test_cancelling_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find_server("valkey-9.1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    printed = bench("cancel", "--moments", "12", "--seed", str(SEED), "--nodes", "3", "--at-once", "4")
    lines = [line.split() for line in printed.splitlines()[1:]]
    assert sum(int(line[3]) for line in lines) == 12
    assert [line[-2:] for line in lines] == [["0", "0"]] * len(lines)
    assert list(tmp_path.iterdir()) == []
