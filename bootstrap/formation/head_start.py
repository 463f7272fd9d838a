"""Uses the servers of a large cluster as soon as they answer, while the rest of them are still being started."""

from __future__ import annotations

from bootstrap.errors import NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.clients import Clients
from bootstrap.formation.reconcile import run_steps
from bootstrap.judging.steps import arrival_steps, introductions
from bootstrap.planning.plan import Plan, PlannedNode


class HeadStart:
    """Gives servers epochs and slots and introduces them to each other, one after the other as they come.

    For a cluster that was just made: what its nodes need is in the plan, and nobody has to be looked at. No setting is
    changed, so nothing has to be put back if the start fails. Whatever goes wrong here ends it and is left to the loop
    that follows (`reconcile`), which finds the same, and knows what to say.

    Args:
        plan: of the cluster.
        clients: all of its nodes.
        reporter: told about the steps.
    """

    def __init__(self, plan: Plan, clients: Clients, reporter: Reporter) -> None:
        self._plan = plan
        self._clients = clients
        self._reporter = reporter
        self._here: list[PlannedNode] = []
        self._over = False

    async def take(self, node: PlannedNode) -> None:
        """Use a node that answers."""
        if self._over:
            return
        try:
            if not await self._made_here(node):
                return
            await run_steps(self._clients, self._reporter, arrival_steps(node))
            earlier = tuple(self._here)
            self._here.append(node)
            await run_steps(self._clients, self._reporter, introductions(node, earlier, self._plan.nodes))
        except NodeFailed:
            self._over = True

    async def _made_here(self, node: PlannedNode) -> bool:
        """Whether it is the server of this plan, by its folder, and not a stranger that took the port first."""
        [answer] = await self._clients.run(node.name, ("CONFIG", "GET", "dir"))
        return bool(answer == ["dir", node.setting("dir")])
