"""What all tests of bad inputs and broken engines ask: one clear error, and a moment to break something at."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import Command
from .containers import Containers


def refused(command: Command | Containers, code: int, *args: str | float | Path) -> str:
    """Run, insist on one error with a hint, the exit code, and nothing left; stderr."""
    told = command.fails(code, *args)
    assert sum(line.startswith("error: ") for line in told.splitlines()) == 1, told
    assert "\nhint: " in told, told
    command.assert_nothing_left()
    return told


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code, what it told after the moment, and how long that took."""

    code: int
    events: tuple[dict[str, Any], ...]
    seconds: float

    def of(self, name: str) -> list[dict[str, Any]]:
        """The events of a name."""
        return [event for event in self.events if event["event"] == name]

    @property
    def messages(self) -> str:
        """Notes and warnings."""
        return "\n".join(event["message"] for event in (*self.of("note.made"), *self.of("warning.raised")))

    @property
    def error(self) -> dict[str, Any]:
        """The one error, which is the last word."""
        (error,) = self.of("error")
        assert error is self.events[-1]
        assert error["exit_code"] == self.code
        assert error["hint"]
        return error


def at_moment(
    containers: Containers, moment: dict[str, Any], act: Callable[[], object], *args: str | float | Path
) -> Outcome:
    """Run, and do something as soon as an event with these fields is told.

    Args:
        containers: the command.
        moment: fields of the event.
        act: what is done then.
        args: of the command.
    """
    with containers.popen(*args, "--progress", "json") as process:
        assert process.stderr is not None
        assert process.stdout is not None
        try:
            for line in process.stderr:
                event = json.loads(line)
                if moment.items() <= event.items():
                    break
            else:
                pytest.fail(f"it ended before {moment}")
            act()
            began = time.monotonic()
            # Whatever is no line of JSON, such as a traceback, fails here.
            rest = tuple(json.loads(line) for line in process.stderr)
            output, code = process.stdout.read(), process.wait(20)
        finally:
            process.kill()
    assert code == 0 or not output, output
    return Outcome(code, rest, time.monotonic() - began)
