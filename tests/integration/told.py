"""What a command tells while it is at work, line by line, with the time of each."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Collection, Iterable
from typing import Any


class Told:
    """Events of one command; filled by a thread, read by others."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.finished = self.began
        self.code: int | None = None
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.other: list[str] = []
        self.ended = threading.Event()
        self._news = threading.Condition()

    def read(self, lines: Iterable[str]) -> None:
        """Take all lines until there are no more."""
        for line in lines:
            with self._news:
                try:
                    self.events.append((time.monotonic(), json.loads(line)))
                except ValueError:
                    self.other.append(line)
                self._news.notify_all()
        self.finished = time.monotonic()
        self.ended.set()
        with self._news:
            self._news.notify_all()

    def when(self, name: str, **fields: str | bool) -> float | None:
        """When an event with these fields was told first."""
        wanted = {"event": name, **fields}.items()
        return next((at for at, event in list(self.events) if wanted <= event.items()), None)

    def await_phase(self, phases: Collection[str]) -> float | None:
        """When one of these phases began, as soon as it has; None if the command ends before."""
        with self._news:
            while (found := self._phase(phases)) is None and not self.ended.is_set():
                self._news.wait()
        return found

    def _phase(self, phases: Collection[str]) -> float | None:
        return next(
            (at for at, event in self.events if event["event"] == "phase.started" and event["phase"] in phases), None
        )

    @property
    def error(self) -> dict[str, Any] | None:
        """The error that it ended with, if there is one."""
        return next((event for _, event in self.events if event["event"] == "error"), None)
