"""What the package tells while it works: frozen events to an observer, and the timeline made of them.

Names are dotted and in the past tense. The fields of each:

=====================  ==============================================================================
``plan.made``          ``nodes primaries replicas runtime server summary exists``: counts, two texts, and whether
                       there was something of it before
``warning.raised``     ``message``
``note.made``          ``message``: a choice made for the caller, such as another block of ports
``phase.started``      ``phase title total``
``phase.progressed``   ``phase done total reason``: how far, and what is still missing
``phase.finished``     ``phase title seconds``: the title now says what was done
``node.started``       ``node address``
``node.answered``      ``node address``
``steps.ran``          ``steps``: the formation commands of one round, as text
``settings.restored``  ``nodes``: how many nodes have their configured values again
``cluster.ready``      ``seconds created``: proven; whether this call made it
``rollback.started``   ``reason``
``rollback.finished``  ``left logs``: what could not be removed, and where the logs were kept
=====================  ==============================================================================
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_log = logging.getLogger("valkey_bootstrap")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened: its name, the cluster, seconds since the operation began, and the fields above."""

    name: str
    cluster: str
    at: float
    fields: Mapping[str, Any] = field(default_factory=dict)


Observer = Callable[[Event], object]


@dataclass(frozen=True, slots=True)
class Phase:
    """A finished part of an operation: ``started`` and ``seconds`` relative to the operation's begin."""

    name: str
    title: str
    started: float
    seconds: float


@dataclass(slots=True)
class Timeline:
    """An observer that keeps the finished phases and the warnings of an operation."""

    phases: list[Phase] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Take one event."""
        if event.name == "phase.finished":
            seconds = event.fields["seconds"]
            self.phases.append(
                Phase(event.fields["phase"], event.fields["title"], round(event.at - seconds, 3), seconds)
            )
        elif event.name == "warning.raised":
            self.warnings.append(event.fields["message"])


class Reporter:
    """Stamps events and hands them to the observer and to the ``valkey_bootstrap`` logger.

    An observer that raises ends the operation with its exception: nothing is swallowed.
    """

    def __init__(self, cluster: str, observer: Observer | None = None) -> None:
        self.cluster = cluster
        self._observer = observer
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._began

    def emit(self, name: str, **fields: Any) -> None:
        """Tell one event."""
        event = Event(name, self.cluster, round(self.elapsed, 4), MappingProxyType(fields))
        if _log.isEnabledFor(logging.DEBUG):
            _log_event(event)
        if self._observer is not None:
            self._observer(event)

    def warn(self, message: str) -> None:
        """Tell a warning."""
        self.emit("warning.raised", message=message)

    @contextmanager
    def phase(self, name: str, title: str, done: str, *, total: int = 0) -> Iterator[PhaseReporter]:
        """A part of the operation: `title` while it runs, `done` afterwards; not finished when the block raises."""
        self.emit("phase.started", phase=name, title=title, total=total)
        began = time.monotonic()
        phase = PhaseReporter(self, name, total, done)
        yield phase
        self.emit("phase.finished", phase=name, title=phase.done_title, seconds=round(time.monotonic() - began, 4))


@dataclass(slots=True)
class PhaseReporter:
    """Handed to the body of a phase: counts, gives the reason left, and may change the closing title."""

    reporter: Reporter
    name: str
    total: int
    done_title: str
    _last: tuple[int, str] = (-1, "")

    def progress(self, done: int, reason: str = "") -> None:
        """Tell how far the phase is; the same state twice is told once."""
        if (done, reason) != self._last:
            self._last = (done, reason)
            self.reporter.emit("phase.progressed", phase=self.name, done=done, total=self.total, reason=reason)


def _log_event(event: Event) -> None:
    # Imported here: structlog costs about 0.1 s, and most hosts of the library never turn this logger on.
    import structlog

    logger = structlog.wrap_logger(
        _log, processors=[structlog.stdlib.render_to_log_kwargs], wrapper_class=structlog.stdlib.BoundLogger
    )
    level = logging.WARNING if event.name == "warning.raised" else logging.DEBUG
    # `extra` may not shadow a LogRecord's own attributes ("name", "message"), so the fields travel as one value.
    logger.log(level, event.name, cluster=event.cluster, at=event.at, event_fields=dict(event.fields))
