"""Who leads next: how nodes that agree come back to what they were planned as, and who takes over from a primary.

`next_steps` leaves a healthy cluster as it is, whoever leads. Here roles count: each planned primary leads its slots,
with its planned replicas behind it. Nothing is lost by these steps: a graceful failover hands over everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from bootstrap.judging.steps import Failover, Replicate
from bootstrap.judging.views import NodeView, Views, seen
from bootstrap.planning.plan import PlannedNode


def homeward(target: Sequence[PlannedNode], views: Views) -> tuple[Replicate | Failover, ...]:
    """The steps that can be taken now; none where all are home, or where only forming anew helps.

    One failover at a time: each is an election, and elections at once compete for the same epoch's votes.

    Args:
        target: the planned nodes.
        views: what every node said.
    """
    nodes = seen(views)
    steps = tuple(_steps(target, nodes))
    first = next((step for step in steps if isinstance(step, Failover)), None)
    return tuple(step for step in steps if isinstance(step, Replicate) or step is first)


def _steps(target: Sequence[PlannedNode], nodes: Mapping[str, NodeView]) -> Iterator[Replicate | Failover]:
    planned = {node.name: node for node in target}
    leaders = {view.myself.slots: name for name, view in nodes.items() if view.myself.slots}
    for node in target:
        view = nodes.get(node.name)
        leader = leaders.get(planned[node.primary or node.name].slots)
        # Who leads somewhere cannot follow anybody, until it was taken over from.
        if view is None or leader is None or leader == node.name or view.myself.slots:
            continue
        if view.myself.primary != nodes[leader].id:
            yield Replicate(node.name, leader, nodes[leader].id)
        elif node.role == "primary" and view.link == "up":
            yield Failover(node.name)


def heir(node: str, views: Views) -> str | None:
    """Who is to lead: the node itself if it is a replica, otherwise the replica that has most of what it wrote.

    Args:
        node: a replica, or a primary.
        views: what every node said.
    """
    nodes = seen(views)
    if nodes[node].myself.role == "replica":
        return node
    following = [name for name, view in nodes.items() if view.myself.primary == nodes[node].id and view.link == "up"]
    # The first of those that have as much, as servers rank them.
    return max(following, key=lambda name: nodes[name].offset, default=None)
