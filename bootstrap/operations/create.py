"""From nothing, or from whatever an earlier run left, to a cluster that is proven ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bootstrap.concurrency import in_thread
from bootstrap.errors import Conflict, NodeFailed, PortTaken, Taken
from bootstrap.events import Observer, Reporter, Timeline
from bootstrap.formation.clients import Clients
from bootstrap.formation.window import own_window
from bootstrap.judging.agreement import agree
from bootstrap.judging.views import Views
from bootstrap.operations.deployment import Access, Deployment
from bootstrap.operations.formed import Deadline, Formation, form_and_prove
from bootstrap.operations.login import Login, open_deployment, with_user
from bootstrap.operations.migrate import settle
from bootstrap.operations.protection import Certificates, Protection, protect
from bootstrap.operations.rollback import delete_command, rollback
from bootstrap.operations.starting import start_nodes, watching
from bootstrap.planning.plan import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Facts, Plan, bind, build_plan
from bootstrap.planning.spec import ClusterSpec
from bootstrap.planning.text import plural
from bootstrap.runtimes import choose_runtime
from bootstrap.runtimes.base import Record, Runtime
from bootstrap.runtimes.records import differences

PORT_TRIES = 5
"""How many blocks of ports are tried when others take them first."""


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """How a cluster is created, beside what it is.

    Args:
        timeout: seconds for all of it.
        retain: keep what was made when it fails or is interrupted.
        owner: process id; the cluster belongs to it, and is an orphan when it is gone.
        login: who gets in.
        certificates: what encrypts it, where `ClusterSpec.tls` asks for it; None makes some.
    """

    timeout: float = 60.0
    retain: bool = False
    owner: int | None = None
    login: Login = field(default_factory=Login)
    certificates: Certificates | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """The outcome.

    Args:
        deployment: the cluster.
        plan: what was asked for.
        views: the last look of the proof: what every node said when the cluster was called ready.
        made: whether this call made it.
        changed: whether this call changed something.
        seconds: how long it took.
        timeline: its phases, and when it could have been ready at the earliest.
    """

    deployment: Deployment
    plan: Plan
    views: Views
    made: bool
    changed: bool
    seconds: float
    timeline: Timeline


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
    options = options or CreateOptions()
    spec = with_user(spec, options.login)
    spec.check()
    reporter = Reporter(spec.name, observer)
    if runtime is None:
        choice = await choose_runtime(spec, owner=options.owner)
        runtime = choice.runtime
        if choice.reason:
            reporter.emit("note.made", message=choice.reason)
    async with runtime.claim(spec.name):
        # How long this takes is up to a registry and a line: it does not count.
        await runtime.fetch(await record_of(spec.name, runtime), reporter)
        deadline = Deadline.after(options.timeout)
        return await _Creation(spec, access, runtime, reporter, deadline, options).run()


@dataclass(frozen=True, slots=True)
class _Creation:
    """One call of `create`, with its name claimed."""

    spec: ClusterSpec
    access: Access
    runtime: Runtime
    reporter: Reporter
    deadline: Deadline
    options: CreateOptions

    async def run(self) -> Created:
        """Create; where somebody else takes a port or a subnet between survey and use, with the next one."""
        for _ in range(PORT_TRIES - 1):
            try:
                return await self._try()
            except Taken as error:
                # Not where this block was asked for; and a cluster that exists keeps what it has.
                if await record_of(self.spec.name, self.runtime):
                    error.hint = f"free it, or give the cluster up: {delete_command(self.spec.name)}"
                    raise
                if isinstance(error, PortTaken) and isinstance(self.spec.base_port, int):
                    raise
                self.reporter.emit("note.made", message=f"{error.message}: taking another one")
        return await self._try()

    async def _try(self) -> Created:
        spec, runtime, reporter = self.spec, self.runtime, self.reporter
        plan, record = await plan_here(spec, runtime)
        kept = await runtime.kept(spec.name)
        protection = protect(spec, self.options.login, self.options.certificates, record, kept)
        announce_plan(plan, reporter, exists=record is not None)
        async with rollback(runtime, spec.name, reporter, made=record is None, retain=self.options.retain):
            plan = bind(plan, await self._prepare(plan, exists=record is not None))
            renewed = await in_thread(protection.tls.prepare, plan.nodes) if protection.tls else ()
            if protection.kept and record is None:
                await runtime.keep(spec.name, protection.kept)
            made = await record_of(spec.name, runtime)
            assert made is not None, "prepare records the cluster"
            access = self.access.with_login(protection.credentials) if protection.kept else self.access
            deployment = await open_deployment(made, runtime, access)
            existing = _Existing(made, renewed, fresh=record is None)
            views, changed = await self._start_and_form(plan, existing, deployment, protection)
            made_here = record is None
            seconds = reporter.elapsed
            # An observer may fail here, too.
            reporter.emit("cluster.ready", seconds=round(seconds, 3), created=made_here, floor=reporter.timeline.floor)
        return Created(deployment, plan, views, made_here, changed, seconds, reporter.timeline)

    async def _prepare(self, plan: Plan, *, exists: bool) -> Facts:
        if plan.network is None or exists:
            return await self.runtime.prepare(plan)
        name = plan.network.name
        with self.reporter.phase("network", f"Creating network {name}", f"Created network {name}"):
            return await self.runtime.prepare(plan)

    async def _start_and_form(
        self, plan: Plan, existing: _Existing, deployment: Deployment, protection: Protection
    ) -> tuple[Views, bool]:
        record = existing.record
        async with deployment.clients() as clients:
            formation = Formation(
                plan,
                clients,
                deployment.access,
                self.reporter,
                self.deadline,
                self.runtime.vantages(record),
                ours=True,
                fresh=existing.fresh,
            )
            record = await renew(formation, record, self.runtime, protection, existing.renewed)
            if protection.kept and not existing.fresh:
                # Not before the servers have them: a command that is killed in between is repeated from the start.
                await self.runtime.keep(plan.name, protection.kept)
            started = await start_nodes(formation, record, self.runtime, protection)
            async with watching(plan, self.runtime):
                views, formed = await form_and_prove(formation, own_window(plan))
                views = await self._finish_moves(deployment, clients, views)
        return views, formed or started > 0

    async def _finish_moves(self, deployment: Deployment, clients: Clients, views: Views) -> Views:
        """Slots that were on the move when servers went down: what was begun is finished. The last look."""
        if not agree(views).of("open"):
            return views
        with self.reporter.phase("settle", "Finishing moves of slots", "Finished moves of slots") as phase:
            while agree(views).of("open") and await settle(deployment, clients, views, phase):
                views = await clients.look()
        return views


@dataclass(frozen=True, slots=True)
class _Existing:
    """What there is of a cluster when its servers are to be started.

    Args:
        record: its record.
        renewed: nodes that got another certificate.
        fresh: it was made just now.
    """

    record: Record
    renewed: Sequence[str]
    fresh: bool


_TLS_FILES = ("tls-ca-cert-file", CA_FILE, "tls-cert-file", CERTIFICATE_FILE, "tls-key-file", KEY_FILE)


async def renew(
    formation: Formation, record: Record, runtime: Runtime, protection: Protection, renewed: Sequence[str]
) -> Record:
    """Let running servers use their new certificates; the record, in which those are stopped that could not.

    Raises:
        NodeFailed: a server refused its certificate.
    """
    plan, clients = formation.plan, formation.clients
    running = [node.name for node in record.nodes if node.running and node.name in renewed]
    if not running or protection.tls is None:
        return record
    with formation.reporter.phase("renew", "Renewing certificates", f"Renewed {plural(len(running), 'certificate')}"):
        for name in running:
            await runtime.put(plan.name, name, protection.tls.files(name))
            # The same names again: the files are read anew.
            reload = ("CONFIG", "SET", *_TLS_FILES)
            try:
                await clients.run_checked({name: [reload]})
            except NodeFailed as error:
                if error.code != "certificate":
                    raise
                # The old one is not valid any more: started again it shows the new one.
                await runtime.control(plan.name, name, "stop")
    return await record_of(plan.name, runtime) or record


async def record_of(name: str, runtime: Runtime) -> Record | None:
    """The record of a cluster, if there is one."""
    return next(iter(await runtime.inventory(name)), None)


async def plan_here(spec: ClusterSpec, runtime: Runtime) -> tuple[Plan, Record | None]:
    """The plan for what the runtime finds, and the record of the cluster if it exists; nothing is changed.

    Raises:
        Conflict: it exists for another specification, a change of it is unfinished, or no block of ports can be taken.
        RuntimeUnavailable: servers cannot be started here.
    """
    record = await record_of(spec.name, runtime)
    if record is not None:
        refuse_unfinished(record)
        refuse_differences(spec, record)
        # What is left open is as it was.
        spec = replace(spec, user=record.spec.get("user"), tls=bool(record.spec.get("tls")))
    site = await runtime.survey(record, names=[name for name in (spec.announce_host, spec.expose) if name])
    return build_plan(spec, site, kept=record.kept if record else None), record


def refuse_unfinished(record: Record) -> None:
    """Raise `Conflict` where a change of the cluster's nodes was interrupted: what it is to be, only that one knows."""
    if record.underway is None:
        return
    raise Conflict(
        f'a change of "{record.name}" is unfinished: {record.underway.command}',
        code="unfinished",
        hint=f"finish it: `valkey-bootstrap {record.underway.command} --name {record.name}`; "
        "or say what is wanted instead with `valkey-bootstrap scale`",
    )


def refuse_differences(spec: ClusterSpec, record: Record) -> None:
    """Raise `Conflict` with every field in which an existing cluster differs from what is asked for."""
    found = differences(spec, record)
    if not found:
        return
    words = "; ".join(f"{name} is {_value(old)}, asked for is {_value(new)}" for name, (old, new) in found.items())
    hint = f"choose another --name, or delete it: `valkey-bootstrap delete --name {record.name}`"
    if not found.keys() - {"nodes", "replicas", "extra_replica_of"}:
        hint = f"change its nodes: `valkey-bootstrap scale --name {record.name}`; or {hint}"
    raise Conflict(f'the cluster "{record.name}" exists and differs: {words}', code="spec-differs", hint=hint)


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
