"""Lets a replica take over from its primary, and waits until every node agrees that it has."""

from __future__ import annotations

import anyio

from bootstrap.errors import Conflict, NodeFailed, NotConverged, UsageError
from bootstrap.events import PhaseReporter, Reporter
from bootstrap.formation.base import ServerError
from bootstrap.formation.clients import Clients
from bootstrap.formation.reconcile import poll_seconds
from bootstrap.judging.agreement import agree, summarize
from bootstrap.judging.homecoming import heir
from bootstrap.judging.views import Views, seen
from bootstrap.operations.deployment import Deployment, resolve_node
from bootstrap.operations.status import Status, make_status
from bootstrap.planning.text import listing

ASK_AGAIN_SECONDS = 6.0
"""Servers give up a failover that was asked for after five (``CLUSTER_MF_TIMEOUT`` in cluster_legacy.h)."""


async def failover(deployment: Deployment, ref: str | int, reporter: Reporter, *, timeout: float) -> Status:
    """Promote a replica gracefully: its primary stops writes until the replica has everything, and then follows it.

    Args:
        deployment: the cluster.
        ref: the replica that is to lead, or a primary, whose best replica takes over.
        reporter: told about the phase.
        timeout: seconds until all nodes must agree.

    Raises:
        UsageError: no such node, or a primary without a replica that could take over.
        Conflict: the nodes do not agree on a healthy cluster beforehand.
        NodeFailed: the server refused.
        NotConverged: the time is up.
    """
    async with deployment.clients() as clients:
        views = await clients.look_patiently()
        agreement = agree(views, deployment.announced)
        if not agreement.healthy:
            raise Conflict(
                f'the nodes of "{deployment.name}" do not agree: {summarize(agreement, len(views))}',
                code="not-healthy",
                hint="`valkey-bootstrap doctor` says what is wrong, and how to mend it",
                nodes=agreement.by_node(),
            )
        node = resolve_node(ref, deployment.nodes, {name: view.id for name, view in seen(views).items()}).name
        successor = heir(node, views)
        if successor is None:
            raise UsageError(
                f"{node} is a primary without a replica that could take over",
                code="no-replica",
                hint=f"replicas: {listing(_replicas(views), 12) or 'none'}",
            )
        with reporter.phase("failover", f"Promoting {successor}", f"Promoted {successor}") as phase:
            with anyio.move_on_after(timeout):
                return make_status(deployment, await _promote(clients, successor, deployment, phase))
            views = await clients.look()
    last = agree(views, deployment.announced)
    raise NotConverged(
        f"{successor} does not lead after {timeout:g} s: {summarize(last, len(views))}",
        nodes=last.by_node(),
        hint="see `valkey-bootstrap doctor`",
    )


async def _promote(clients: Clients, successor: str, deployment: Deployment, phase: PhaseReporter) -> Views:
    """Ask for it until it is done; the look that shows it."""
    asked = -ASK_AGAIN_SECONDS
    while True:
        if (now := anyio.current_time()) - asked >= ASK_AGAIN_SECONDS:
            asked = now
            (reply,) = await clients.run(successor, ("CLUSTER", "FAILOVER"))
            if isinstance(reply, ServerError):
                raise NodeFailed(
                    f"{successor} refused `CLUSTER FAILOVER`: {reply}", code="refused", nodes={successor: reply.text}
                )
        await anyio.sleep(poll_seconds(len(deployment.nodes)))
        views = await clients.look()
        agreement = agree(views, deployment.announced)
        leads = any(name == successor and view.myself.role == "primary" for name, view in seen(views).items())
        if leads and agreement.healthy:
            return views
        phase.progress(int(leads), summarize(agreement, len(views)) if leads else f"{successor} does not lead yet")


def _replicas(views: Views) -> list[str]:
    return [name for name, view in seen(views).items() if view.myself.role == "replica"]
