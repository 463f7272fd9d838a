"""Removes clusters of ours, whole or half made."""

from __future__ import annotations

from bootstrap.errors import NodeFailed
from bootstrap.planning.text import listing
from bootstrap.runtimes.base import Runtime


async def delete(runtime: Runtime, name: str) -> bool:
    """Remove the cluster's servers and all that belongs to them; whether there was one.

    Raises:
        Conflict: another command is at work on it.
        NodeFailed: something is left, named.
    """
    async with runtime.claim(name):
        existed = bool(await runtime.inventory(name))
        left = await runtime.remove(name)
    if left:
        raise NodeFailed(
            f'parts of "{name}" could not be removed: {listing(left)}',
            code="left-behind",
            hint="remove them by hand, or delete again",
        )
    return existed
