"""Removes clusters of ours, whole or half made."""

from __future__ import annotations

from bootstrap.errors import NodeFailed
from bootstrap.operations.choosing import only, refuse_unasked
from bootstrap.planning.text import listing
from bootstrap.runtimes import Inventory
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


async def delete_named(name: str, inventory: Inventory) -> bool:
    """Remove the cluster of a name from whichever runtime has it; whether there was one.

    Where none has a record of it, what an interrupted command may have left is removed from all.

    Args:
        name: the cluster.
        inventory: the clusters of this name.

    Raises:
        UsageError: several runtimes have one.
        RuntimeUnavailable: none has one, and an engine that may have it cannot be asked.
        Conflict: another command is at work on it.
        NodeFailed: something is left, named.
    """
    if inventory.found:
        return await delete(only(inventory.found, name).runtime, name)
    refuse_unasked(inventory.unasked)
    return any([await delete(runtime, name) for runtime in inventory.asked])
