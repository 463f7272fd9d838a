"""Stops the servers of a cluster; starting them again is part of `create`."""

from __future__ import annotations

from bootstrap.concurrency import each
from bootstrap.errors import NodeFailed, UsageError
from bootstrap.operations.deployment import Deployment


async def stop(deployment: Deployment) -> None:
    """Stop every server that runs; their data stays.

    Raises:
        UsageError: somebody else runs these servers.
        NodeFailed: servers that did not end.
    """
    runtime = deployment.runtime
    if runtime is None:
        raise UsageError("somebody else runs these servers", code="not-ours")
    async with runtime.claim(deployment.name):
        running = [n.name for r in await runtime.inventory(deployment.name) for n in r.nodes if n.running]
        _, errors = await each(running, lambda node: runtime.control(deployment.name, node, "stop"))
    if errors:
        nodes = {name: error.message for name, error in errors.items()}
        raise NodeFailed(f"{len(errors)} servers did not stop", code="does-not-end", nodes=nodes)
