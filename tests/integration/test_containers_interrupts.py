"""Signals while containers are created: nothing is left, or the same command finishes what is left."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import docker
import pytest

from .containers import Containers, make, remove

pytestmark = [pytest.mark.servers, pytest.mark.docker]

CREATE = ("--nodes", 4, "--replicas", 1, "--progress", "json", "--timeout", 60)
MOST_EVENTS = 60
PARTS = 4
KILLED = ("--nodes", 3, "--replicas", 1, *CREATE[4:])
"""One primary, two replicas: as few nodes as take every step."""


def killed_after(containers: Containers, count: int) -> tuple[int, list[str]]:
    """Run a creation, kill it after that many events, and give its exit code and the names of its events."""
    with containers.popen(*KILLED) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(count)]
        process.kill()
        lines += process.stderr.read().splitlines()
        code = process.wait(60)
    return code, [json.loads(line)["event"] for line in lines if line.strip()]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
def test_killed_after_every_second_event(engine: docker.DockerClient, tmp_path: Path, part: int) -> None:
    containers = make(engine, tmp_path / "state")
    try:
        for count in range(1 + 2 * part, MOST_EVENTS, 2 * PARTS):
            code, events = killed_after(containers, count)
            if code == 0:
                break  # it had fewer events
            assert code == -signal.SIGKILL
            assert "cluster.ready" not in events[:-1]
            again = containers.json(*KILLED[:4])
            assert (again["health"], len(again["nodes"])) == ("ok", 3), (count, events)
            assert containers.json("status")["health"] == "ok"
            containers.ok("delete")
            containers.assert_nothing_left()
        else:
            pytest.fail(f"a creation has {MOST_EVENTS} events or more")
        containers.ok("delete")
        containers.assert_nothing_left()
    finally:
        remove(containers)


@pytest.mark.parametrize("event", ["plan.made", "phase.started", "node.started", "node.answered", "steps.ran"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_interrupted_it_leaves_nothing(containers: Containers, signum: signal.Signals, event: str) -> None:
    with containers.popen(*CREATE) as process:
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == event for line in process.stderr)
        process.send_signal(signum)
        rest = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.stdout is not None
        assert process.stdout.read() == ""
        assert process.wait(60) == 128 + signum
    assert "cluster.ready" not in [each["event"] for each in rest]
    finished = [each for each in rest if each["event"] == "rollback.finished"]
    # Before the network is made there is nothing to remove.
    assert [each["left"] for each in finished] == [[]] or (finished == [] and event in ("plan.made", "phase.started"))
    containers.assert_nothing_left()


def test_a_second_signal_leaves_it_and_says_how_to_remove_it(containers: Containers) -> None:
    with containers.popen(*CREATE[:4], "--progress", "plain") as process:
        assert process.stderr is not None
        while "Started" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        # Which of two that wait together comes second is the kernel's choice.
        assert process.wait(60) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "Left as it is" in rest
    assert f"delete --name {containers.name}" in rest
    assert containers.left() != []
    containers.ok("delete")
    containers.assert_nothing_left()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_retained_it_keeps_what_was_made(containers: Containers, signum: signal.Signals) -> None:
    with containers.popen(*CREATE, "--retain") as process:
        assert process.stderr is not None
        assert any(json.loads(line)["event"] == "steps.ran" for line in process.stderr)
        process.send_signal(signum)
        rest = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.wait(60) == 128 + signum
    assert "rollback.started" not in [each["event"] for each in rest]
    assert any(f'kept what was made of "{containers.name}"' in each.get("message", "") for each in rest)
    assert [each.status for each in containers.containers()] == ["running"] * 4
    ids = [each.id for each in containers.containers()]
    again = containers.json(*CREATE[:4])
    assert again["created"] is False
    assert again["health"] == "ok"
    assert [each.id for each in containers.containers()] == ids
    containers.ok("delete")
    containers.assert_nothing_left()


def test_a_failure_leaves_nothing_and_keeps_the_logs(containers: Containers) -> None:
    done = containers(*CREATE[:4], "--set", "no-such-setting=1", timeout=90)
    assert done.returncode == 5
    assert "(server-bad-setting)" in done.stderr
    assert "no-such-setting" in done.stderr
    containers.assert_nothing_left()


def test_a_failure_that_is_retained_can_be_deleted(containers: Containers) -> None:
    containers.fails(5, *CREATE[:4], "--set", "no-such-setting=1", "--retain")
    assert len(containers.containers()) > 0
    (record,) = [each for each in containers.json("list")["clusters"] if each["name"] == containers.name]
    assert (record["runtime"], record["running"]) == ("docker", 0)
    containers.ok("delete")
    containers.assert_nothing_left()


def test_killed_while_it_is_deleted_it_is_deleted_by_the_next(containers: Containers) -> None:
    containers.ok(*CREATE[:4])
    with containers.popen("delete", "--progress", "json") as process:
        # Some of it is gone, not all of it.
        while len(containers.containers()) == 4:
            assert process.poll() is None
        process.kill()
        process.wait(60)
    done = subprocess.run(containers.command.argv("delete"), env=containers.command.env(), timeout=60, check=False)
    assert done.returncode == 0
    containers.assert_nothing_left()
