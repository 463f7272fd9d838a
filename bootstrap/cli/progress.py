"""Progress on stderr: observers for terminals, for logs and for programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from bootstrap.cli.options import Look
from bootstrap.cli.style import Style, in_this_program, stderr
from bootstrap.errors import BootstrapError
from bootstrap.events import Event

HEARTBEAT_SECONDS = 5.0


class Progress(Protocol):
    """An observer that is told the end, too."""

    def __call__(self, event: Event) -> None:
        """One event."""

    def close(self) -> None:
        """Nothing more comes; the terminal is left as it was found."""


def choose(look: Look) -> Progress:
    """The progress that was asked for; ``auto`` decides by stderr."""
    style = stderr(look.color)
    mode = look.progress
    if mode == "auto":
        live = style.stream.isatty() and style.color
        mode = "quiet" if look.quiet else "tty" if live else "plain"
    if mode == "json":
        return JsonProgress(style)
    if mode == "quiet":
        return QuietProgress(style)
    return LiveProgress(style) if mode == "tty" else PlainProgress(style)


class JsonProgress:
    """One JSON object per line: ``event``, ``cluster``, ``at`` in seconds, and the event's fields."""

    def __init__(self, style: Style) -> None:
        self._style = style

    def __call__(self, event: Event) -> None:
        """One line."""
        self.line({"event": event.name, "cluster": event.cluster, "at": event.at, **event.fields})

    def line(self, document: Mapping[str, Any]) -> None:
        """One object."""
        self._style.write(json.dumps(document))

    def error(self, error: BootstrapError) -> None:
        """The last line of a command that failed."""
        self.line({"event": "error", **error.as_dict()})

    def close(self) -> None:
        """Nothing to restore."""


class QuietProgress:
    """Warnings and rollbacks only: what one must know even when nothing else is wanted."""

    def __init__(self, style: Style) -> None:
        self._style = style

    def __call__(self, event: Event) -> None:
        """A line, for the few that count; choices made for the caller are in the result."""
        if event.name != "note.made" and (text := _remark(event, self._style)):
            self._style.write(text)

    def close(self) -> None:
        """Nothing to restore."""


class PlainProgress:
    """A line for each finished phase, without control codes, and a heartbeat with the reason left in long waits."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._title = ""
        self._told = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Tell what is worth a line."""
        fields = event.fields
        if event.name == "plan.made":
            self._write(_headline(event))
        elif event.name == "phase.started":
            self._title = fields["title"]
            self._told = time.monotonic()
        elif event.name == "phase.finished":
            self._write(_finished(event, self._style))
        elif event.name == "phase.progressed" and time.monotonic() - self._told > HEARTBEAT_SECONDS:
            self._write(f" {self._style.bullet} {_running(self._title, fields)}")
        elif text := _remark(event, self._style):
            self._write(text)

    def _write(self, text: str) -> None:
        self._told = time.monotonic()
        self._style.write(text)

    def close(self) -> None:
        """Nothing to restore."""


class LiveProgress:
    """The same lines, and below them one live line with counters and the reason left."""

    def __init__(self, style: Style) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner
        from rich.text import Text

        self._style = style
        self._text = Text
        self._console = Console(
            file=style.stream, force_terminal=True, highlight=False, no_color=not style.color, soft_wrap=True
        )
        self._spinner = Spinner("line" if style.done == "ok" else "dots", style="cyan")
        self._live = Live(
            self._spinner,
            console=self._console,
            transient=True,
            refresh_per_second=12,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._title = ""
        self._began = 0.0
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Tell it, and keep the live line up to date."""
        fields = event.fields
        if event.name == "plan.made":
            self._print(_headline(event))
        elif event.name == "phase.started":
            self._title, self._began = fields["title"], time.monotonic()
            self._show(self._title)
        elif event.name == "phase.progressed":
            self._show(_running(self._title, fields))
        elif event.name == "phase.finished":
            self._print(_finished(event, self._style))
        elif text := _remark(event, self._style):
            self._print(text)

    def _show(self, text: str) -> None:
        # One line, whatever the width: a wrapped live line would leave its first half behind.
        room = max(20, self._console.width - 4)
        self._spinner.update(text=self._text(text if len(text) <= room else text[: room - 1] + "…"))
        self._live.start(refresh=True)

    def _print(self, text: str) -> None:
        self._console.print(self._text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        """Remove the live line and show the cursor again."""
        self._live.stop()


def _headline(event: Event) -> str:
    fields = event.fields
    if fields["runtime"] == "none":
        verb, where = (
            "Carrying on with a cluster" if fields["exists"] else "Forming a cluster",
            fields["server"],
        )
    else:
        verb = f'{"Checking" if fields["exists"] else "Creating"} cluster "{event.cluster}"'
        where = f"{fields['runtime']}, {fields['server']}"
    return f"{verb}: {fields['summary']}   {where}"


def _running(title: str, fields: Mapping[str, Any]) -> str:
    count = f" ({fields['done']}/{fields['total']})" if fields["total"] else ""
    return f"{title}{count}" + (f": {fields['reason']}" if fields["reason"] else "")


def _finished(event: Event, style: Style) -> str:
    mark = style.paint(style.done, fg="green")
    return f" {mark} {event.fields['title']:<32} {event.fields['seconds']:.1f}s"


def _remark(event: Event, style: Style) -> str:
    """The line for a warning, a note or a rollback; "" for other events."""
    fields = event.fields
    if event.name == "warning.raised":
        return f"{style.paint('warning:', fg='yellow')} {in_this_program(fields['message'])}"
    if event.name == "note.made":
        return f"note: {in_this_program(fields['message'])}"
    if event.name == "rollback.started":
        return f'Removing what was made of "{event.cluster}" (Ctrl-C leaves it)'
    if event.name == "rollback.finished":
        left = (
            f"{style.paint('warning:', fg='yellow')} left: {', '.join(fields['left'])}"
            if fields["left"]
            else "Nothing is left"
        )
        return left + (f"; logs are in {fields['logs']}" if fields["logs"] else "")
    return ""
