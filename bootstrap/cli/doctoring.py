"""The verb that says what is wrong with a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli import options, render, style
from bootstrap.cli.shared import Exit, choose_progress, print_lines, run_work, take_look, take_which
from bootstrap.exports.clients import CLIENTS, snippet_lines
from bootstrap.exports.contacts import contact_of
from bootstrap.planning.text import plural

if TYPE_CHECKING:
    from bootstrap.exports.clients import Client
    from bootstrap.judging.evidence import Finding
    from bootstrap.operations.doctor import Diagnosis


@click.command(short_help="Find out what is wrong with a cluster.")
@click.argument("servers", nargs=-1, metavar="[NAME | HOST:PORT...]")
@options.name_option
@click.option("--quick", is_flag=True, help="Only ask what the nodes believe of each other; nothing is dialled.")
@click.option(
    "--client",
    type=click.Choice(CLIENTS),
    help="The client library to show an address map for, where one is needed.  [default: redis-py]",
)
@options.login_options
@options.where_options
@options.look_options("text", "json")
def doctor(quick: bool, client: Client | None, **flags: Any) -> None:
    """Say what is wrong with a cluster, which node and setting is to blame, and how to mend it; nothing is changed.

    The cluster is one of ours by its name, or any by the addresses of some of its nodes: the more are given, the more
    can be said. Every address that nodes and clients are told is dialled, from here and from inside the containers.

    Exit code 7 when something keeps the cluster from working; warnings do not.
    """
    look, which = take_look(flags), take_which(flags)
    observer = choose_progress(look)
    from bootstrap.events import Reporter
    from bootstrap.operations.doctor import examine

    async def work() -> Diagnosis:
        deployment = await which.find(every_seed=True)
        return await examine(deployment, Reporter(deployment.name, observer), quick=quick)

    found = run_work(work, observer)
    if look.output == "json":
        print_lines([render.as_json(found.as_dict())])
    elif look.quiet:
        print_lines([f"{finding.node or found.status.name} {finding.cause}" for finding in found.findings])
    else:
        print_lines(_text(found, client, style.stdout(look.color)))
    if not found.healthy:
        raise Exit(7)


def _text(found: Diagnosis, client: Client | None, told: style.Style) -> Iterator[str]:
    name, nodes = found.status.name, len(found.status.nodes)
    for finding in found.findings:
        yield from _finding(finding, told)
        yield ""
    if found.remap:
        library, contact = client or "redis-py", contact_of(found.status, remap=found.remap)
        yield f"Clients here reach the cluster when they map what it announces, as in {library}:"
        yield ""
        yield from (f"    {line}".rstrip() for line in snippet_lines(library, contact))
        yield ""
    elif client and found.healthy:
        yield "Clients here need no address map: what is announced works"
    for place in found.evidence.untried:
        yield f"not tried {place}"
    errors, warnings = len(found.errors), len(found.findings) - len(found.errors)
    counts = ", ".join(plural(count, what) for count, what in ((errors, "error"), (warnings, "warning")) if count)
    state = "is healthy" if found.healthy else "is not healthy"
    yield f'Cluster "{name}" {state}: {plural(nodes, "node")}{", " if counts else ""}{counts}'


def _finding(finding: Finding, told: style.Style) -> Iterator[str]:
    error = finding.level == "error"
    mark = told.paint(told.failed, fg="red") if error else told.paint("!", fg="yellow")
    yield f"{mark} {told.paint(finding.node, bold=True)}{': ' if finding.node else ''}{finding.text} ({finding.cause})"
    rows = [("setting", finding.setting), *(("seen", line) for line in finding.evidence), ("mend", finding.mend)]
    for title, text in rows:
        if text:
            yield f"    {title:<8} {style.in_this_program(text)}"
