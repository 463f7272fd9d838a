"""Formation, again and again: both tools by turns, for each number of nodes and each case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import bootstrap
from scripts._bench import machine
from scripts._bench.formation import Case, Run, Setting, Tool, measure
from scripts._bench.results import Results, run_line


@dataclass(frozen=True, slots=True)
class Series:
    """What is to be measured.

    Args:
        cases: in which states of the servers.
        nodes: numbers of nodes.
        tools: which tools.
        runs: of each tool for each number of nodes.
        setting: the same for all.
    """

    cases: Sequence[Case]
    nodes: Sequence[int]
    tools: Sequence[Tool]
    runs: int
    setting: Setting


def run_series(series: Series, tell: Callable[[str], None], add: Callable[[Results], None]) -> Results:
    """Measure everything.

    Args:
        series: what.
        tell: shown a line for each run.
        add: shown what there is after each run, so that it is not lost when the rest fails.

    Raises:
        Failure: the machine does not allow it, or servers did not start.
    """
    machine.allow_files(max(series.nodes))
    about = describe(series)
    done: list[Run] = []
    for case in series.cases:
        for nodes in series.nodes:
            for turn in range(series.runs):
                for tool in _in_turn(series.tools, turn):
                    machine.await_room(nodes, tell)
                    run = measure(case, nodes, tool, series.setting)
                    done.append(run)
                    tell(f"{case:5} {nodes:3} nodes  {turn + 1}/{series.runs}  {tool:10}  {run_line(run)}")
                    add(Results(about, done))
    return Results(about, done)


def describe(series: Series) -> dict[str, object]:
    """The machine, the versions and how it is measured, without any path."""
    setting = series.setting
    cli = {"valkey_cli": machine.version_of(setting.cli, "--version")} if setting.cli else {}
    return {
        **machine.describe(),
        "valkey_bootstrap": bootstrap.__version__,
        "server": machine.version_of(setting.server, "--version"),
        **cli,
        "runs": series.runs,
        **{name: value for name, value in asdict(setting).items() if name not in ("server", "cli")},
    }


def _in_turn(tools: Sequence[Tool], turn: int) -> Sequence[Tool]:
    """Who goes first changes, so that neither always has what the other one left."""
    return tools if turn % 2 == 0 else tools[::-1]
