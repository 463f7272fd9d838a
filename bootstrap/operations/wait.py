"""Waits until a cluster is healthy, and changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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
    state = _State(nodes)
    with anyio.move_on_after(timeout):
        with reporter.phase("wait", "Waiting for the cluster", "Every node agrees", total=nodes or 0) as phase:
            while True:
                deployment, views, reason = await _look(find, state)
                if deployment is not None and not reason:
                    return make_status(deployment, views)
                phase.progress(state.ready, reason)
                await anyio.sleep(min(SLOWEST_POLL, 2 * poll_seconds(nodes or 6)))
    raise NotConverged(
        f"not healthy after {timeout:g} s: {state.reason or 'no node answered'}",
        nodes=state.agreement.by_node() if state.agreement else {},
        hint="allow more time with --timeout",
    )


class _State:
    """What the last look showed, kept for the error."""

    def __init__(self, nodes: int | None) -> None:
        self.nodes = nodes
        self.agreement: Agreement | None = None
        self.reason = ""
        self.ready = 0


async def _look(find: Callable[[], Awaitable[Deployment]], state: _State) -> tuple[Deployment | None, Views, str]:
    try:
        deployment = await find()
    except Unreachable as error:
        if error.code == "login-failed":
            raise
        state.reason = error.message
        return None, {}, state.reason
    async with deployment.clients() as clients:
        views = await clients.look()
    agreement = agree(views)
    found = len(deployment.nodes)
    state.agreement = agreement
    state.ready = found - len({doubt.node for doubt in agreement.doubts if doubt.node})
    state.reason = summarize(agreement, found)
    if state.nodes is not None and found != state.nodes:
        state.reason = f"{plural(found, 'node')} of {state.nodes} found" + (f"; {state.reason}" if state.reason else "")
    return deployment, views, state.reason
