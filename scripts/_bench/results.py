"""Results as a table for people and as a JSON file that can be drawn again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from scripts._bench.failures import Failure
from scripts._bench.formation import CASES, Case, Run, Tool
from scripts._bench.witness import CLOCKS

FORMAT_VERSION = 1

FLOORS: Mapping[Case, float] = {"up": 0.5, "start": 2.0}
"""Seconds that no tool can be faster than, by the servers' own delays (cluster_legacy.c).

A primary that had no majority does not call itself ok for at least CLUSTER_MIN_REJOIN_DELAY after it has one, and one
that was just started not for CLUSTER_WRITABLE_DELAY.
"""


@dataclass(frozen=True, slots=True)
class Results:
    """A series.

    Args:
        about: the machine, the versions, the date, and how it was measured.
        runs: in the order in which they were made.
    """

    about: Mapping[str, Any]
    runs: Sequence[Run]

    @property
    def cases(self) -> list[Case]:
        """Those that were measured."""
        return [case for case in CASES if any(run.case == case for run in self.runs)]

    def nodes(self, case: Case) -> list[int]:
        """The numbers of nodes that were measured."""
        return sorted({run.nodes for run in self.runs if run.case == case})

    def of(self, case: Case, nodes: int, tool: Tool) -> list[Run]:
        """The runs of one tool."""
        return [run for run in self.runs if (run.case, run.nodes, run.tool) == (case, nodes, tool)]

    def write(self, path: Path) -> None:
        """Write the JSON file."""
        document = {"format_version": FORMAT_VERSION, "about": self.about, "runs": [asdict(run) for run in self.runs]}
        path.write_text(json.dumps(document, indent=1) + "\n")


def read_results(path: Path) -> Results:
    """What `Results.write` wrote.

    Raises:
        Failure: it is something else.
    """
    try:
        document = json.loads(path.read_text())
        assert document["format_version"] == FORMAT_VERSION, f"not format {FORMAT_VERSION}"
        return Results(document["about"], [Run(**run) for run in document["runs"]])
    except (OSError, AssertionError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"`{path}` cannot be read: {error}", "give a file that --json wrote") from error


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{_seconds(self.median)} ({_seconds(self.least)}-{_seconds(self.most)})"


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of the values that there are; None where there are none."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def table(results: Results, case: Case) -> list[str]:
    """The lines of a case's table: seconds, and what valkey-bootstrap used."""
    tool = f"{'ready':16}{'exit':>6}"
    used = f"{'CPU s':>5} {'MiB':>4} {'KiB':>6}"
    return [
        f"{'':5}  {'valkey-bootstrap':22}  {'valkey-cli':22}  {'':6}  valkey-bootstrap",
        f"nodes  {tool}  {tool}  {'ratio':>6}  {used}  fail flags",
        *(_row(results, case, nodes) for nodes in results.nodes(case)),
    ]


def failures(results: Results) -> list[str]:
    """A line for each run that did not become ready, or whose tool did not succeed."""
    return [f"{run.tool}, {run.nodes} nodes: {_failure(run)}" for run in results.runs if not run.good]


def title(case: Case, about: Mapping[str, Any]) -> str:
    """What the servers of a case were when the tool began."""
    return f"Servers up for {about['up_seconds']:g} s" if case == "up" else "Servers just started"


def run_line(run: Run) -> str:
    """A run in one line."""
    if not run.good:
        return _failure(run)
    slowest = max(CLOCKS, key=lambda clock: run.clocks[clock] or 0)
    flags = ", fail flags" if run.fail_flags else ""
    return f"ready {_seconds(run.ready)} s ({slowest}), exit {_seconds(run.exit)} s{flags}"


def _row(results: Results, case: Case, nodes: int) -> str:
    ours, other = results.of(case, nodes, "ours"), results.of(case, nodes, "valkey-cli")
    ready = [spread(run.ready for run in runs if run.good) for runs in (ours, other)]
    ratio = f"{ready[1].median / ready[0].median:.1f}" if ready[0] and ready[1] else "-"
    used = [spread(values) for values in _used(ours)]
    return (
        f"{nodes:5}  {_times(ours)}  {_times(other)}  {ratio:>6}  {_figure(used[0], 2):>5} {_figure(used[1], 0):>4}"
        f" {_figure(used[2], 0):>6}  {_flags(ours)} / {_flags(other)}"
    )


def _used(runs: Sequence[Run]) -> list[list[float]]:
    return [
        [run.cpu_seconds for run in runs],
        [run.peak_kib / 1024 for run in runs],
        [run.client_bytes / 1024 for run in runs],
    ]


def _times(runs: Sequence[Run]) -> str:
    """Ready and exit; how many runs failed where some did."""
    good = [run for run in runs if run.good]
    if not runs:
        return f"{'not measured':22}"
    if len(good) < len(runs):
        return f"{f'{len(runs) - len(good)} of {len(runs)} failed':22}"
    ended = spread(run.exit for run in good)
    return f"{spread(run.ready for run in good)!s:16}{_seconds(ended.median if ended else None):>6}"


def _flags(runs: Sequence[Run]) -> str:
    """In how many runs a node was taken for failing."""
    return f"{sum(run.fail_flags for run in runs)} of {len(runs)}" if runs else "-"


def _failure(run: Run) -> str:
    left = ", ".join(f"{clock} not right on {count}" for clock, count in run.left.items()) or "all views right"
    ended = "did not end" if run.exit_code is None else f"exit code {run.exit_code} after {_seconds(run.exit)} s"
    return f"failed: {ended}; {left}; {run.complaint or 'no error was told'}"


def _figure(value: Spread | None, digits: int) -> str:
    return f"{value.median:.{digits}f}" if value else "-"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
