"""Moves slots between servers that do not move them by themselves: key by key, in chunks of slots.

A chunk of slots is opened at both ends, emptied, and given away; each of these steps may be repeated, so that a chunk
is finished from wherever it was cut off. `bootstrap/judging/open_slots.py` says what becomes of one that was left.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from bootstrap.concurrency import to_the_end, together
from bootstrap.errors import BootstrapError, NodeFailed
from bootstrap.formation.base import Connect, Credentials, NodeClient, RawCommand, Reply, ServerError, Unreachable
from bootstrap.judging.batches import MOST_COMMANDS, MOST_KEYS, Pace, keys_in_one, samples
from bootstrap.planning.addressing import Address
from bootstrap.planning.slots import slots_text

CHUNK = 128
"""Slots that are open at once: their SETSLOTs fit into one read of a server, which then writes its nodes.conf once."""

LOOKAHEAD_KEYS = 4000
"""About how many keys are listed at once."""

MIGRATE_SECONDS = 3.0
"""How long a source waits for a target that says nothing; it serves nobody meanwhile."""

PATIENT_SECONDS = 60.0
"""The same for a target that has just answered a PING: then the value is large."""

ANSWER_SECONDS = 90.0
"""How long a server that is busy with large values may take to answer."""

FINISH_SECONDS = 5.0
"""How long the chunk under way is worked on after we were told to stop."""

HINT = "see `valkey-bootstrap doctor`, and run the same command again: it finishes what was begun"

Pair = tuple[str, str]
Tell = Callable[[int, int], None]
"""Told how many slots and keys have arrived."""


def failed(message: str, node: str, words: str) -> NodeFailed:
    """A move that a node would not or could not make."""
    return NodeFailed(message, code="migration-failed", nodes={node: words}, hint=HINT)


@dataclass(slots=True)
class Link:
    """A connection of a move's own: moves keep servers busy, and others wait less for their answers."""

    name: str
    client: NodeClient

    async def ask(self, *commands: RawCommand, within: float = ANSWER_SECONDS) -> Sequence[Reply]:
        """Replies, error replies among them.

        Raises:
            Unreachable: by name.
        """
        try:
            return await self.client.run_raw(*commands, within=within)
        except Unreachable as error:
            named = error.of(self.name)
            named.hint = HINT
            raise named from error

    async def tell(self, commands: Sequence[RawCommand], *, tolerate: str = "") -> Sequence[Reply]:
        """Replies; no commands are none.

        Raises:
            NodeFailed: the server refused one whose error does not contain the tolerated text.
        """
        replies = await self.ask(*commands) if commands else ()
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ServerError) and not (tolerate and tolerate in reply.text):
                words = " ".join(word if isinstance(word, str) else "KEY" for word in command)
                raise failed(f"{self.name} refused `{words}`: {reply.text}", self.name, reply.text)
        return replies


@dataclass(frozen=True, slots=True)
class Ends:
    """The two ends of a move.

    Args:
        source, target: links for everything but keys.
        sender: a link to the source for keys: while it sends some, the next are listed.
        giving, taking: links to the source and to the target for SETSLOTs, which are dealt to them.
        ids: node name -> node id.
        meet: where the source reaches the target.
        credentials: how it logs in there.
    """

    source: Link
    target: Link
    sender: Link
    giving: Sequence[Link]
    taking: Sequence[Link]
    ids: Mapping[str, str]
    meet: Address
    credentials: Credentials = field(repr=False)


async def tell_dealt(links: Sequence[Link], commands: Sequence[RawCommand], *, tolerate: str = "") -> None:
    """Commands that do not depend on each other, in equal parts over connections to one server.

    A primary of Valkey 8.0 or newer holds each SETSLOT until its replicas have acknowledged it, and with it whatever
    comes on that connection (`clusterCommandSetSlot`): on one connection 128 of them take 128 round trips to replicas.

    Raises:
        NodeFailed: see `Link.tell`.
    """
    parts = [commands[at :: len(links)] for at in range(min(len(links), len(commands)))]
    await together(partial(link.tell, part, tolerate=tolerate) for link, part in zip(links, parts, strict=False))


@asynccontextmanager
async def open_link(connect: Connect, name: str, address: Address) -> AsyncIterator[Link]:
    """A link for the block."""
    client = await connect(address)
    try:
        yield Link(name, client)
    finally:
        with anyio.move_on_after(2, shield=True):
            await client.aclose()


def batched(items: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    """So many at a time, the last ones fewer."""
    left = iter(items)
    while batch := tuple(islice(left, size)):
        yield batch


def setslot(slots: Iterable[int], *words: str) -> list[RawCommand]:
    """One SETSLOT for each slot: the server knows none for several."""
    return [("CLUSTER", "SETSLOT", str(slot), *words) for slot in slots]


async def count_keys(link: Link, slots: Sequence[int]) -> dict[int, int]:
    """How many keys a node has of each slot, those without left out."""
    replies = await link.tell([("CLUSTER", "COUNTKEYSINSLOT", str(slot)) for slot in slots])
    return {slot: int(count) for slot, count in zip(slots, replies, strict=True) if count}


def migrate(address: Address, credentials: Credentials, keys: Sequence[bytes]) -> Sequence[bytes]:
    """The words of a MIGRATE, without its timeout, which is put in by `timed`. They hold the password.

    A key that the target has, too, is refused (BUSYKEY). To replace all that it may have costs both servers an eighth
    of their time, and is for those alone (`replacing`).
    """
    login: tuple[str, ...] = ()
    if credentials.password is not None:
        login = ("AUTH", credentials.password)
        if credentials.username is not None:
            login = ("AUTH2", credentials.username, credentials.password)
    words = ("MIGRATE", address.host, str(address.port), "", "0", "", *login, "KEYS")
    return [*(word.encode() for word in words), *keys]


def timed(command: Sequence[bytes], seconds: float) -> RawCommand:
    """A MIGRATE that gives up when its target says nothing for so long."""
    return [*command[:5], b"%d" % (seconds * 1000), *command[6:]]


def replacing(command: Sequence[bytes]) -> Sequence[bytes]:
    """The same MIGRATE, but what the target has of these keys gives way to what the source has."""
    return [*command[:6], b"REPLACE", *command[6:]]


@dataclass(slots=True)
class _Bundle:
    """What goes in one round trip."""

    commands: list[Sequence[bytes]] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    keys: int = 0
    share: float = 0.0
    """How much of what may go in one round trip is taken by it."""

    def add(self, slot: int, command: Sequence[bytes], keys: int, most: int) -> None:
        """Add keys of a slot; `most` of their size would go in one."""
        self.commands.append(command)
        self.slots.append(slot)
        self.keys += keys
        self.share += keys / most

    @property
    def full(self) -> bool:
        """Whether it should go now."""
        return self.share >= 1 or len(self.commands) >= MOST_COMMANDS


@dataclass(slots=True)
class _Chunk:
    """Slots that are open, and what is next for them."""

    slots: Sequence[int]
    stage: Literal["open", "drain", "close"] = "open"


@dataclass(slots=True)
class KeyMove:
    """Slots on their way from one primary to another, chunk by chunk.

    Args:
        ends: the two.
        tell: told how many slots and keys have arrived.
        side_by_side: how many such moves keep the source busy, this one among them.
    """

    ends: Ends
    tell: Tell
    side_by_side: int
    _pace: Pace = field(default_factory=Pace)
    _chunk: _Chunk | None = None

    async def run(self, chunks: Iterator[Sequence[int]]) -> None:
        """Move the slots of chunks until nobody has any more.

        When cancelled, it goes on with those that are open for `FINISH_SECONDS`; what is open after that stays so, and
        clients are served, until it is settled.

        Raises:
            NodeFailed: a server refused something or could not be reached; slots may be open.
        """
        try:
            for chunk in chunks:
                self._chunk = _Chunk(chunk)
                await self._go_on(self._chunk)
                self._chunk = None
        except Exception:
            raise
        except BaseException:
            await to_the_end(self._finish)
            raise

    async def _finish(self) -> None:
        if self._chunk is not None:
            with anyio.move_on_after(FINISH_SECONDS), suppress(BootstrapError):
                await self._go_on(self._chunk)

    async def _go_on(self, chunk: _Chunk) -> None:
        if chunk.stage == "open":
            await self._open(chunk.slots)
            chunk.stage = "drain"
        if chunk.stage == "drain":
            await self._drain(chunk.slots)
            chunk.stage = "close"
        await self._close(chunk.slots)
        self.tell(len(chunk.slots), 0)

    async def _open(self, slots: Sequence[int]) -> None:
        # The target first: until it knows, it would send back clients that the source sends to it.
        ends = self.ends
        await tell_dealt(ends.taking, setslot(slots, "IMPORTING", ends.ids[ends.source.name]))
        await tell_dealt(ends.giving, setslot(slots, "MIGRATING", ends.ids[ends.target.name]))

    async def _close(self, slots: Sequence[int]) -> None:
        # The target first: cut off between the two, everybody hears from it whose they are; the other way round
        # nobody would own them.
        ends = self.ends
        gone = setslot(slots, "NODE", ends.ids[ends.target.name])
        await tell_dealt(ends.taking, gone)
        # A source without slots may have become a replica of the target by itself: then it knows. All others hear of
        # it from the target at once (CLUSTER_BROADCAST_ALL in clusterCommandSetSlot).
        await tell_dealt(ends.giving, gone, tolerate="SETSLOT only with")

    async def _drain(self, slots: Sequence[int]) -> None:
        counts = await count_keys(self.ends.source, slots)
        while counts:
            await self._sweep(counts)
            before, counts = counts, await count_keys(self.ends.source, tuple(counts))
            if counts == before:
                where = slots_text(counts)
                raise failed(
                    f"{self.ends.source.name} keeps keys of {where} that it does not list: they are in another"
                    " database than 0, or it is told not to expire them",
                    self.ends.source.name,
                    f"keeps keys of {where}",
                )

    async def _sweep(self, counts: Mapping[int, int]) -> None:
        """Send what a source has now of each slot, or the first `MOST_KEYS` of it."""
        bundles, ready = anyio.create_memory_object_stream[_Bundle](1)
        await together([partial(self._list, counts, bundles), partial(self._send, ready)])

    async def _list(self, counts: Mapping[int, int], bundles: MemoryObjectSendStream[_Bundle]) -> None:
        with bundles:
            bundle = _Bundle()
            for group in _groups(counts):
                async for slot, keys, sizes in self._listed(group):
                    rest = keys
                    while rest:
                        most = keys_in_one(sizes, self._pace)
                        now, rest = rest[:most], rest[most:]
                        command = migrate(self.ends.meet, self.ends.credentials, now)
                        bundle.add(slot, command, len(now), most)
                        if bundle.full:
                            await bundles.send(bundle)
                            bundle = _Bundle()
            if bundle.commands:
                await bundles.send(bundle)

    async def _listed(self, group: Mapping[int, int]) -> AsyncIterator[tuple[int, list[bytes], list[int]]]:
        """Slot, keys, and the bytes that some of them take."""
        source = self.ends.source
        lists = await source.tell(
            [("CLUSTER", "GETKEYSINSLOT", str(slot), str(min(count, MOST_KEYS))) for slot, count in group.items()]
        )
        weighed = [[keys[index] for index in samples(len(keys))] for keys in lists]
        sizes = iter(await source.tell([("MEMORY", "USAGE", key) for keys in weighed for key in keys]))
        for slot, keys, some in zip(group, lists, weighed, strict=True):
            # None for one that is gone by now.
            yield slot, keys, [int(size or 0) for size in islice(sizes, len(some))]

    async def _send(self, bundles: MemoryObjectReceiveStream[_Bundle]) -> None:
        """Let the source send keys.

        Raises:
            NodeFailed: it could not; the target is named where it does not answer.
        """
        with bundles:
            async for bundle in bundles:
                began = anyio.current_time()
                commands = [timed(command, MIGRATE_SECONDS) for command in bundle.commands]
                replies = await self.ends.sender.ask(*commands)
                # Those of others wait in the same line.
                taken = (anyio.current_time() - began) / self.side_by_side
                for slot, command, reply in zip(bundle.slots, bundle.commands, replies, strict=True):
                    if isinstance(reply, ServerError):
                        await self._send_again(slot, command, reply)
                self._pace = self._pace.after(bundle.keys, taken)
                self.tell(0, bundle.keys)

    async def _send_again(self, slot: int, command: Sequence[bytes], said: ServerError) -> None:
        sender, target = self.ends.sender, self.ends.target
        if said.text.startswith("IOERR") or "BUSYKEY" in said.text:
            # Either it is gone, or one of the values takes it long, or has come before, without the source's knowledge.
            # As long as the source has it, too, nobody has changed it anywhere else.
            await target.ask(("PING",), within=MIGRATE_SECONDS)
            (reply,) = await sender.ask(timed(replacing(command), PATIENT_SECONDS))
            if not isinstance(reply, ServerError):
                return
            said = reply
        raise failed(
            f"{sender.name} could not send keys of slot {slot} to {target.name}: {said}", sender.name, said.text
        )


def _groups(counts: Mapping[int, int]) -> Iterator[dict[int, int]]:
    """Slots whose keys are listed at once."""
    group: dict[int, int] = {}
    for slot, count in counts.items():
        group[slot] = count
        if sum(min(each, MOST_KEYS) for each in group.values()) >= LOOKAHEAD_KEYS:
            yield group
            group = {}
    if group:
        yield group


async def bring_home(ends: Ends, slots: Sequence[int]) -> None:
    """Move keys from a node that has no right to them, `ends.source`, to the owner, whose own keys count.

    Raises:
        NodeFailed: see `KeyMove.run`.
    """
    node, owner = ends.source, ends.target
    # An open slot is what lets a node that does not own it send and delete keys of it.
    await node.tell(setslot(slots, "IMPORTING", ends.ids[owner.name]))
    for slot in slots:
        before = -1
        while (count := (await count_keys(node, (slot,))).get(slot, 0)) and count != before:
            before = count
            (keys,) = await node.tell([("CLUSTER", "GETKEYSINSLOT", str(slot), "100")])
            (reply,) = await node.ask(timed(migrate(ends.meet, ends.credentials, keys), PATIENT_SECONDS))
            if isinstance(reply, ServerError) and "BUSYKEY" not in reply.text:
                words = f"{node.name} could not send keys of slot {slot} to {owner.name}: {reply}"
                raise failed(words, node.name, reply.text)
            # What the owner has, too, it has served and changed since.
            held = await owner.tell([("EXISTS", key) for key in keys])
            doubles = [key for key, there in zip(keys, held, strict=True) if there]
            await node.tell([words for key in doubles for words in (("ASKING",), ("UNLINK", key))])
        if count:
            raise failed(f"{node.name} keeps keys of slot {slot} that {owner.name} owns", node.name, f"{count} keys")
