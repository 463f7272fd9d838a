"""From nothing, or from whatever an earlier run left, to a cluster that is proven ready."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio

from bootstrap.concurrency import each, first_of, in_thread, together
from bootstrap.errors import BootstrapError, Conflict, NodeFailed, PortTaken, Taken
from bootstrap.events import Observer, PhaseReporter, Reporter
from bootstrap.formation.base import ServerError, Unreachable
from bootstrap.formation.clients import Clients
from bootstrap.formation.window import own_window
from bootstrap.judging.causes import cause_in_log
from bootstrap.judging.views import Views
from bootstrap.operations.deployment import Access, Deployment, deployment_of
from bootstrap.operations.formed import Deadline, Formation, form_and_prove
from bootstrap.planning.plan import CONFIG_FILE, Facts, Plan, PlannedNode, bind, build_plan, render_config
from bootstrap.planning.spec import ClusterSpec
from bootstrap.planning.text import plural
from bootstrap.runtimes import choose_runtime
from bootstrap.runtimes.base import Record, Runtime
from bootstrap.runtimes.records import differences

ROLLBACK_SECONDS = 15.0
"""How long cleaning up after a failure or an interruption may take."""

PORT_TRIES = 5
"""How many blocks of ports are tried when others take them first."""

WATCH_SECONDS = 1.0
"""How often it is looked whether all servers still run while a cluster forms."""

LOG_LINES = 12
"""How much of a dead server's log an error shows."""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """How a cluster is created, beside what it is.

    Args:
        timeout: seconds for all of it.
        retain: keep what was made when it fails or is interrupted.
        owned: the cluster belongs to this process, and is an orphan when it is gone.
    """

    timeout: float = 60.0
    retain: bool = False
    owned: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """The outcome: the cluster, its plan, whether this call made it or changed something, and the seconds it took.

    ``views`` is the last look of the proof: what every node said when the cluster was called ready.
    """

    deployment: Deployment
    plan: Plan
    views: Views
    made: bool
    changed: bool
    seconds: float


async def create(
    spec: ClusterSpec,
    access: Access,
    *,
    runtime: Runtime | None = None,
    observer: Observer | None = None,
    options: CreateOptions | None = None,
) -> Created:
    """Create the cluster, carry on with a half-made one, start a stopped one, or verify a healthy one.

    Args:
        spec: what is asked for.
        access: how nodes are reached.
        runtime: where servers run; None takes what the specification says.
        observer: told every event.
        options: deadline, and what to do when it fails.

    Raises:
        SpecError: the specification has problems.
        RuntimeUnavailable: servers cannot be started here.
        Conflict: the name is in use for another specification, or ports or nodes are not ours to take.
        NodeFailed: a server died or refused a command.
        NotConverged: the deadline passed.
    """
    spec.check()
    options = options or CreateOptions()
    reporter = Reporter(spec.name, observer)
    if runtime is None:
        choice = await choose_runtime(spec, owned=options.owned)
        runtime = choice.runtime
        if choice.reason:
            reporter.emit("note.made", message=choice.reason)
    async with runtime.claim(spec.name):
        # How long this takes is up to a registry and a line: it does not count.
        await runtime.fetch(await record_of(spec.name, runtime), reporter)
        deadline = Deadline.after(options.timeout)
        return await _Creation(spec, access, runtime, reporter, deadline, options.retain).run()


@dataclass(frozen=True, slots=True)
class _Creation:
    """One call of `create`, with its name claimed."""

    spec: ClusterSpec
    access: Access
    runtime: Runtime
    reporter: Reporter
    deadline: Deadline
    retain: bool

    async def run(self) -> Created:
        """Create; where somebody else takes a port or a subnet between survey and use, with the next one."""
        for _ in range(PORT_TRIES - 1):
            try:
                return await self._try()
            except Taken as error:
                # Not where this block was asked for; and a cluster that exists keeps what it has.
                if await record_of(self.spec.name, self.runtime):
                    error.hint = f"free it, or give the cluster up: {_delete_command(self.spec.name)}"
                    raise
                if isinstance(error, PortTaken) and isinstance(self.spec.base_port, int):
                    raise
                self.reporter.emit("note.made", message=f"{error.message}: taking another one")
        return await self._try()

    async def _try(self) -> Created:
        spec, runtime, reporter = self.spec, self.runtime, self.reporter
        plan, record = await plan_here(spec, runtime)
        announce_plan(plan, reporter, exists=record is not None)
        async with _rollback(runtime, spec.name, reporter, made=record is None, retain=self.retain):
            plan = bind(plan, await self._prepare(plan, exists=record is not None))
            made = await record_of(spec.name, runtime)
            assert made is not None, "prepare records the cluster"
            deployment = deployment_of(made, runtime, self.access)
            views, changed = await self._start_and_form(plan, made, deployment)
        reporter.emit("cluster.ready", seconds=round(reporter.elapsed, 3), created=record is None)
        return Created(deployment, plan, views, record is None, changed, reporter.elapsed)

    async def _prepare(self, plan: Plan, *, exists: bool) -> Facts:
        if plan.network is None or exists:
            return await self.runtime.prepare(plan)
        name = plan.network.name
        with self.reporter.phase("network", f"Creating network {name}", f"Created network {name}"):
            return await self.runtime.prepare(plan)

    async def _start_and_form(self, plan: Plan, record: Record, deployment: Deployment) -> tuple[Views, bool]:
        async with deployment.clients() as clients:
            started = await start_nodes(plan, record, self.runtime, clients, self.reporter, self.deadline)
            formation = Formation(
                plan,
                clients,
                self.access.connect,
                self.reporter,
                self.deadline,
                self.runtime.vantages(record),
                ours=True,
            )
            async with _watching(plan, self.runtime):
                views, formed = await form_and_prove(formation, own_window(plan.nodes))
        return views, formed or started > 0


async def record_of(name: str, runtime: Runtime) -> Record | None:
    """The record of a cluster, if there is one."""
    return next(iter(await runtime.inventory(name)), None)


async def plan_here(spec: ClusterSpec, runtime: Runtime) -> tuple[Plan, Record | None]:
    """The plan for what the runtime finds, and the record of the cluster if it exists; nothing is changed.

    Raises:
        Conflict: it exists for another specification, or no block of ports can be taken.
        RuntimeUnavailable: servers cannot be started here.
    """
    record = await record_of(spec.name, runtime)
    if record is not None:
        refuse_differences(spec, record)
    site = await runtime.survey(record, names=[spec.announce_host] if spec.announce_host else ())
    return build_plan(spec, site, kept=record.kept if record else None), record


def refuse_differences(spec: ClusterSpec, record: Record) -> None:
    """Raise `Conflict` with every field in which an existing cluster differs from what is asked for."""
    found = differences(spec, record)
    if not found:
        return
    words = "; ".join(f"{name} is {_value(old)}, asked for is {_value(new)}" for name, (old, new) in found.items())
    raise Conflict(
        f'the cluster "{record.name}" exists and differs: {words}',
        code="spec-differs",
        hint=f"choose another --name, or delete it: `valkey-bootstrap delete --name {record.name}`",
    )


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items()) or "nothing"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "nothing"
    return "nothing" if value is None else str(value)


def announce_plan(plan: Plan, reporter: Reporter, *, exists: bool) -> None:
    """Tell what was decided: the counts, the choices made for the caller, the warnings."""
    reporter.emit(
        "plan.made",
        nodes=len(plan.nodes),
        primaries=len(plan.primaries),
        replicas=len(plan.replicas),
        runtime=plan.runtime,
        server=f"{plan.server.path} ({plan.server})" if plan.network else str(plan.server),
        summary=plan.arithmetic,
        exists=exists,
    )
    for note in plan.notes:
        reporter.emit("note.made", message=note)
    for warning in plan.warnings:
        reporter.warn(warning)


async def start_nodes(
    plan: Plan, record: Record, runtime: Runtime, clients: Clients, reporter: Reporter, deadline: Deadline
) -> int:
    """Start what does not run, primaries first, and wait until every server answers; how many were started.

    Raises:
        NodeFailed: a server died, with the last lines of its log, or did not answer in time.
        PortTaken: it died because its port was taken.
    """
    alive = {node.name for node in record.nodes if node.running}
    idle = [node for node in plan.nodes if node.name not in alive]
    if not idle:
        return 0
    what = plural(len(idle), "container" if plan.network else "server")
    with reporter.phase("start", f"Starting {what}", f"Started {what}", total=len(idle)) as phase:
        await _start_and_await(_Start(plan, idle, runtime, clients, phase, deadline))
    return len(idle)


@dataclass(frozen=True, slots=True)
class _Start:
    """Servers that are to be started: the first ones, the primaries, go first."""

    plan: Plan
    nodes: list[PlannedNode]
    runtime: Runtime
    clients: Clients
    phase: PhaseReporter
    deadline: Deadline


async def _start_and_await(start: _Start) -> None:
    """Start all side by side; each is asked from the moment it was started, whatever the others do."""
    plan, runtime, reporter = start.plan, start.runtime, start.phase.reporter
    waiting = {node.name: node for node in start.nodes}
    started: set[str] = set()

    async def bring_up(node: PlannedNode) -> None:
        await runtime.start(plan.name, node, {CONFIG_FILE: render_config(node)})
        started.add(node.name)
        reporter.emit("node.started", node=node.name, address=str(node.addresses.control))
        while not await _answers(start.clients, node.name):
            await anyio.sleep(0.02)
        del waiting[node.name]
        reporter.emit("node.answered", node=node.name, address=str(node.addresses.control))
        start.phase.progress(len(start.nodes) - len(waiting))

    async def watch() -> None:
        while waiting:
            await anyio.sleep(0.1)
            await _check_alive(plan, started & set(waiting), runtime)

    with anyio.move_on_after(start.deadline.at - anyio.current_time()) as scope:
        await together([*(partial(bring_up, node) for node in start.nodes), watch])
    if scope.cancelled_caught:
        late = dict.fromkeys(waiting, "does not answer")
        raise NodeFailed(
            f"{plural(len(late), 'server')} did not answer within {start.deadline.seconds:g} s",
            code="no-answer",
            nodes={name: await _excerpt(runtime, plan.name, name) or text for name, text in late.items()},
            hint="allow more time with --timeout",
        )
    # What answered may be a stranger that took the port first; then ours has died of it.
    await _check_alive(plan, {node.name for node in start.nodes}, runtime)


@asynccontextmanager
async def _watching(plan: Plan, runtime: Runtime) -> AsyncIterator[None]:
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
    if cause == "bad-setting":
        other = "--image" if in_containers else "--server"
        return f"correct the setting given with --set, or give another server with {other}"
    if cause == "disk-full":
        if in_containers:
            return "free some space: `docker system df` shows what takes it"
        return "free some space, or choose another folder with --state-root"
    return "the log above says why" if cause == "died" else ""


async def _excerpt(runtime: Runtime, cluster: str, node: str) -> str:
    return (await runtime.logs(cluster, node, tail=LOG_LINES)).rstrip()


@asynccontextmanager
async def _rollback(
    runtime: Runtime, name: str, reporter: Reporter, *, made: bool, retain: bool
) -> AsyncIterator[None]:
    """Remove what this run made when the body fails or is cancelled; what was there before stays as it is."""
    try:
        yield
    except BaseException as error:
        if made and retain:
            reporter.emit(
                "note.made",
                message=f'kept what was made of "{name}"; remove it: {_delete_command(name)}',
            )
        elif made and not (isinstance(error, Conflict) and error.code == "busy"):
            # A name that another command has is that command's to clean up.
            with anyio.move_on_after(ROLLBACK_SECONDS, shield=True) as scope:
                try:
                    await _undo(runtime, name, reporter, error)
                except BootstrapError as undone:
                    # What went wrong first is what is told last; an engine that is gone can remove nothing.
                    reporter.warn(f'"{name}" could not be removed: {undone.message}; later: {_delete_command(name)}')
            if scope.cancelled_caught:
                reporter.warn(f'"{name}" was not removed within {ROLLBACK_SECONDS:g} s: {_delete_command(name)}')
        raise


def _delete_command(name: str) -> str:
    return f"`valkey-bootstrap delete --name {name}`"


async def _undo(runtime: Runtime, name: str, reporter: Reporter, error: BaseException) -> None:
    reason = error.message if isinstance(error, BootstrapError) else "interrupted"
    if not await runtime.inventory(name):
        # Refused before anything was made.
        return
    reporter.emit("rollback.started", reason=reason)
    logs = ""
    if isinstance(error, BootstrapError) and not isinstance(error, Taken):
        try:
            logs = await save_logs(runtime, name, told=error.nodes)
        except OSError as unsaved:
            # A full disk may be what failed in the first place, and the removal is what frees it.
            reporter.warn(f"the logs could not be kept: {unsaved}")
    left = await runtime.remove(name)
    reporter.emit("rollback.finished", left=tuple(left), logs=logs)


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
