"""Tells the loop's way as phases: the parts that a person would name, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from bootstrap.events import Reporter
from bootstrap.judging.agreement import Agreement, DoubtKind, summarize
from bootstrap.planning.plan import Plan
from bootstrap.planning.text import plural


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the way: what it is called while it runs and afterwards, and the doubts that it has to clear."""

    name: str
    title: str
    done: str
    clears: tuple[DoubtKind, ...]


def parts(plan: Plan) -> tuple[Part, ...]:
    """The parts of forming this plan."""
    nodes, replicas = plural(len(plan.nodes), "node"), plural(len(plan.replicas), "replica")
    found = (
        Part("slots", "Assigning 16384 slots", "Assigned 16384 slots", ("coverage",)),
        Part("meet", f"Introducing {nodes}", f"Introduced {nodes}", ("unknown", "link")),
        Part("replicas", f"Attaching {replicas}", f"Attached {replicas}", ("belief", "replication")),
        Part(
            "agree",
            "Waiting for every node to say ok",
            "Every node says ok",
            ("state", "flag", "stranger", "open", "address"),
        ),
    )
    return tuple(part for part in found if plan.replicas or part.name != "replicas")


def _pending(part: Part, agreement: Agreement, replicas: frozenset[str]) -> bool:
    if agreement.of("silent", "mode", *part.clears):
        return True
    # Nodes can agree that replicas-to-be are primaries without slots; then nothing is in doubt, and all to be done.
    shards = agreement.layout.shards if agreement.layout else ()
    return part.name == "replicas" and any(not shard.slots and shard.primary in replicas for shard in shards)


@contextmanager
def formation_phases(plan: Plan, reporter: Reporter) -> Iterator[Callable[[Agreement], None]]:
    """Gives a function that is shown every judgement and tells the phases; parts settled at once are not told.

    A phase is finished when its doubts are gone, or with the block: an exception leaves it unfinished.
    """
    left = list(parts(plan))
    total = len(plan.nodes)
    planned = frozenset(node.name for node in plan.replicas)
    with ExitStack() as outer:
        running = ExitStack()
        phase = None

        def tell(agreement: Agreement) -> None:
            nonlocal phase, running
            # A node that cannot be seen leaves every part open: nothing is settled before all have been asked.
            while left and not _pending(left[0], agreement, planned):
                left.pop(0)
                running.close()
                phase = None
            if not left:
                return
            if phase is None:
                part = left[0]
                running = outer.enter_context(ExitStack())
                phase = running.enter_context(reporter.phase(part.name, part.title, part.done, total=total))
            here = replace(agreement, doubts=agreement.of("silent", "mode", *left[0].clears))
            lacking = {doubt.node for doubt in here.doubts}
            phase.progress(max(0, total - len(lacking)), summarize(here, total) or summarize(agreement, total))

        yield tell
