"""Waits until a cluster is healthy, and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from bootstrap.errors import NotConverged
from bootstrap.events import Reporter
from bootstrap.formation.base import Unreachable
from bootstrap.formation.reconcile import poll_seconds
from bootstrap.judging.agreement import Agreement, agree, summarize
from bootstrap.judging.views import Views
from bootstrap.operations.deployment import Deployment
from bootstrap.operations.status import Status, make_status
from bootstrap.planning.text import plural

SLOWEST_POLL = 0.5


async def wait_healthy(
    find: Callable[[], Awaitable[Deployment]], reporter: Reporter, *, nodes: int | None, timeout: float
) -> Status:
    """Wait until every node agrees on one healthy cluster of that many nodes; its status.

    Args:
        find: gives the deployment; asked again at each look, since a cluster in the making gains nodes.
        reporter: told what is still missing.
        nodes: how many nodes there must be; None takes those that are found.
        timeout: seconds.

    Raises:
        NotConverged: the deadline passed, with what each node lacks.
    """
    last = _Look(reason="no node answered")
    with anyio.move_on_after(timeout):
        with reporter.phase("wait", "Waiting for the cluster", "Every node agrees", total=nodes or 0) as phase:
            while True:
                last = await _look(find, nodes)
                if last.deployment is not None and not last.reason:
                    return make_status(last.deployment, last.views)
                lacking = {doubt.node for doubt in last.agreement.doubts if doubt.node}
                phase.progress(len(last.views) - len(lacking), last.reason)
                await anyio.sleep(min(SLOWEST_POLL, 2 * poll_seconds(nodes or 6)))
    raise NotConverged(
        f"not healthy after {timeout:g} s: {last.reason}",
        nodes=last.agreement.by_node(),
        hint="allow more time with --timeout",
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """One look at a cluster that may be in the making; ``reason`` is what is missing, "" for nothing."""

    reason: str
    deployment: Deployment | None = None
    views: Views = field(default_factory=dict)

    @property
    def agreement(self) -> Agreement:
        """What the nodes say together."""
        return agree(self.views, self.deployment.announced if self.deployment else None)


async def _look(find: Callable[[], Awaitable[Deployment]], nodes: int | None) -> _Look:
    try:
        deployment = await find()
    except Unreachable as error:
        if error.code == "login-failed":
            raise
        return _Look(error.message)
    async with deployment.clients() as clients:
        views = await clients.look()
    found = len(deployment.nodes)
    missing = "" if nodes in (None, found) else f"{plural(found, 'node')} of {nodes} found"
    reasons = filter(None, (missing, summarize(agree(views, deployment.announced), found)))
    return _Look("; ".join(reasons), deployment, views)
