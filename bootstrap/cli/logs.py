"""Prints logs: one node's as it is, several with their names in front."""

from __future__ import annotations

import sys
from functools import partial

from bootstrap.concurrency import together
from bootstrap.errors import UsageError
from bootstrap.operations.deployment import Deployment, Node, resolve_node
from bootstrap.runtimes.base import Runtime


async def show_logs(
    deployment: Deployment, ref: str | None, *, follow: bool, tail: int | None, export: str | None
) -> None:
    """Write logs to stdout, or to a folder.

    Raises:
        UsageError: there is no such node, or the folder cannot be written.
    """
    runtime = deployment.runtime
    assert runtime is not None
    if export is not None:
        await _export(runtime, deployment.name, export)
        return
    nodes = [await _node(deployment, ref)] if ref is not None else list(deployment.nodes)
    width = max(len(node.name) for node in nodes) if ref is None else 0
    if follow:
        await together(partial(_follow, runtime, deployment.name, node, tail, width) for node in nodes)
        return
    for node in nodes:
        _write(await runtime.logs(deployment.name, node.name, tail=tail), node, width)


async def _node(deployment: Deployment, ref: str) -> Node:
    try:
        return resolve_node(ref, deployment.nodes)
    except UsageError:
        # Only an id has to be asked for; the log of a node that is down must be found by its name without that.
        async with deployment.clients() as clients:
            views = await clients.look()
        ids = {name: getattr(view, "id", "") for name, view in views.items()}
        return resolve_node(ref, deployment.nodes, ids)


async def _follow(runtime: Runtime, cluster: str, node: Node, tail: int | None, width: int) -> None:
    rest = ""
    async for text in runtime.follow(cluster, node.name, tail=tail):
        # Whole lines only, or those of several nodes would mix.
        *lines, rest = (rest + text).split("\n")
        _write("".join(f"{line}\n" for line in lines), node, width)


def _write(text: str, node: Node, width: int) -> None:
    front = f"{node.name:<{width}} | " if width else ""
    for line in text.splitlines():
        sys.stdout.write(f"{front}{line}\n")
    sys.stdout.flush()


async def _export(runtime: Runtime, cluster: str, folder: str) -> None:
    from bootstrap.operations.rollback import save_logs

    try:
        written = await save_logs(runtime, cluster, folder)
    except OSError as error:
        raise UsageError(f"`{folder}` cannot be written: {error.strerror}", code="bad-folder") from error
    sys.stderr.write(f"Logs are in {written}\n" if written else "There are no logs\n")
