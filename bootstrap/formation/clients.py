"""The connections to all nodes of one cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from statistics import median

import anyio

from bootstrap.concurrency import each, together
from bootstrap.errors import BootstrapError, NodeFailed
from bootstrap.formation.base import Command, Connect, NodeClient, Reply, ServerError, Unreachable
from bootstrap.judging.pace import Glance, read_glance
from bootstrap.judging.views import Silent, View, Views
from bootstrap.planning.addressing import Address

LOOKS_AT_ONCE = 8

TRIES = 3
"""The kernel sends what opens a connection again after 1 s and 3 s: two lost packets outlast a client's patience."""


class Clients:
    """One client per node, by name; made by `open_clients`.

    A connection carries one call at a time: further calls to a node wait for their turn.
    """

    def __init__(self, clients: Mapping[str, NodeClient], addresses: Mapping[str, Address]) -> None:
        self._clients = clients
        self._turns = {name: anyio.Lock() for name in clients}
        self.addresses = addresses
        self.round_trip = 0.0
        """Seconds that the last glance at a node took, the median over all nodes."""

    @property
    def names(self) -> tuple[str, ...]:
        """The nodes, in order."""
        return tuple(self._clients)

    def only(self, names: Collection[str]) -> Clients:
        """The same connections, to some of the nodes."""
        found = Clients({name: self._clients[name] for name in self.names if name in names}, self.addresses)
        found._turns = self._turns
        return found

    async def look(self) -> Views:
        """What every node says now; nodes that cannot be asked are `Silent`."""
        return await self._look(self.names)

    async def look_patiently(self) -> Views:
        """A look that decides something: nodes that did not answer in time are asked again, up to `TRIES` times."""
        views = await self._look(self.names)
        for _ in range(TRIES - 1):
            late = [name for name, view in views.items() if isinstance(view, Silent) and view.code == "no-answer"]
            if not late:
                break
            views.update(await self._look(late))
        return views

    async def _look(self, names: Iterable[str]) -> dict[str, View]:
        # Not more than a few at once: the replies of all together take more memory than the rest of this package.
        limit = anyio.CapacityLimiter(LOOKS_AT_ONCE)

        async def look(name: str) -> View:
            async with limit, self._turns[name]:
                return await self._clients[name].look()

        views, _ = await each(names, look)
        return views

    async def glance(self) -> list[Glance | None]:
        """A few numbers of every node; None of those that do not give them."""
        taken: list[float] = []

        async def glance(name: str) -> Glance | None:
            began = anyio.current_time()
            cluster, replication = await self.run(name, ("CLUSTER", "INFO"), ("INFO", "replication"))
            taken.append(anyio.current_time() - began)
            if isinstance(cluster, ServerError) or isinstance(replication, ServerError):
                return None
            with suppress(ValueError):
                return read_glance(str(cluster), str(replication))
            return None

        results, _ = await each(self.names, glance)
        self.round_trip = median(taken) if taken else 0.0
        return [results.get(name) for name in self.names]

    async def run(self, name: str, *commands: Command) -> Sequence[Reply]:
        """Replies of one node; see `NodeClient.run`.

        Raises:
            Unreachable: by name.
        """
        async with self._turns[name]:
            try:
                return await self._clients[name].run(*commands)
            except Unreachable as error:
                raise error.of(name) from error

    async def run_checked(
        self, commands: Mapping[str, Sequence[Command]], *, tolerate: str = "", patient: bool = False
    ) -> dict[str, Sequence[Reply]]:
        """Run each node's commands, side by side, and refuse error replies.

        Args:
            commands: by node, in order.
            tolerate: an error that contains this text is no failure.
            patient: a node that is too busy to answer in time is none either: whether it did as told is seen later.

        Raises:
            NodeFailed: every node that refused a command or could not be asked, with the command and the reply.
        """
        replies, errors = await each(commands, lambda name: self.run(name, *commands[name]))
        errors = {name: error for name, error in errors.items() if not (patient and error.code == "no-answer")}
        failed = {name: said(name, error) for name, error in errors.items()}
        for name, answers in replies.items():
            for command, reply in zip(commands[name], answers, strict=True):
                if isinstance(reply, ServerError) and not (tolerate and tolerate in reply.text):
                    failed.setdefault(name, f"refused `{' '.join(command)}`: {reply.text}")
        if failed:
            codes = {error.code for error in errors.values()} if failed.keys() == errors.keys() else {"refused"}
            raise several_failed(failed, codes.pop() if len(codes) == 1 else "unreachable")
        return replies


def said(name: str, error: BootstrapError) -> str:
    """What an error tells of a node, in words that follow its name."""
    return error.nodes.get(name, error.message)


def several_failed(failed: Mapping[str, str], code: str) -> NodeFailed:
    """One error for all nodes that refused a command or could not be asked.

    Args:
        failed: what was seen, by node.
        code: of the error.
    """
    node, text = next(iter(failed.items()))
    return NodeFailed(
        f"{node} {text}" if len(failed) == 1 else f"{len(failed)} nodes failed",
        code=code,
        hint="see the node's log: `valkey-bootstrap logs NODE`",
        nodes=failed,
    )


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
