"""The story: look at every node, let pure rules say what is next, run it, look again, until all nodes agree.

Creation, resuming after a kill and starting a stopped cluster are the same loop from different beginnings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from bootstrap.errors import NodeFailed, NotConverged
from bootstrap.events import Reporter
from bootstrap.formation.clients import Clients
from bootstrap.formation.window import Tempo
from bootstrap.judging.agreement import Agreement, agree, conforms, summarize
from bootstrap.judging.pace import Asked, Glances, worth_a_look
from bootstrap.judging.steps import AddSlots, Command, Forget, Meet, Replicate, SetEpoch, Step, confirmed, next_steps
from bootstrap.judging.views import Views
from bootstrap.planning.layout import Layout
from bootstrap.planning.plan import Plan
from bootstrap.planning.text import listing

Settled = Callable[[Agreement], bool]

EARLY_SECONDS = 0.1
"""Servers count from a moment before their start is known here."""


def everything(agreement: Agreement) -> bool:
    """Nothing is missing."""
    return agreement.healthy


def everything_in_place(agreement: Agreement) -> bool:
    """Nothing is missing, but slots may be half moved: they are served, and do not close by themselves."""
    return all(doubt.kind == "open" for doubt in agreement.doubts)


def writable(agreement: Agreement) -> bool:
    """Nothing is missing but what a first write brings about: replicas in CLUSTER SLOTS (see `prove`)."""
    return all(doubt.kind == "hidden" for doubt in agreement.doubts)


def writable_in_place(agreement: Agreement) -> bool:
    """The same, but slots may be half moved."""
    return all(doubt.kind in ("hidden", "open") for doubt in agreement.doubts)


def poll_seconds(nodes: int) -> float:
    """How long to wait between two looks or glances: so that waiting takes less than a tenth of a core."""
    return max(0.03, 0.0015 * nodes)


def longest_seconds(nodes: int) -> float:
    """How long to go without a look, however little the glances promise: linking takes the longest, and grows."""
    return max(2.0, 0.02 * nodes)


@dataclass(frozen=True, slots=True)
class Goal:
    """When the loop has done its part.

    Args:
        exact: the planned nodes must make up each shard with its planned slots (straight after formation), not only the
            shape be right.
        settled: which agreement is enough.
        tell: shown every look's judgement, for progress.
    """

    exact: bool
    settled: Settled
    tell: Callable[[Agreement], None]


async def reconcile(
    plan: Plan, clients: Clients, reporter: Reporter, goal: Goal, tempo: Tempo | None = None
) -> tuple[Views, Layout]:
    """Run the loop until the nodes agree on a healthy cluster that conforms to the plan; the last look and its layout.

    It waits for ever: the caller sets the deadline and turns it into an error with `not_converged`.

    Args:
        plan: what is asked for.
        clients: all of its nodes.
        reporter: told about the steps.
        goal: what is enough.
        tempo: keeps the pace of servers that form; None for servers that are only looked at.

    Raises:
        NodeFailed: a node refused a command, or the nodes agree on something else than the plan.
    """
    doubtful: frozenset[Step] = frozenset()
    while True:
        views = await clients.look()
        agreement = agree(views, plan.announced)
        goal.tell(agreement)
        steps, doubtful = confirmed(next_steps(plan.nodes, views), doubtful)
        # Nodes may agree on half of the way: replicas that are not attached yet are healthy primaries without slots.
        if not steps and agreement.layout and goal.settled(agreement):
            if differences := conforms(agreement.layout, plan.layout, exact=goal.exact):
                raise another_cluster(plan, differences)
            return views, agreement.layout
        if steps:
            await run_steps(clients, reporter, steps)
        if any(isinstance(step, (SetEpoch, AddSlots)) for step in steps):
            # The rules have more to say at once.
            continue
        spoke = False
        if tempo is not None:
            spoke = await tempo.keep(views, agreement, met=any(isinstance(step, Meet) for step in steps))
        if spoke:
            continue
        if not steps and all(doubt.kind == "state" for doubt in agreement.doubts):
            await _until_floor(reporter)
        await _until_worth_a_look(plan, clients, agreement, steps)


async def _until_floor(reporter: Reporter) -> None:
    """Servers that were just started refuse to say ok for a known time: nobody needs to be asked before."""
    floor = reporter.timeline.floor
    if floor is not None:
        await anyio.sleep(max(0.0, floor - EARLY_SECONDS - reporter.elapsed))


async def _until_worth_a_look(plan: Plan, clients: Clients, agreement: Agreement, steps: Sequence[Step]) -> None:
    """Glance at the nodes until a look may show something new: looks cost the servers, too, the square of the nodes."""
    asked: Asked = ""
    if any(isinstance(step, Meet) for step in steps):
        asked = "meet"
    elif any(isinstance(step, Replicate) for step in steps):
        asked = "replicate"
    with anyio.move_on_after(longest_seconds(len(plan.nodes))):
        before: Glances = ()
        while True:
            await anyio.sleep(poll_seconds(len(plan.nodes)))
            glances = await clients.glance()
            if worth_a_look(glances, before, agreement, replicas=len(plan.replicas), asked=asked):
                return
            before = glances


async def run_steps(clients: Clients, reporter: Reporter, steps: Sequence[Step]) -> None:
    """Run steps, those of one node in order in one round trip, different nodes side by side; check every reply.

    A node that does not answer in time is asked again by the loop, until the deadline.

    Raises:
        NodeFailed: a node refused a command.
    """
    reporter.emit("steps.ran", steps=tuple(f"{step.node}: {' '.join(step.command)}" for step in steps))
    drops, others = (
        [s for s in steps if isinstance(s, Forget)],
        [s for s in steps if not isinstance(s, Forget)],
    )
    await clients.run_checked(_by_node(others), patient=True)
    # Gossip between the look and the command may have dropped the id already.
    await clients.run_checked(_by_node(drops), tolerate="Unknown node", patient=True)


def _by_node(steps: Sequence[Step]) -> dict[str, list[Command]]:
    commands: dict[str, list[Command]] = {}
    for step in steps:
        commands.setdefault(step.node, []).append(step.command)
    return commands


def another_cluster(plan: Plan, differences: Sequence[str]) -> NodeFailed:
    """The nodes agree, but not on what was planned."""
    return NodeFailed(
        f'the nodes of "{plan.name}" agree on another cluster than planned: {"; ".join(differences)}',
        code="another-cluster",
        hint="see `valkey-bootstrap status`; delete the cluster and create it again for the planned shape",
    )


def not_converged(plan: Plan, views: Views, *, seconds: float, causes: Mapping[str, str], hint: str) -> NotConverged:
    """The error when the deadline has passed: by node what is missing, and the likely causes.

    Args:
        plan: what was to be formed.
        views: the last look.
        seconds: how long it was tried.
        causes: by node, from `judging.causes`.
        hint: what to do about them.
    """
    agreement = agree(views, plan.announced)
    nodes = {**agreement.by_node()}
    for node, cause in causes.items():
        known = nodes.get(node, "")
        nodes[node] = known if cause in known else f"{cause}; {known}" if known else cause
    # All of them are told by node; the message has the first few.
    what = listing([f"{node}: {cause}" for node, cause in causes.items()], 3, separator="; ")
    # It was late, and has got there while evidence was gathered.
    what = what or summarize(agreement, len(plan.nodes)) or "by now every node agrees"
    return NotConverged(
        f'"{plan.name}" was not ready after {seconds:g} s: {what}',
        hint=hint or "see `valkey-bootstrap logs`, or allow more time with --timeout",
        nodes=nodes,
    )
