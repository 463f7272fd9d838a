"""The verbs on clusters that exist: status, list, wait, logs and delete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bootstrap.cli import options, render, running, style
from bootstrap.cli.shared import Exit, Which, choose_progress, print_lines, run_work, take_look
from bootstrap.errors import UsageError


@click.command(short_help="Ask every node of a cluster.")
@click.argument("servers", nargs=-1, metavar="[HOST:PORT]...")
@options.name_option
@click.option("--exit-code", is_flag=True, help="Exit 7 when it is not healthy.")
@options.login_options
@options.state_root_option
@options.look_options("text", "json")
def status(
    servers: tuple[str, ...],
    name: str | None,
    exit_code: bool,
    password_file: Path | None,
    state_root: str | None,
    **flags: Any,
) -> None:
    """Ask every node of a cluster; nothing is changed.

    The cluster is one of ours by --name, or any by the addresses of some of its nodes.
    """
    look = take_look(flags)
    which = Which(_name(name, servers), state_root, servers, password_file)
    from bootstrap.operations.status import Status, read_status

    async def work() -> Status:
        return await read_status(await which.find())

    found = run_work(work, choose_progress(look))
    if look.output == "json":
        print_lines([render.as_json(found.as_dict())])
    elif look.quiet:
        print_lines([render.hosts_line(found.nodes)])
    else:
        print_lines(render.status_text(found, style.stdout(look.color)))
    if exit_code and not found.healthy:
        raise Exit(7)


@click.command("list", short_help="List the clusters.")
@options.state_root_option
@options.look_options("text", "json")
def list_clusters(state_root: str | None, **flags: Any) -> None:
    """List the clusters, running and stopped."""
    look = take_look(flags)
    from bootstrap.handle import clusters

    records = run_work(lambda: clusters(state_root=state_root), choose_progress(look))
    if look.output == "json":
        print_lines(
            [render.as_json({"format_version": 1, "clusters": [render.record_dict(record) for record in records]})]
        )
    elif look.quiet:
        print_lines([record.name for record in records])
    elif records:
        print_lines(render.records_text(records))
    else:
        style.stderr(look.color).write("There is no cluster")


@click.command(short_help="Wait until a cluster is healthy.")
@click.argument("servers", nargs=-1, metavar="[HOST:PORT]...")
@options.name_option
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="How many nodes it must have.")
@options.login_options
@options.timeout_option
@options.state_root_option
@options.look_options("text", "json")
def wait(
    servers: tuple[str, ...],
    name: str | None,
    nodes: int | None,
    password_file: Path | None,
    timeout: float,
    state_root: str | None,
    **flags: Any,
) -> None:
    """Wait until every node agrees on one healthy cluster; nothing is changed.

    The cluster is one of ours by --name, or any by the addresses of some of its nodes.
    """
    look = take_look(flags)
    which = Which(_name(name, servers), state_root, servers, password_file)
    observer = choose_progress(look)
    from bootstrap.events import Reporter
    from bootstrap.operations.status import Status
    from bootstrap.operations.wait import wait_healthy

    async def work() -> Status:
        reporter = Reporter(name or ",".join(servers), observer)
        return await wait_healthy(which.find, reporter, nodes=nodes, timeout=timeout)

    found = run_work(work, observer)
    if look.output == "json":
        print_lines([render.as_json(found.as_dict())])
    elif look.quiet:
        print_lines([render.hosts_line(found.nodes)])
    else:
        print_lines([f'Cluster "{found.name}" is healthy: {len(found.nodes)} nodes'])


@click.command(short_help="Print the nodes' logs.")
@click.argument("node", required=False)
@options.name_option
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last lines.")
@click.option(
    "--export",
    "export",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write every node's log to a folder.",
)
@options.state_root_option
@options.look_options("text")
def logs(
    node: str | None,
    name: str | None,
    follow: bool,
    tail: int | None,
    export: str | None,
    state_root: str | None,
    **flags: Any,
) -> None:
    """Print the log of a node, or of all nodes with their names in front."""
    look = take_look(flags)
    from bootstrap.cli.logs import show_logs

    async def work() -> None:
        await show_logs(await Which(name, state_root).find(), node, follow=follow, tail=tail, export=export)

    try:
        run_work(work, choose_progress(look))
    except running.Interrupted as interrupted:
        # Following a log has no other end.
        if not (follow and interrupted.code == 130):
            raise


@click.command(short_help="Remove a cluster.")
@options.name_option
@click.option("--all", "all_", is_flag=True, help="Every cluster.")
@click.option("--orphans", is_flag=True, help="Clusters whose owner, a program that embeds this one, is gone.")
@options.state_root_option
@options.look_options("text", "json")
def delete(name: str | None, all_: bool, orphans: bool, state_root: str | None, **flags: Any) -> None:
    """Remove a cluster: its servers, their data and their logs. It does not ask."""
    look = take_look(flags)
    if sum((name is not None and not _from_environment("name"), all_, orphans)) > 1:
        raise UsageError("--name, --all and --orphans exclude each other", hint="give one of them")
    from bootstrap.handle import find_record
    from bootstrap.operations.delete import delete as remove
    from bootstrap.runtimes import runtime_for

    async def work() -> list[str]:
        runtime = runtime_for("auto", state_root=state_root)
        if all_ or orphans:
            names = [record.name for record in await runtime.inventory() if all_ or record.orphan]
        else:
            names = [name or (await find_record(runtime, None)).name]
        return [each for each in names if await remove(runtime, each)]

    removed = run_work(work, choose_progress(look))
    told = style.stderr(look.color)
    if look.output == "json":
        print_lines([render.as_json({"format_version": 1, "deleted": removed})])
    elif not look.quiet:
        for each in removed:
            told.write(f'Deleted cluster "{each}"')
        if not removed:
            told.write(f'There is no cluster "{name}": nothing to delete' if name else "There is nothing to delete")


def _name(name: str | None, servers: tuple[str, ...]) -> str | None:
    """The name; one that only the environment has gives way to addresses."""
    return None if servers and _from_environment("name") else name


def _from_environment(parameter: str) -> bool:
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.ENVIRONMENT
