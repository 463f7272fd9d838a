"""The proof that a cluster is ready: every node agrees, and every primary takes a write where clients are sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bootstrap.concurrency import each
from bootstrap.errors import NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.base import Command, Connect, Reply, ServerError, Unreachable
from bootstrap.formation.clients import TRIES, Clients
from bootstrap.formation.progress import formation_phases
from bootstrap.formation.reconcile import (
    Goal,
    everything,
    everything_in_place,
    reconcile,
    writable,
    writable_in_place,
)
from bootstrap.formation.window import Tempo
from bootstrap.judging.agreement import Agreement, summarize, taken_over
from bootstrap.judging.views import NodeView, Views, seen
from bootstrap.planning.addressing import Address
from bootstrap.planning.layout import Layout
from bootstrap.planning.plan import Plan
from bootstrap.planning.slots import SlotRange, covering_key
from bootstrap.planning.text import plural

PROOF_KEY = "valkey-bootstrap:proof"

DIAL_MILLISECONDS = 1000
"""How long a node may take to reach another one."""


@dataclass(frozen=True, slots=True)
class Proof:
    """How far the proof goes.

    Args:
        exact: see `reconcile`.
        write: write, read and delete one key on every primary; done at creation only, never on a cluster in use.
        moving: slots may be half moved: whoever proves it finishes them afterwards.
    """

    exact: bool
    write: bool
    moving: bool = False


async def prove(
    plan: Plan, clients: Clients, connect: Connect, reporter: Reporter, proof: Proof, tempo: Tempo | None = None
) -> Views:
    """Form what is missing and prove the whole; the last views.

    Args:
        plan: what is asked for.
        clients: all of its nodes, by their control addresses.
        connect: how the announced addresses are reached.
        reporter: told about phases.
        proof: how far it goes.
        tempo: see `reconcile`.

    Raises:
        NodeFailed: a node refused a command or the proof, or the nodes agree on another cluster.
    """
    total = len(plan.nodes)
    with formation_phases(plan, reporter) as tell:
        enough = writable_in_place if proof.moving else writable
        views, layout = await reconcile(plan, clients, reporter, Goal(proof.exact, enough, tell), tempo)
    with reporter.phase("proof", "Proving it on every node", "Proved by every node", total=total) as phase:
        if proof.write:
            # Where what is announced is for clients elsewhere, the way that this command takes itself has to do.
            elsewhere = plan.announcement is not None and not plan.announcement.routed
            await write_everywhere(layout, {} if elsewhere else seen(views), clients, connect, reporter)
            if plan.network is not None:
                await dial_inside(plan, layout, clients)

        def tell_rest(agreement: Agreement) -> None:
            lacking = len({doubt.node for doubt in agreement.doubts})
            phase.progress(total - min(lacking, total), summarize(agreement, total))

        enough = everything_in_place if proof.moving else everything
        views, layout = await reconcile(plan, clients, reporter, Goal(proof.exact, enough, tell_rest), tempo)
    if proof.exact:
        for planned, leader in taken_over(layout, plan.layout).items():
            reporter.warn(f"{leader} took over from {planned}, which did not answer the others while they formed")
    return views


async def write_everywhere(
    layout: Layout, nodes: Mapping[str, NodeView], clients: Clients, connect: Connect, reporter: Reporter
) -> None:
    """Write, read and delete a key on every primary, at the address that it announces to clients.

    Raises:
        NodeFailed: the primaries where that failed, with the reply.
    """
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


async def dial_inside(plan: Plan, layout: Layout, clients: Clients) -> None:
    """Let nodes dial the announced address of every other node, from their own network.

    What is announced works from here, which `write_everywhere` has shown; whether it does beside the servers, only a
    server can tell. MIGRATE makes one dial (`migrateGetSocket`): the target refuses the key with a redirection, which
    proves that it was reached, and the copy stays where it is. Nothing needs to be in the image but the server.

    Raises:
        NodeFailed: the nodes that were not reached, and from where.
    """
    failed: dict[str, str] = {}
    # One after the other: a server that dials answers nobody meanwhile, and two would wait for each other.
    for source, targets in inside_dials(plan, layout).items():
        shard = layout.shard_of(source)
        assert shard is not None
        key = covering_key(*shard.slots[0], PROOF_KEY)
        for target, address in targets:
            written, reply, _ = await clients.run(source, *dial_commands(key, address))
            if isinstance(written, ServerError):
                raise NodeFailed(f"{source} refused SET: {written}", code="proof-failed", nodes={source: str(written)})
            if not (isinstance(reply, ServerError) and "Target instance replied" in reply.text):
                failed[target] = f"cannot be reached at {address} from {source}: {reply}"
    if failed:
        raise NodeFailed(
            f"{plural(len(failed), 'node')} cannot be reached at the announced address from inside the network",
            code="proof-failed",
            nodes=failed,
            hint="let containers reach it: a firewall of this machine, or a name that leads elsewhere inside",
        )


def inside_dials(plan: Plan, layout: Layout) -> dict[str, list[tuple[str, Address]]]:
    """Which primary dials which nodes: each node once, by another one, where its address is for the inside, too."""
    sources = [shard.primary for shard in layout.shards if shard.slots]
    found: dict[str, list[tuple[str, Address]]] = {source: [] for source in sources}
    for index, node in enumerate(plan.nodes):
        others = [source for source in sources if source != node.name]
        if others and node.addresses.network is not None and node.addresses.announced is not None:
            found[others[index % len(others)]].append((node.name, node.addresses.announced))
    return {source: targets for source, targets in found.items() if targets}


def dial_commands(key: str, address: Address) -> tuple[Command, ...]:
    """One dial: MIGRATE needs a key to send."""
    migrate = ("MIGRATE", address.host, str(address.port), key, "0", str(DIAL_MILLISECONDS), "COPY")
    return (("SET", key, "1"), migrate, ("DEL", key))


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


async def run_patiently(commands: Sequence[Command], address: Address, connect: Connect) -> Sequence[Reply]:
    """The replies; with further tries where no answer came.

    Raises:
        Unreachable: not even then.
    """
    for _ in range(TRIES - 1):
        try:
            return await _run_once(commands, address, connect)
        except Unreachable as error:
            if error.code != "no-answer":
                raise
    return await _run_once(commands, address, connect)


async def _run_once(commands: Sequence[Command], address: Address, connect: Connect) -> Sequence[Reply]:
    client = await connect(address)
    try:
        return await client.run(*commands)
    finally:
        await client.aclose()


async def _write(commands: Sequence[Command], address: Address, connect: Connect) -> None:
    replies = await run_patiently(commands, address, connect)
    for command, reply in zip(commands, replies, strict=True):
        if isinstance(reply, ServerError):
            raise NodeFailed(f"{address} refused {command[0]}: {reply.text}", code="proof-failed")
    if replies[1] != "1":
        raise NodeFailed(f"{address} gave {replies[1]!r} for a key that was just written", code="proof-failed")
