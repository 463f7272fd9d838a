"""A signal after each event, then the same command again: finished or explained, nothing foreign, nothing left."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from .conftest import Command

pytestmark = pytest.mark.servers

CREATE = ("--nodes", 4, "--replicas", 1, "--base-port", "auto", "--progress", "json", "--timeout", 30)


def events_of(command: Command) -> int:
    """How many events a whole creation emits."""
    done = command(*CREATE)
    assert done.returncode == 0, done.stderr
    command.ok("delete")
    return len(done.stderr.splitlines())


def create_until(command: Command, count: int, signum: int) -> tuple[int, list[str]]:
    """Run a creation, signal it after `count` events, and give its exit code and the events."""
    with subprocess.Popen(
        command.argv(*CREATE), env=command.env(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline() for _ in range(count)]
        process.send_signal(signum)
        rest = process.stderr.read()
        code = process.wait(30)
    return code, [*lines, *rest.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_a_signal_after_any_event(command: Command, signum: signal.Signals) -> None:
    # Event counts vary a little with the polls; every second one of a whole run covers each part of the way. The two
    # signals that are handled, by the same handler, share them.
    total = events_of(command)
    first, step = {signal.SIGINT: (1, 4), signal.SIGTERM: (3, 4)}.get(signum, (1, 2))
    for count in range(first, total, step):
        code, lines = create_until(command, count, signum)
        names = [json.loads(line)["event"] for line in lines if line.strip()]
        finished = "cluster.ready" in names
        if signum is not signal.SIGKILL:
            # A signal that comes after the end of the work finds nothing to interrupt.
            assert code == (0 if finished and code == 0 else 128 + signum), (count, names[-3:])
            if code:
                assert command.json("list")["clusters"] == [] or finished, names
                if not finished:
                    command.assert_nothing_left()
        again = command.json(*CREATE[:6])
        assert again["health"] == "ok"
        assert command.json("status")["health"] == "ok"
        command.ok("delete")
        command.assert_nothing_left()


def test_a_second_signal_leaves_it_and_says_how_to_remove_it(command: Command) -> None:
    # The second comes long before the rollback, which the first begins, can be done.
    with subprocess.Popen(
        command.argv(*CREATE[:6], "--progress", "plain"),
        env=command.env(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        while "Started" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        code = process.wait(30)
    # Which of two that wait together comes second is the kernel's choice.
    assert code in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert "Left as it is" in rest
    assert "delete --name valkey" in rest
    command.ok("delete", "--name", "valkey")
    command.assert_nothing_left()


def test_a_reader_of_progress_that_goes_away_leaves_nothing(command: Command) -> None:
    with subprocess.Popen(
        command.argv(*CREATE), env=command.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        assert process.wait(30) == 1
    command.assert_nothing_left()
