"""scripts/bench: that it measures, and not how fast anything is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bootstrap import ClusterSpec
from scripts._bench.cancel import CALLS, WAYS, Moment
from scripts._bench.churn import Lived, collisions, draw, most_at_once
from scripts._bench.cold import Kind
from scripts._bench.failures import Failure
from scripts._bench.machine import ROOM, await_room, connections_of
from scripts._bench.witness import CLOCKS, Shape, read_view

from .conftest import find_server

VIEW = """\
a 127.0.0.1:1@11 myself,master - 0 0 4 connected 0-5460
b 127.0.0.1:2@12 master - 0 0 5 connected 5461-10922
c 127.0.0.1:3@13 master - 0 0 6 connected 10923-16382 16383
d 127.0.0.1:4@14 slave b 0 0 5 connected
e 127.0.0.1:5@15 slave c 0 0 6 connected
f 127.0.0.1:6@16 slave a 0 0 4 connected
"""


def bench(*arguments: str | Path) -> str:
    """Run it to its end; what it prints."""
    line = [sys.executable, "-P", "-m", "scripts._bench", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.servers
@pytest.mark.slow
def test_measures_both_tools_and_draws(valkey_cli: str, tmp_path: Path) -> None:
    find_server("valkey-9.1")  # its own default
    file, picture, again = tmp_path / "bench.json", tmp_path / "bench.svg", tmp_path / "again.svg"
    printed = bench(
        "--nodes", "3,6", "--runs", "1", "--case", "up", "--up", "1", "--json", file, "--picture", picture
    )  # fmt: skip
    text = file.read_text()
    document: dict[str, Any] = json.loads(text)
    runs = {(run["tool"], run["nodes"]): run for run in document["runs"]}
    assert runs.keys() == set(product(("ours", "valkey-cli"), (3, 6)))
    for run in runs.values():
        assert run["exit_code"] == 0, run["complaint"]
        assert run["left"] == {}
        assert all(0 <= run["clocks"][clock] <= run["ready"] < 120 for clock in CLOCKS)
        assert run["exit"] > 0
        assert run["cpu_seconds"] > 0
        assert run["peak_kib"] > 0
        assert run["client_bytes"] > 0
    # Neither a folder of this machine nor its binaries.
    assert "/" not in text
    assert [line.split()[0] for line in printed.splitlines()[3:5]] == ["3", "6"]
    assert "valkey-cli" in picture.read_text()
    assert bench("draw", file, "--picture", again) == printed
    assert again.read_bytes() == picture.read_bytes()


@pytest.mark.servers
@pytest.mark.slow
def test_measures_the_fixture_and_resets() -> None:
    find_server("valkey-9.1")
    header, row = bench("fixture", "--runs", "1").splitlines()
    assert header.split()[-1] == "written/floor"
    assert float(row.split()[-2]) > 1
    header, row = bench("reset", "--runs", "1", "--runtime", "process").splitlines()
    assert header.split()[0] == "runtime"
    assert row.split()[0] == "process"


@pytest.mark.servers
@pytest.mark.slow
def test_measures_moves_of_slots(valkey_cli: str) -> None:
    server = find_server("valkey-9.1")
    version, header, *rows = bench(
        "reshard", "--keys", "100", "--runs", "1", "--server", server, "--cli", valkey_cli
    ).splitlines()
    assert version.startswith("9.")
    assert header.split()[:2] == ["keys", "tool"]
    assert [re.split(" {2,}", row.strip())[1] for row in rows] == ["ours", "valkey-cli", "one job"]


def test_measures_imports() -> None:
    lines = bench("import", "--rounds", "1").splitlines()
    assert [line.rsplit(maxsplit=1)[1] for line in lines] == ["than", lines[1].split()[-1], "pass", "pass", "pass",
                                                              lines[5].split()[-1], "pytest"]  # fmt: skip


def test_the_same_seed_gives_the_same_moments_and_clusters() -> None:
    moments = [Moment.draw(1, number) for number in range(100)]
    assert moments == [Moment.draw(1, number) for number in range(100)]
    assert {(each.call, each.way) for each in moments} == set(product(CALLS, WAYS))
    specs: list[tuple[Kind, ClusterSpec]] = [("process", ClusterSpec()), ("docker", ClusterSpec())]
    lives, again = (draw(1, 20, specs, "root") for _ in range(2))
    assert [(each.spec.nodes, each.hold) for each in lives] == [(each.spec.nodes, each.hold) for each in again]
    assert sum(each.kind == "docker" for each in lives) == 10
    assert {each.spec.nodes for each in lives} == set(range(1, 7))
    assert {each.spec.replicas for each in lives} == {0, 1}


def test_ports_that_two_clusters_had_at_once_are_a_collision() -> None:
    one = Lived("process", "a", ports=(1, 2), began=0, created=1, ended=5)
    other = Lived("process", "b", ports=(2, 3), began=2, created=1, ended=6)
    later = Lived("process", "c", ports=(2, 3), began=6, created=1, ended=9)
    assert collisions([one, other, later]) == ["a and b: both had ports [2]"]
    assert most_at_once([one, other, later]) == 2


def test_a_view_counts_when_it_is_complete() -> None:
    shape = Shape.of(6)
    view = read_view(VIEW.encode(), shape)
    assert view is not None
    assert not view.replica
    moved = read_view(VIEW.replace("myself,master", "master").replace("slave b", "myself,slave b").encode(), shape)
    assert moved is not None
    assert moved.replica
    assert moved.lines == view.lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0-5460", "0-5459"),
        ("0-5460", ""),
        (" 16383", " [16383->-a]"),
        ("slave b", "slave d"),
        ("slave b", "slave -"),
        ("slave a", "master -"),
        ("slave a", "handshake -"),
        ("slave a", "slave,fail? a"),
        ("f 127.0.0.1:6@16 slave a 0 0 4 connected\n", ""),
    ],
)
def test_a_view_with_a_flaw_does_not_count(old: str, new: str) -> None:
    assert old in VIEW
    assert read_view(VIEW.replace(old, new).encode(), Shape.of(6)) is None


def test_a_connection_table_without_room_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nf_conntrack_count").write_text("0\n")
    (tmp_path / "nf_conntrack_max").write_text(f"{connections_of(200) / ROOM:.0f}\n")
    said: list[str] = []
    with pytest.raises(Failure, match="200 nodes need more than"):
        await_room(200, said.append, tmp_path)
    await_room(100, said.append, tmp_path)
    await_room(200, said.append, tmp_path / "none")
    assert said == []
