"""Formations in a row, with faults while they form, each judged by somebody else than the product.

Called by scripts/soak. The runs themselves are in tests/integration/soaking.py, which the tests carry out, too.
"""
# ruff: noqa: INP001 - a script of a folder of scripts

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

import click

from tests.integration.conftest import VERSIONS, server_path
from tests.integration.scenarios import Scenario, draw
from tests.integration.soaking import Outcome, Wrong, soak


class Summary:
    """What is told at the end."""

    def __init__(self) -> None:
        self.verdicts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.faults: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, scenario: Scenario, outcome: Outcome) -> None:
        """Count a run."""
        told = ", ".join(outcome.verdicts)
        self.verdicts[scenario.start][told] += 1
        kinds: set[str] = {fault.kind for fault in outcome.done}
        for kind in kinds or {"nothing"}:
            self.faults[kind][told] += 1
        calm = "undisturbed" if not outcome.done and outcome.verdicts == ("ready",) else "with faults"
        self.seconds[f"{scenario.start}, {calm}"].append(outcome.seconds)

    def print(self) -> None:
        """Print all of it."""
        click.echo("\nThe last command took, in seconds (runs: min / median / max):")
        for kind, took in sorted(self.seconds.items()):
            click.echo(f"  {kind:28} {len(took):4}: {min(took):.1f} / {median(took):.1f} / {max(took):.1f}")
        for title, counts in (("start", self.verdicts), ("what was done", self.faults)):
            click.echo(f"Verdicts by {title}:")
            for kind, verdicts in sorted(counts.items()):
                told = "; ".join(f"{count} x {verdict}" for verdict, count in verdicts.most_common())
                click.echo(f"  {kind:16} {told}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, default=None, help="What the runs are drawn from.  [default: a random one]")
@click.option("--runs", default=300, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--minutes", default=60.0, show_default=True, help="Begin no run after this long.")
@click.option("--first", default=0, show_default=True, metavar="N", help="The number of the first run.")
@click.option("--max-nodes", default=30, show_default=True, type=click.IntRange(1), help="Nodes of the largest.")
@click.option("--keep-going", is_flag=True, help="Go on after a wrong verdict.")
@click.option("--list", "list_only", is_flag=True, help="Print the runs, and do nothing.")
def main(*, seed: int | None, runs: int, first: int, max_nodes: int, list_only: bool, **limits: Any) -> None:
    """Form clusters of local processes, one after the other, and judge each independently.

    Sizes, versions, settings, the state of the servers before and the faults meanwhile are drawn from the seed and
    the number of the run. Each run has to end ready, and to be so, or with an error that names a node to which
    something was done; the same command again has to mend it. The first run of which that is not true ends the soak
    with exit code 1, and its logs and views are kept.
    """
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    versions = [version for version in VERSIONS if server_path(version)]
    click.echo(f"seed {seed}, at most {max_nodes} nodes, servers: {', '.join(versions)}")
    scenarios = (draw(seed, number, versions, most=max_nodes) for number in range(first, first + runs))
    if list_only:
        for scenario in scenarios:
            click.echo(f"{scenario.number:4}  {scenario}")
        return
    # So that servers are ended, too, when this is.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(1 if carry_out(scenarios, max_nodes, **limits) else 0)


def carry_out(scenarios: Iterable[Scenario], max_nodes: int, *, minutes: float, keep_going: bool) -> int:
    """Run all that can be begun in time; how many verdicts were wrong."""
    summary, began, count, wrong = Summary(), time.monotonic(), 0, 0
    for scenario in scenarios:
        if time.monotonic() - began > 60 * minutes:
            click.echo("The time is up")
            break
        count += 1
        wrong += not one(scenario, summary, max_nodes)
        if wrong and not keep_going:
            break
    summary.print()
    click.echo(f"{count} runs, {wrong or 'no'} wrong verdicts, {time.monotonic() - began:.0f} s")
    return wrong


def one(scenario: Scenario, summary: Summary, max_nodes: int) -> bool:
    """One run in a folder of its own, which stays if the verdict was wrong; whether it was right."""
    click.echo(f"{scenario.number:4}  {scenario}", nl=False)
    folder = Path(tempfile.mkdtemp(prefix=f"valkey-bootstrap-soak-{scenario.seed}-{scenario.number}-"))
    try:
        outcome = soak(scenario, folder)
    except (Wrong, AssertionError) as wrong:
        told = str(wrong) if isinstance(wrong, Wrong) else traceback.format_exc()
        click.echo(f"\n\nWRONG: {told}\n\nload: {os.getloadavg()}; logs and views are in {folder}")
        click.echo(
            f"again: scripts/soak --seed {scenario.seed} --first {scenario.number} --runs 1 --max-nodes {max_nodes}"
        )
        return False
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder)
    summary.add(scenario, outcome)
    planned = sum(map(len, scenario.faults))
    # A moment may come after the command's end, or never.
    done = f", {len(outcome.done)} of {planned} done" if planned else ""
    click.echo(f"  ->  {', '.join(outcome.verdicts)}, {outcome.seconds:.1f} s{done}")
    return True


if __name__ == "__main__":
    main()
