"""The verbs on clusters that exist: status, list, wait, logs and delete."""

from __future__ import annotations

from typing import Any

import click

from bootstrap.cli import options, render, running, style
from bootstrap.cli.shared import (
    Exit,
    choose_progress,
    from_environment,
    print_lines,
    run_work,
    take_look,
    take_which,
)
from bootstrap.errors import UsageError


@click.command(short_help="Ask every node of a cluster.")
@click.argument("servers", nargs=-1, metavar="[NAME | HOST:PORT...]")
@options.name_option
@click.option("--exit-code", is_flag=True, help="Exit 7 when it is not healthy.")
@options.login_options
@options.where_options
@options.look_options("text", "json")
def status(exit_code: bool, **flags: Any) -> None:
    """Ask every node of a cluster; nothing is changed.

    The cluster is one of ours by its name, or any by the addresses of some of its nodes.
    """
    look, which = take_look(flags), take_which(flags)
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
@options.where_options
@options.look_options("text", "json")
def list_clusters(runtime: str, state_root: str | None, **flags: Any) -> None:
    """List the clusters, running and stopped."""
    look = take_look(flags)
    from bootstrap.runtimes import everywhere

    told = style.stderr(look.color)
    inventory = run_work(lambda: everywhere(runtime, state_root=state_root), choose_progress(look))
    records = [each.record for each in inventory.found]
    for error in inventory.unasked:
        told.write(f"{told.paint('warning:', fg='yellow')} {error.message}: clusters in containers are not listed")
    if look.output == "json":
        print_lines(
            [render.as_json({"format_version": 1, "clusters": [render.record_dict(record) for record in records]})]
        )
    elif look.quiet:
        print_lines([record.name for record in records])
    elif records:
        print_lines(render.records_text(records))
    else:
        told.write("There is no cluster")


@click.command(short_help="Wait until a cluster is healthy.")
@click.argument("servers", nargs=-1, metavar="[NAME | HOST:PORT...]")
@options.name_option
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="How many nodes it must have.")
@options.login_options
@options.timeout_option
@options.where_options
@options.look_options("text", "json")
def wait(nodes: int | None, timeout: float, **flags: Any) -> None:
    """Wait until every node agrees on one healthy cluster; nothing is changed.

    The cluster is one of ours by its name, or any by the addresses of some of its nodes.
    """
    look, which = take_look(flags), take_which(flags)
    observer = choose_progress(look)
    from bootstrap.events import Reporter
    from bootstrap.operations.status import Status
    from bootstrap.operations.wait import wait_healthy

    async def work() -> Status:
        reporter = Reporter(which.name or ",".join(which.servers), observer)
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
@options.where_options
@options.look_options("text")
def logs(node: str | None, follow: bool, tail: int | None, export: str | None, **flags: Any) -> None:
    """Print the log of a node, or of all nodes with their names in front."""
    look, which = take_look(flags), take_which(flags)
    from bootstrap.cli.logs import show_logs

    async def work() -> None:
        await show_logs(await which.find(), node, follow=follow, tail=tail, export=export)

    try:
        run_work(work, choose_progress(look))
    except running.Interrupted as interrupted:
        # Following a log has no other end.
        if not (follow and interrupted.code == 130):
            raise


@click.command(short_help="Remove a cluster.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@options.name_option
@click.option("--all", "all_", is_flag=True, help="Every cluster.")
@click.option("--orphans", is_flag=True, help="Clusters whose owner, `run` or a program that embeds this one, is gone.")
@options.where_options
@options.look_options("text", "json")
def delete(names: tuple[str, ...], all_: bool, orphans: bool, **flags: Any) -> None:
    """Remove clusters: their servers, data and logs. It does not ask."""
    look = take_look(flags)
    name, runtime, state_root = flags["name"], flags["runtime"], flags["state_root"]
    said = name is not None and not from_environment("name")
    if sum((bool(names), said, all_, orphans)) > 1:
        raise UsageError("a name, --name, --all and --orphans exclude each other", hint="give one of them")
    names = names or ((name,) if name else ())
    from bootstrap.handle import find
    from bootstrap.operations.choosing import refuse_unasked
    from bootstrap.operations.delete import delete as remove
    from bootstrap.operations.delete import delete_named
    from bootstrap.runtimes import everywhere

    async def work() -> list[str]:
        if not (all_ or orphans):
            chosen = names or ((await find(None, runtime, state_root=state_root)).record.name,)
            inventories = {named: await everywhere(runtime, state_root=state_root, name=named) for named in chosen}
            return [named for named, inventory in inventories.items() if await delete_named(named, inventory)]
        inventory = await everywhere(runtime, state_root=state_root)
        refuse_unasked(inventory.unasked)
        going = [each for each in inventory.found if all_ or each.record.orphan]
        return [each.record.name for each in going if await remove(each.runtime, each.record.name)]

    removed = run_work(work, choose_progress(look))
    told = style.stderr(look.color)
    if look.output == "json":
        print_lines([render.as_json({"format_version": 1, "deleted": removed})])
    elif not look.quiet:
        for each in removed:
            told.write(f'Deleted cluster "{each}"')
        for each in dict.fromkeys(names):
            if each not in removed:
                told.write(f'There is no cluster "{each}": nothing to delete')
        if not removed and not names:
            told.write("There is nothing to delete")
