"""The connections to all nodes of one cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from bootstrap.concurrency import each, together
from bootstrap.errors import NodeFailed
from bootstrap.formation.base import Command, Connect, NodeClient, Reply, ServerError, Unreachable
from bootstrap.judging.views import Views
from bootstrap.planning.addressing import Address


class Clients:
    """One client per node, by name; made by `open_clients`."""

    def __init__(self, clients: Mapping[str, NodeClient], addresses: Mapping[str, Address]) -> None:
        self._clients = clients
        self.addresses = addresses

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes, in order."""
        return tuple(self._clients)

    async def look(self) -> Views:
        """What every node says now; nodes that cannot be asked are `Silent`."""
        views, _ = await each(self.names, lambda name: self._clients[name].look())
        return views

    async def run(self, name: str, *commands: Command) -> Sequence[Reply]:
        """Replies of one node; see `NodeClient.run`."""
        return await self._clients[name].run(*commands)

    async def run_checked(
        self, commands: Mapping[str, Sequence[Command]], *, tolerate: str = ""
    ) -> dict[str, Sequence[Reply]]:
        """Run each node's commands, side by side, and refuse error replies.

        Args:
            commands: by node, in order.
            tolerate: an error that contains this text is no failure.

        Raises:
            NodeFailed: every node that refused a command or could not be asked, with the command and the reply.
        """
        replies, errors = await each(commands, lambda name: self.run(name, *commands[name]))
        failed = {name: error.message for name, error in errors.items()}
        for name, answers in replies.items():
            for command, reply in zip(commands[name], answers, strict=True):
                if isinstance(reply, ServerError) and not (tolerate and tolerate in reply.text):
                    failed.setdefault(name, f"refused `{' '.join(command)}`: {reply.text}")
        if failed:
            raise NodeFailed(
                f"{next(iter(failed))} {next(iter(failed.values()))}"
                if len(failed) == 1
                else f"{len(failed)} nodes failed",
                code="unreachable"
                if all(isinstance(e, Unreachable) for e in errors.values()) and errors
                else "refused",
                hint="see the node's log: `valkey-bootstrap logs NODE`",
                nodes=failed,
            )
        return replies


@asynccontextmanager
async def open_clients(connect: Connect, addresses: Mapping[str, Address]) -> AsyncIterator[Clients]:
    """Clients for the nodes, closed at the end."""
    clients: dict[str, NodeClient] = {}
    try:
        for name, address in addresses.items():
            clients[name] = await connect(address)
        yield Clients(clients, addresses)
    finally:
        with anyio.move_on_after(2, shield=True):
            await together(client.aclose for client in clients.values())
