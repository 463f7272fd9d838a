"""Makes a cluster of ours what it was when it was created: for the next test, which must not see what the last one did.

Every server runs, every role is home, and nothing is stored. Settings that somebody changed at run time stay.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import anyio

from bootstrap.concurrency import each, in_thread
from bootstrap.errors import Conflict, NodeFailed, UsageError
from bootstrap.events import Reporter
from bootstrap.formation.base import ServerError
from bootstrap.formation.clients import Clients
from bootstrap.formation.reconcile import poll_seconds, run_steps
from bootstrap.formation.window import own_window
from bootstrap.judging.agreement import agree
from bootstrap.judging.homecoming import homeward
from bootstrap.judging.steps import Command
from bootstrap.judging.views import NodeView, Silent, View, Views, seen
from bootstrap.operations.create import plan_here, record_of
from bootstrap.operations.deployment import Deployment
from bootstrap.operations.formed import Deadline, Formation, form_and_prove
from bootstrap.operations.login import Login
from bootstrap.operations.protection import protect
from bootstrap.operations.starting import start_nodes
from bootstrap.planning.plan import Plan, bind
from bootstrap.planning.slots import SLOTS, expand
from bootstrap.planning.spec import parse_spec
from bootstrap.planning.text import plural
from bootstrap.runtimes.base import Record, Runtime

FAILOVER_SECONDS = 6.0
"""When a failover that was asked for has failed: servers give it up after five seconds (``CLUSTER_MF_TIMEOUT``)."""

TAKE_BACK_SECONDS = 5.0
"""How long nodes that were started again may take to follow whoever took over; it takes about one."""

FOLLOW_MILLISECONDS = 1500
"""How long replicas may take to follow the flush of their primary; an answer is waited for a little longer."""

_EVERYWHERE: tuple[Command, ...] = (("CLIENT", "UNPAUSE"), ("SCRIPT", "FLUSH", "SYNC"))
_ON_PRIMARIES: tuple[Command, ...] = (*_EVERYWHERE, ("FUNCTION", "FLUSH", "SYNC"))


async def reset(deployment: Deployment, plan: Plan | None, reporter: Reporter, *, timeout: float) -> None:
    """Revive, heal, restore roles, and delete all keys, functions and scripts.

    Where nothing is broken this takes one look and one round of commands. Slots that were moved come back by forming
    the cluster anew of the same servers, with other node ids.

    Args:
        deployment: a cluster of ours.
        plan: what it was made as; None takes what its record says.
        reporter: told about the phases.
        timeout: seconds for all of it.

    Raises:
        UsageError: somebody else runs these servers.
        NotConverged: the deadline passed.
        NodeFailed: a server does not start, or refuses a command.
        Conflict: another command is at work on it.
    """
    runtime = deployment.runtime
    if runtime is None:
        raise UsageError("somebody else runs these servers: they are never emptied", code="not-ours")
    deadline = Deadline.after(timeout)
    plan = plan or await _plan_again(deployment.name, runtime)
    async with deployment.clients() as clients:
        # Whoever does not run is not asked: on a network of containers that takes as long as a timeout.
        states = {server.state for server in (await runtime.inspect(deployment.name)).values()}
        views = await clients.look() if states == {"running"} else {}
        if not _is_home(plan, views):
            async with runtime.claim(deployment.name):
                views = await _Mending(deployment, runtime, plan, clients, reporter, deadline).run()
        await _empty(plan, clients, views)


def _is_home(plan: Plan, views: Views) -> bool:
    found = agree(views, plan.announced)
    return found.healthy and found.layout == plan.layout


async def _plan_again(name: str, runtime: Runtime) -> Plan:
    record = await _record(name, runtime)
    # That it has no password was decided when it was made, and so were its ports: there need not be room for a block
    # of as many as there are nodes now.
    plan, _ = await plan_here(parse_spec({**record.spec, "insecure": True, "base_port": None}), runtime)
    return bind(plan, await runtime.prepare(plan))


async def _record(name: str, runtime: Runtime) -> Record:
    record = await record_of(name, runtime)
    if record is None:
        raise NodeFailed(f'"{name}" was removed by somebody else', code="removed", hint="create it again")
    return record


@dataclass(frozen=True, slots=True)
class _Mending:
    """A cluster that is not what it was made as, with its name claimed."""

    deployment: Deployment
    runtime: Runtime
    plan: Plan
    clients: Clients
    reporter: Reporter
    deadline: Deadline

    async def run(self) -> Views:
        """Bring it home, by failovers where all agree, otherwise by forming it anew; the last look."""
        for name, server in (await self.runtime.inspect(self.plan.name)).items():
            if server.state == "paused":
                await self.runtime.control(self.plan.name, name, "resume")
        formation, started = await self._start()
        views = await self.clients.look()
        for name, view in views.items():
            if isinstance(view, Silent) and view.code == "busy":
                # A script that does not end; one of the two has nothing to kill, and says so.
                await self.clients.run(name, ("SCRIPT", "KILL"), ("FUNCTION", "KILL"))
        if started and _covered(views, started):
            await self._take_back(formation)
        if (home := await self._bring_home()) is None:
            await _unmake(self.clients)
            # No slower than healing what lost its nodes, its slots or its epochs, and it always leads home.
            home, _ = await form_and_prove(formation, own_window(self.plan))
        return home

    async def _take_back(self, formation: Formation) -> None:
        """Let the others take back, as replicas, those whose slots they took over meanwhile.

        A primary that was just started is not writable for two seconds; one that follows first, and leads then, is.
        """
        await _drop_all(self.clients)
        with anyio.move_on_after(TAKE_BACK_SECONDS):
            try:
                await form_and_prove(formation, own_window(self.plan))
            except (Conflict, NodeFailed) as error:
                # They cannot: then they are formed anew.
                self.reporter.emit("note.made", message=f"{error.message}: forming anew")

    async def _start(self) -> tuple[Formation, frozenset[str]]:
        plan, runtime, access = self.plan, self.runtime, self.deployment.access
        record = await _record(plan.name, runtime)
        if record.seated and {node.name for node in record.nodes} != {node.name for node in plan.nodes}:
            raise Conflict(
                f'the members of "{plan.name}" were changed meanwhile by somebody else',
                code="members-changed",
                hint="attach to it again: what is known of it here is what it was",
            )
        login = Login(access.credentials.password)
        protection = protect(plan.spec, login, None, record, await runtime.kept(plan.name))
        if protection.tls is not None:
            await in_thread(protection.tls.prepare, plan.nodes)
        vantages = runtime.vantages(record)
        formation = Formation(plan, self.clients, access, self.reporter, self.deadline, vantages, ours=True)
        await start_nodes(formation, record, runtime, protection)
        return formation, frozenset(node.name for node in record.nodes if not node.running)

    async def _bring_home(self) -> Views | None:
        """The look that shows it home by failovers; None when nodes disagree, or where no failover leads there."""
        asked: dict[str, float] = {}
        while self.deadline.at > (now := anyio.current_time()):
            views = await self.clients.look()
            if _is_home(self.plan, views):
                return views
            steps = homeward(self.plan.nodes, views)
            waiting = any(now - at < FAILOVER_SECONDS for at in asked.values())
            if not waiting and not (steps and agree(views, self.plan.announced).healthy):
                return None
            due = [step for step in steps if now - asked.get(step.node, -FAILOVER_SECONDS) >= FAILOVER_SECONDS]
            asked |= dict.fromkeys((step.node for step in due), now)
            if due:
                await run_steps(self.clients, self.reporter, due)
            await anyio.sleep(poll_seconds(len(self.plan.nodes)))
        return None


def _covered(views: Views, started: Collection[str]) -> bool:
    """Whether all slots have a primary without the servers that were just started."""
    ranges = [pair for name, view in seen(views).items() if name not in started for pair in view.myself.slots]
    return len(expand(ranges)) == SLOTS


async def _drop_all(clients: Clients) -> None:
    """Empty whatever can be; replicas refuse it."""
    await each(clients.names, lambda name: clients.run(name, *_ON_PRIMARIES, ("FLUSHALL", "SYNC")))


async def _unmake(clients: Clients) -> None:
    """Let every server forget the cluster, and all that it holds.

    Raises:
        NodeFailed: a server that does not.
    """
    # Replicas drop their keys when they are reset, which a primary with keys refuses.
    await _drop_all(clients)
    await clients.run_checked({name: [("CLUSTER", "RESET", "HARD")] for name in clients.names})


async def _empty(plan: Plan, clients: Clients, views: Views) -> None:
    """Delete all keys, functions and scripts, also on the replicas.

    Args:
        plan: who is a primary.
        clients: all nodes.
        views: which databases hold keys.

    Raises:
        NodeFailed: a server that refused, or replicas that do not follow.
    """
    primaries = {shard.primary: len(shard.replicas) for shard in plan.layout.shards}
    commands: dict[str, list[Command]] = {}
    for name in clients.names:
        replicas = primaries.get(name)
        commands[name] = list(_EVERYWHERE if replicas is None else (*_ON_PRIMARIES, *_flushes(views[name])))
        if replicas:
            commands[name].append(("WAIT", str(replicas), str(FOLLOW_MILLISECONDS)))
    replies = await clients.run_checked(commands)
    late = _not_followed(primaries, replies)
    if late:
        raise NodeFailed(
            f"replicas did not follow within {FOLLOW_MILLISECONDS / 1000:g} s", code="replicas-late", nodes=late,
            hint="see `valkey-bootstrap doctor`",
        )  # fmt: skip


def _flushes(view: View) -> Iterator[Command]:
    # One by one: FLUSHALL writes a snapshot to disk before it answers, where snapshots are on.
    databases = {"db0", *(view.keys if isinstance(view, NodeView) else ())}
    for database in sorted(databases):
        yield ("SELECT", database.removeprefix("db"))
        yield ("FLUSHDB", "SYNC")
    yield ("SELECT", "0")


def _not_followed(primaries: Mapping[str, int], replies: Mapping[str, object]) -> dict[str, str]:
    found = {}
    for name, replicas in primaries.items():
        answers = replies[name]
        assert isinstance(answers, (list, tuple))
        if replicas and not isinstance(answers[-1], ServerError) and answers[-1] < replicas:
            found[name] = f"is followed by {answers[-1]} of {plural(replicas, 'replica')}"
    return found
