"""Form and prove a planned cluster on servers that answer, within a deadline: what `create` and `form` share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from bootstrap.diagnosis.gathering import Subject, gather
from bootstrap.errors import Conflict, NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.clients import Clients
from bootstrap.formation.prove import Proof, prove
from bootstrap.formation.reconcile import not_converged
from bootstrap.formation.window import Window, fast_window, restore
from bootstrap.judging.admission import Fault, FaultKind, admit
from bootstrap.judging.agreement import agree, conforms
from bootstrap.judging.causes import diagnose
from bootstrap.judging.evidence import Evidence
from bootstrap.judging.views import Silent, Views, seen
from bootstrap.operations.deployment import Access
from bootstrap.planning.plan import Plan
from bootstrap.runtimes.base import Vantage

EVIDENCE_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time with the seconds that were given, for the error when it has passed."""

    at: float
    seconds: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """From now."""
        return cls(anyio.current_time() + seconds, seconds)


@dataclass(frozen=True, slots=True)
class Formation:
    """What forming needs: the plan, its servers' connections, and the time that is left.

    Args:
        plan: what is asked for, bound.
        clients: all of its nodes, by their control addresses.
        access: how the announced addresses are reached.
        reporter: told about everything.
        deadline: for all of it.
        vantages: the places to dial from when the time has run out.
        ours: the servers were made by this package.
        fresh: they were made just now, and nothing else of the cluster is left from before.
    """

    plan: Plan
    clients: Clients
    access: Access
    reporter: Reporter
    deadline: Deadline
    vantages: Sequence[Vantage]
    ours: bool
    fresh: bool = False


async def form_and_prove(formation: Formation, window: Window) -> tuple[Views, bool]:
    """Form what is missing, prove the whole, leave every setting as configured; the last look, and whether it formed.

    A cluster that already conforms is only verified: no window, no write.

    Raises:
        Conflict: the servers may not be taken, with all faults of all nodes.
        NodeFailed: a node refused a command or the proof.
        NotConverged: the deadline passed, with what each node lacks and the likely causes.
    """
    plan, clients, reporter = formation.plan, formation.clients, formation.reporter
    connect = formation.access.connect
    async with _deadline(formation):
        views = await clients.look_patiently()
        if faults := admit(plan, views, ours=formation.ours):
            raise refusal(faults)
        if not formation.fresh and _complete(plan, views):
            # Whatever an interrupted run left opened is closed; a healthy cluster is otherwise only looked at.
            await restore(window, clients, reporter)
            return await prove(plan, clients, connect, reporter, Proof(exact=False, write=False)), False
        nodes = seen(views)
        # Straight after formation every node must be what the plan made of it; where there already was something,
        # roles may rightly have moved. A cluster that holds keys is in use: the proof does not write to it.
        proof = Proof(
            exact=formation.fresh or all(view.blank for view in nodes.values()),
            write=not any(view.keys for view in nodes.values()),
            moving=formation.ours,
        )
        async with fast_window(window, clients, reporter) as tempo:
            views = await prove(plan, clients, connect, reporter, proof, tempo)
        return views, True


def _complete(plan: Plan, views: Views) -> bool:
    found = agree(views, plan.announced)
    return found.healthy and found.layout is not None and not conforms(found.layout, plan.layout, exact=False)


@asynccontextmanager
async def _deadline(formation: Formation) -> AsyncIterator[None]:
    """Turns the end of the time into `NotConverged`, with evidence gathered afterwards in a bounded time."""
    deadline = formation.deadline
    with anyio.move_on_after(deadline.at - anyio.current_time()) as scope:
        yield
    if not scope.cancelled_caught:
        return
    evidence = await _evidence(formation)
    causes: dict[str, str] = {}
    hint = ""
    for finding in diagnose(evidence):
        if finding.level == "error":
            causes.setdefault(finding.node or "cluster", finding.text)
            hint = hint or finding.mend
    raise not_converged(formation.plan, evidence.views, seconds=deadline.seconds, causes=causes, hint=hint)


async def _evidence(formation: Formation) -> Evidence:
    """What can be found out in a bounded time after the deadline has passed."""
    plan, clients = formation.plan, formation.clients
    subject = Subject(
        clients,
        {node.name: node.addresses for node in plan.nodes},
        announced=plan.announced,
        vantages=formation.vantages,
        cluster=plan.name if formation.ours else "",
        encryption=formation.access.encryption,
    )
    with anyio.move_on_after(EVIDENCE_SECONDS):
        return await gather(subject, formation.reporter)
    return Evidence(dict.fromkeys(clients.names, Silent("does not answer", "no-answer")))


def refusal(faults: Sequence[Fault]) -> Conflict | NodeFailed:
    """One error for all faults of all nodes."""
    nodes: dict[str, str] = {}
    for fault in faults:
        nodes[fault.node] = f"{nodes[fault.node]}; {fault.text}" if fault.node in nodes else fault.text
    node, text = next(iter(nodes.items()))
    message = f"{node} {text}" if len(nodes) == 1 else f"{len(nodes)} nodes cannot be taken"
    # One fault decides code and hint; the others are told by node. A node that was not seen comes first: what is
    # known of the rest may change with it.
    kind = min((fault.kind for fault in faults), key=list(_REFUSALS).index)
    code, hint = _REFUSALS[kind]
    error = NodeFailed if kind in ("silent", "login") else Conflict
    return error(message, code=code, nodes=nodes, hint=hint)


_RESET = "give all nodes of that cluster, or reset them (CLUSTER RESET) if it is not needed any more"
_REFUSALS: Mapping[FaultKind, tuple[str, str]] = {
    "login": ("login-failed", "give the password with --password-file or VALKEY_BOOTSTRAP_PASSWORD"),
    "silent": ("unreachable", "start the servers, or correct the addresses"),
    "mode": ("no-cluster-mode", "start the servers with cluster-enabled yes"),
    "version": ("server-too-old", "use Valkey 7.2 or newer, or Redis 7.0"),
    "twice": ("same-node-twice", "give every server once"),
    "keys": (
        "not-empty",
        "servers that hold keys are never reset: empty them (FLUSHALL) if nothing in them matters",
    ),
    "functions": ("not-empty", "delete them (FUNCTION FLUSH) if nothing in them matters"),
    "slots": ("not-empty", _RESET),
    "peers": ("not-empty", _RESET),
}
