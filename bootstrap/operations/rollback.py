"""Removes what a run made when it fails or is interrupted, and keeps the logs."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio

from bootstrap.concurrency import each, in_thread, to_the_end
from bootstrap.errors import BootstrapError, Conflict, Taken
from bootstrap.events import Reporter
from bootstrap.runtimes.base import Runtime

ROLLBACK_SECONDS = 15.0
"""How long cleaning up after a failure or an interruption may take."""


@asynccontextmanager
async def rollback(runtime: Runtime, name: str, reporter: Reporter, *, made: bool, retain: bool) -> AsyncIterator[None]:
    """Remove what this run made when the body fails or is cancelled; what was there before stays as it is."""
    try:
        yield
    except BaseException as error:
        if made and retain:
            reporter.mention(
                "note.made",
                message=f'kept what was made of "{name}"; remove it: {delete_command(name)}',
            )
        elif made and not (isinstance(error, Conflict) and error.code == "busy"):
            # A name that another command has is that command's to clean up.
            await to_the_end(partial(_undo_in_time, runtime, name, reporter, error))
        raise


async def _undo_in_time(runtime: Runtime, name: str, reporter: Reporter, error: BaseException) -> None:
    with anyio.move_on_after(ROLLBACK_SECONDS) as scope:
        try:
            await _undo(runtime, name, reporter, error)
        except BootstrapError as undone:
            # What went wrong first is what is told last; an engine that is gone can remove nothing.
            later = f"{undone.message}; later: {delete_command(name)}"
            reporter.mention("warning.raised", message=f'"{name}" could not be removed: {later}')
    if scope.cancelled_caught:
        late = f'"{name}" was not removed within {ROLLBACK_SECONDS:g} s: {delete_command(name)}'
        reporter.mention("warning.raised", message=late)


def delete_command(name: str) -> str:
    """The command that removes a cluster, for messages."""
    return f"`valkey-bootstrap delete --name {name}`"


async def _undo(runtime: Runtime, name: str, reporter: Reporter, error: BaseException) -> None:
    reason = error.message if isinstance(error, BootstrapError) else "interrupted"
    if not await runtime.inventory(name):
        # Refused before anything was made.
        return
    reporter.mention("rollback.started", reason=reason)
    logs = ""
    if isinstance(error, BootstrapError) and not isinstance(error, Taken):
        try:
            logs = await save_logs(runtime, name, told=error.nodes)
        except OSError as unsaved:
            # A full disk may be what failed in the first place, and the removal is what frees it.
            reporter.mention("warning.raised", message=f"the logs could not be kept: {unsaved}")
    left = await runtime.remove(name)
    reporter.mention("rollback.finished", left=tuple(left), logs=logs)


async def save_logs(runtime: Runtime, name: str, folder: str = "", *, told: Mapping[str, str] | None = None) -> str:
    """Write every node's log to a folder, a new temporary one unless given.

    Args:
        runtime: where the servers run.
        name: the cluster.
        folder: where to.
        told: by node, text that is shown anyway; a log that is wholly in it need not be kept.

    Returns:
        The folder; "" if there was nothing to keep.

    Raises:
        OSError: the folder cannot be written.
    """
    names = [node.name for record in await runtime.inventory(name) for node in record.nodes]
    logs, _ = await each(names, lambda node: runtime.logs(name, node))
    if all(text.strip() in (told or {}).get(node, "") for node, text in logs.items()):
        return ""
    return await in_thread(_write_logs, logs, folder or None, name)


def _write_logs(logs: Mapping[str, str], folder: str | None, name: str) -> str:
    target = Path(folder or tempfile.mkdtemp(prefix=f"valkey-bootstrap-{name}-logs-"))
    target.mkdir(parents=True, exist_ok=True)
    for node, text in logs.items():
        (target / f"{node}.log").write_text(text)
    return str(target)
