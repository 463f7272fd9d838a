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
``node.started``       ``node address role``: the role that it is planned for
``node.answered``      ``node address``
``steps.ran``          ``steps``: the formation commands of one round, as text
``settings.restored``  ``nodes``: how many nodes have their configured values again
``cluster.ready``      ``seconds created floor``: proven; whether this call made it; see `Timeline.floor`
``rollback.started``   ``reason``
``rollback.finished``  ``left logs``: what could not be removed, and where the logs were kept
=====================  ==============================================================================
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


WRITABLE_SECONDS = 2.0
"""How long a server that was just started refuses to call itself ok as a primary (``CLUSTER_WRITABLE_DELAY``)."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A finished part of an operation.

    Args:
        name: one of the phases.
        title: what was done.
        started: seconds from the operation's begin.
        seconds: how long it took.
        waited_for: what was missing last, in words; "" if nothing was waited for.
    """

    name: str
    title: str
    started: float
    seconds: float
    waited_for: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "phase": self.name,
            "title": self.title,
            "started": self.started,
            "seconds": self.seconds,
            "waited_for": self.waited_for or None,
        }


@dataclass(slots=True)
class Timeline:
    """An observer that keeps the finished phases and the warnings of an operation.

    Args:
        phases: the finished ones, in order.
        warnings: their messages.
        last_start: when the last planned primary was started, seconds from the operation's begin; None if none was.
    """

    phases: list[Phase] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    last_start: float | None = None
    _reasons: dict[str, str] = field(default_factory=dict)

    def __call__(self, event: Event) -> None:
        """Take one event."""
        fields = event.fields
        match event.name:
            case "phase.started":
                self._reasons[fields["phase"]] = ""
            case "phase.progressed":
                self._reasons[fields["phase"]] = fields["reason"] or self._reasons.get(fields["phase"], "")
            case "phase.finished":
                name, seconds = fields["phase"], fields["seconds"]
                reason = self._reasons.pop(name, "")
                self.phases.append(Phase(name, fields["title"], round(event.at - seconds, 3), seconds, reason))
            case "warning.raised":
                self.warnings.append(fields["message"])
            case "node.started" if fields["role"] == "primary":
                self.last_start = event.at
            case _:
                pass

    @property
    def floor(self) -> float | None:
        """The earliest that the cluster could be ready, seconds from the operation's begin.

        None where no primary was started, so that nothing but the formation itself takes time.
        """
        return None if self.last_start is None else round(self.last_start + WRITABLE_SECONDS, 3)


class Reporter:
    """Stamps events, and hands them to its timeline, to the observer and to the ``valkey_bootstrap`` logger.

    An observer that raises ends the operation with its exception, and is told nothing more: what cleans up after it
    must not fail again for the same reason.
    """

    def __init__(self, cluster: str, observer: Observer | None = None) -> None:
        self.cluster = cluster
        self.timeline = Timeline()
        self._observer = observer
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._began

    def emit(self, name: str, **fields: Any) -> None:
        """Tell one event."""
        event = Event(name, self.cluster, round(self.elapsed, 4), MappingProxyType(fields))
        self.timeline(event)
        if _log.isEnabledFor(logging.DEBUG):
            _log_event(event)
        if self._observer is None:
            return
        try:
            self._observer(event)
        except BaseException:
            self._observer = None
            raise

    def mention(self, name: str, **fields: Any) -> None:
        """Tell one event of a clean-up, which goes on whatever the observer makes of it."""
        with suppress(Exception):
            self.emit(name, **fields)

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
