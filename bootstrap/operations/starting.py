"""Starts servers and waits until they answer; watches over them while they form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio

from bootstrap.concurrency import first_of, together
from bootstrap.errors import NodeFailed, PortTaken
from bootstrap.events import PhaseReporter
from bootstrap.formation.base import ServerError, Unreachable
from bootstrap.formation.clients import Clients
from bootstrap.formation.head_start import HeadStart
from bootstrap.judging.pace import HEAD_START_FROM
from bootstrap.judging.silence import cause_in_log
from bootstrap.operations.formed import Formation
from bootstrap.operations.protection import Protection
from bootstrap.planning.plan import Plan, PlannedNode
from bootstrap.planning.text import plural
from bootstrap.runtimes.base import Record, Runtime

WATCH_SECONDS = 1.0
"""How often it is looked whether all servers still run while a cluster forms."""

LOG_LINES = 12
"""How much of a dead server's log an error shows."""


async def start_nodes(
    formation: Formation, record: Record, runtime: Runtime, protection: Protection | None = None
) -> int:
    """Start what does not run, primaries first, and wait until every server answers; how many were started.

    Args:
        formation: the plan, and the connections to its servers.
        record: what there is of it.
        runtime: where servers run.
        protection: who gets in, and how.

    Raises:
        NodeFailed: a server died, with the last lines of its log, or did not answer in time.
        PortTaken: it died because its port was taken.
    """
    plan = formation.plan
    alive = {node.name for node in record.nodes if node.running}
    idle = [node for node in (*plan.primaries, *plan.replicas) if node.name not in alive]
    if not idle:
        return 0
    what = plural(len(idle), "container" if plan.network else "server")
    with formation.reporter.phase("start", f"Starting {what}", f"Started {what}", total=len(idle)) as phase:
        await _start_and_await(_Start(formation, idle, runtime, phase, protection or Protection()))
    return len(idle)


@dataclass(frozen=True, slots=True)
class _Start:
    """Servers that are to be started: the first ones, the primaries, go first."""

    formation: Formation
    nodes: list[PlannedNode]
    runtime: Runtime
    phase: PhaseReporter
    protection: Protection


async def _start_and_await(start: _Start) -> None:
    """Start all side by side; each is asked from the moment it was started, whatever the others do."""
    plan, clients, reporter = start.formation.plan, start.formation.clients, start.formation.reporter
    runtime, deadline = start.runtime, start.formation.deadline
    ahead = None
    if start.formation.fresh and len(plan.nodes) >= HEAD_START_FROM:
        ahead = HeadStart(plan, clients, reporter)
    waiting = {node.name: node for node in start.nodes}
    started: set[str] = set()

    async def bring_up(node: PlannedNode) -> None:
        await runtime.start(plan.name, node, start.protection.files(node))
        started.add(node.name)
        reporter.emit("node.started", node=node.name, address=str(node.addresses.control), role=node.role)
        while not await _answers(clients, node.name):
            await anyio.sleep(0.02)
        del waiting[node.name]
        reporter.emit("node.answered", node=node.name, address=str(node.addresses.control))
        start.phase.progress(len(start.nodes) - len(waiting))
        if ahead is not None:
            await ahead.take(node)

    async def watch() -> None:
        while waiting:
            await anyio.sleep(0.1)
            await _check_alive(plan, started & set(waiting), runtime)

    with anyio.move_on_after(deadline.at - anyio.current_time()) as scope:
        await together([*(partial(bring_up, node) for node in start.nodes), watch])
    if scope.cancelled_caught:
        late = dict.fromkeys(waiting, "does not answer")
        raise NodeFailed(
            f"{plural(len(late), 'server')} did not answer within {deadline.seconds:g} s",
            code="no-answer",
            nodes={name: await _excerpt(runtime, plan.name, name) or text for name, text in late.items()},
            hint="allow more time with --timeout",
        )
    # What answered may be a stranger that took the port first; then ours has died of it.
    await _check_alive(plan, {node.name for node in start.nodes}, runtime)


@asynccontextmanager
async def watching(plan: Plan, runtime: Runtime) -> AsyncIterator[None]:
    """Ends the block with `NodeFailed` when a server dies meanwhile: nobody has to wait for the deadline then."""

    async def watch() -> None:
        while True:
            await anyio.sleep(WATCH_SECONDS)
            await _check_alive(plan, {node.name for node in plan.nodes}, runtime)

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            yield
            group.cancel_scope.cancel()
    except BaseExceptionGroup as failed:
        first = first_of(failed)
        if isinstance(first, NodeFailed) and first.code == "unreachable":
            # It may have died just when it was spoken to; then its log says more.
            await _check_alive(plan, {node.name for node in plan.nodes}, runtime)
        raise first from None


async def _answers(clients: Clients, name: str) -> bool:
    try:
        reply = (await clients.run(name, ("PING",)))[0]
    except Unreachable as error:
        if error.code == "login-failed":
            raise
        return False
    # A server that loads its data set answers, and is not there yet.
    return not (isinstance(reply, ServerError) and reply.text.startswith(("LOADING", "MASTERDOWN")))


async def _check_alive(plan: Plan, waiting: set[str], runtime: Runtime) -> None:
    if not waiting:
        return
    records = await runtime.inventory(plan.name)
    if not records:
        raise NodeFailed(
            f'"{plan.name}" was removed by somebody else', code="removed", hint="run the same command again"
        )
    dead = [node for record in records for node in record.nodes if node.name in waiting and not node.running]
    if not dead:
        return
    logs = {node.name: await _excerpt(runtime, plan.name, node.name) for node in dead}
    cause, words = cause_in_log(logs[dead[0].name])
    if cause == "port-taken":
        port = dead[0].addresses.control.port
        raise PortTaken(
            f"{dead[0].name} lost port {port} or its bus port to another process", ports={port: "another process"},
            hint="run the same command again",
        )  # fmt: skip
    others = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
    if not any(logs.values()):
        raise NodeFailed(
            f"{dead[0].name}{others} is gone, without a log",
            code="server-gone",
            nodes=dict.fromkeys(logs, "is gone"),
            hint="somebody may have removed it: run the same command again",
        )
    raise NodeFailed(
        f"{dead[0].name}{others} did not stay up: {words}",
        code=f"server-{cause}",
        nodes=logs,
        hint=_death_hint(cause, in_containers=plan.network is not None),
    )


def _death_hint(cause: str, *, in_containers: bool) -> str:
    if cause == "no-tls":
        other = "--image" if in_containers else "--server"
        return f"take a server with TLS by {other}: those of wheels have none, Debian's and official images have"
    if cause == "bad-setting":
        other = "--image" if in_containers else "--server"
        return f"correct the setting given with --set, or give another server with {other}"
    if cause in ("disk-full", "nodes-conf-unsaved"):
        if in_containers:
            return "free some space: `docker system df` shows what takes it"
        return "free some space, or choose another folder with --state-root"
    return "the log above says why" if cause == "died" else ""


async def _excerpt(runtime: Runtime, cluster: str, node: str) -> str:
    return (await runtime.logs(cluster, node, tail=LOG_LINES)).rstrip()
