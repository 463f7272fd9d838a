"""The proof that a cluster is ready: every node agrees, and every primary takes a write where clients are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bootstrap.concurrency import each
from bootstrap.errors import NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.base import Command, Connect, ServerError, Unreachable
from bootstrap.formation.clients import Clients
from bootstrap.formation.progress import formation_phases
from bootstrap.formation.reconcile import everything, reconcile, writable
from bootstrap.judging.agreement import Agreement, agree, summarize
from bootstrap.judging.views import NodeView, Views, seen
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import Plan
from bootstrap.planning.slots import SlotRange, covering_key

PROOF_KEY = "valkey-bootstrap:proof"


async def prove(
    plan: Plan, clients: Clients, connect: Connect, reporter: Reporter, *, exact: bool, write: bool
) -> Views:
    """Form what is missing and prove the whole; the last views.

    Args:
        plan: what is asked for.
        clients: all of its nodes, by their control addresses.
        connect: how the announced addresses are reached.
        reporter: told about phases.
        exact: see `reconcile`.
        write: write, read and delete one key on every primary; done at creation only, never on a cluster in use.

    Raises:
        NodeFailed: a node refused a command or the proof, or the nodes agree on another cluster.
    """
    total = len(plan.nodes)
    with formation_phases(plan, reporter) as tell:
        views = await reconcile(plan, clients, reporter, exact=exact, settled=writable, tell=tell)
    with reporter.phase("proof", "Proving it on every node", "Proved by every node", total=total) as phase:
        if write:
            await write_everywhere(views, clients, connect, reporter)

        def tell_rest(agreement: Agreement) -> None:
            lacking = len({doubt.node for doubt in agreement.doubts})
            phase.progress(total - min(lacking, total), summarize(agreement, total))

        return await reconcile(plan, clients, reporter, exact=exact, settled=everything, tell=tell_rest)


async def write_everywhere(views: Views, clients: Clients, connect: Connect, reporter: Reporter) -> None:
    """Write, read and delete a key on every primary, at the address that it announces to clients.

    Raises:
        NodeFailed: the primaries where that failed, with the reply.
    """
    layout = agree(views).layout
    assert layout is not None
    nodes = seen(views)
    proofs = {shard.primary: proof_commands(shard.slots) for shard in layout.shards if shard.slots}

    async def one(name: str) -> None:
        # A cluster of one has no other witness, and a node that met nobody does not know its own address.
        announced = announced_address(name, nodes) or clients.addresses[name]
        try:
            await _write(proofs[name], announced, connect)
        except Unreachable as error:
            if announced == clients.addresses[name]:
                raise
            # The announced address may be meant for clients elsewhere; the write itself must go through all the same.
            reporter.warn(f"{name} announces {announced}, which cannot be reached from here: {error.message}")
            await _write(proofs[name], clients.addresses[name], connect)

    _, errors = await each(proofs, one)
    if errors:
        raise NodeFailed(
            f"{len(errors)} of {len(proofs)} primaries did not take the proof write",
            code="proof-failed",
            nodes={name: error.message for name, error in errors.items()},
            hint="see `valkey-bootstrap logs NODE`",
        )


def announced_address(name: str, nodes: Mapping[str, NodeView]) -> Address | None:
    """Where the other nodes' redirections send a client for this node; None where they name no host."""
    for other, witness in nodes.items():
        where = witness.listed.get(nodes[name].id)
        if other != name and where is not None and where.host:
            return where
    return None


def proof_commands(slots: Sequence[SlotRange]) -> tuple[Command, ...]:
    """Write, read and delete a key in the first of these slots."""
    key = covering_key(*slots[0], PROOF_KEY)
    return (("SET", key, "1"), ("GET", key), ("DEL", key))


async def _write(commands: Sequence[Command], address: Address, connect: Connect) -> None:
    client = await connect(address)
    try:
        replies = await client.run(*commands)
    finally:
        await client.aclose()
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, ServerError):
            raise NodeFailed(f"{address} refused {command[0]}: {reply.text}", code="proof-failed")
    if replies[1] != "1":
        raise NodeFailed(f"{address} gave {replies[1]!r} for a key that was just written", code="proof-failed")
