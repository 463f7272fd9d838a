"""What becomes of slots that a command left half moved: each is finished, closed, or its keys are brought home.

A move opens a slot at both ends, moves its keys, and gives it away at the target first:

1. ``IMPORTING`` at the target, 2. ``MIGRATING`` at the source, 3. keys one by one, 4. ``NODE`` at the target,
5. ``NODE`` at the source.

It may have been cut off anywhere, and its nodes may since have been killed, promoted or emptied. As long as the owner
is migrating, new keys are written at the target, so keys may be at both ends: such a slot can only be finished. A slot
is closed where the end that gives it up has no key of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bootstrap.judging.views import NodeView, Silent, Views, seen
from bootstrap.planning.slots import SLOTS
from bootstrap.planning.text import listing

_OPEN = re.compile(r"\[([0-9]{1,5})-([<>])-([0-9a-f]{40})\]")


@dataclass(frozen=True, slots=True)
class Opening:
    """A slot that a primary says is on its way: to another node id, or from one."""

    slot: int
    node: str
    direction: Literal["migrating", "importing"]
    other: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Move what is left of a slot, and give it to the target."""

    slot: int
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Close:
    """Take the flag off a node that has no key which nobody else has; `owner` has the slot."""

    slot: int
    node: str
    owner: str


@dataclass(frozen=True, slots=True)
class BringHome:
    """Move keys from a node that has no right to them to the owner, whose own keys count."""

    slot: int
    node: str
    owner: str


@dataclass(frozen=True, slots=True)
class Stuck:
    """Nothing can be done without risk to keys: what stands in the way, in words that follow the node's name."""

    slot: int
    node: str
    reason: str


Mending = Finish | Close | BringHome | Stuck

Keys = Mapping[tuple[str, int], int]
"""(node, slot) -> how many keys of the slot the node has."""


def read_opening(node: str, text: str) -> Opening:
    """Parse what CLUSTER NODES writes: ``[5->-ID]`` for one that leaves, ``[5-<-ID]`` for one that comes.

    Raises:
        ValueError: it is not in that form.
    """
    found = _OPEN.fullmatch(text)
    if found is None or int(found[1]) >= SLOTS:
        raise ValueError(f"not an open slot: {text[:80]!r}")
    return Opening(int(found[1]), node, "migrating" if found[2] == ">" else "importing", found[3])


def openings(views: Views) -> tuple[Opening, ...]:
    """All open slots of all primaries that answer; replicas repeat what their primaries have open.

    Raises:
        ValueError: see `read_opening`.
    """
    return tuple(
        read_opening(name, text)
        for name, view in seen(views).items()
        if view.myself.role == "primary"
        for text in view.myself.open_slots
    )


def to_count(views: Views) -> tuple[tuple[str, int], ...]:
    """Which nodes' keys of which slots `mend` has to know."""
    situation = _Situation(views)
    found: dict[tuple[str, int], None] = {}
    for opening in openings(views):
        nodes = (opening.node, situation.owner(opening.slot), situation.leader(opening.other))
        found.update(dict.fromkeys((node, opening.slot) for node in nodes if node))
    return tuple(found)


def mend(views: Views, keys: Keys) -> tuple[Mending, ...]:
    """What is to be done about every open slot, in the order in which it can be done.

    Args:
        views: all nodes of the cluster.
        keys: at least those of `to_count`.

    Raises:
        ValueError: see `read_opening`.
    """
    by_slot: dict[int, list[Opening]] = {}
    for opening in openings(views):
        by_slot.setdefault(opening.slot, []).append(opening)
    situation = _Situation(views)
    return tuple(each for slot in sorted(by_slot) for each in _mend_slot(situation, by_slot[slot], keys))


def _mend_slot(situation: _Situation, found: list[Opening], keys: Keys) -> Iterator[Mending]:
    slot = found[0].slot
    owner = situation.owner(slot)
    if owner is None:
        yield Stuck(slot, found[0].node, f"has slot {slot} open, and no node that answers owns it{situation.silence()}")
        return
    leaving = next((each for each in found if each.node == owner and each.direction == "migrating"), None)
    ending = _end(situation, leaving, found, keys) if leaving else None
    for node in dict.fromkeys(each.node for each in found):
        if isinstance(ending, Finish) and node in (ending.source, ending.target):
            continue
        if isinstance(ending, Stuck) and node == owner:
            continue
        leaving_too = _leave(situation, slot, node, owner, keys)
        # While the owner gives the slot away it takes no new keys: they come home afterwards, at the next look.
        if not (isinstance(ending, Finish) and isinstance(leaving_too, BringHome)):
            yield leaving_too
    if ending is not None and not isinstance(ending, Close):
        yield ending


def _end(situation: _Situation, leaving: Opening, found: list[Opening], keys: Keys) -> Mending:
    """What becomes of a slot that its owner is giving away."""
    slot, owner = leaving.slot, leaving.node
    target = situation.leader(leaving.other)
    if target == owner:
        # The target was made a replica of the source: it has nothing that the source has not.
        return Close(slot, owner, owner)
    if target is not None:
        importing = any(each.node == target and each.direction == "importing" for each in found)
        # A target that is not importing sends clients away, so that nothing new was written there.
        return Finish(slot, owner, target) if importing or keys.get((target, slot)) else Close(slot, owner, owner)
    if situation.silent:
        return Stuck(slot, owner, f"has slot {slot} open to a node that does not answer{situation.silence()}")
    # Every node answers and none is the target: it lost its data and came back with another id, or was removed.
    return Close(slot, owner, owner)


def _leave(situation: _Situation, slot: int, node: str, owner: str, keys: Keys) -> Mending:
    """What becomes of a flag at a node that is not, or no longer, part of a move by the owner."""
    if node == owner or not keys.get((node, slot)):
        return Close(slot, node, owner)
    if situation.claims(node, slot):
        return Stuck(slot, node, f"has keys of slot {slot} and thinks that it owns it, while {owner} has it")
    return BringHome(slot, node, owner)


class _Situation:
    """Who has what, by the nodes' own words."""

    def __init__(self, views: Views) -> None:
        self._nodes = seen(views)
        self._names = {view.id: name for name, view in self._nodes.items()}
        self.silent = tuple(name for name, view in views.items() if isinstance(view, Silent))

    def owner(self, slot: int) -> str | None:
        """Who says that it owns a slot; of several the one with the greatest config epoch, whom the others follow."""
        claiming = [name for name in self._nodes if self.claims(name, slot)]
        return max(claiming, key=lambda name: self._nodes[name].myself.epoch, default=None)

    def claims(self, node: str, slot: int) -> bool:
        """Whether a primary says that it owns a slot."""
        mine = self._nodes[node].myself
        return mine.role == "primary" and any(first <= slot <= last for first, last in mine.slots)

    def leader(self, node_id: str) -> str | None:
        """The primary that has a node's data now: itself, or the one that took over from it; None if none answers."""
        seen_ids: set[str] = set()
        while (name := self._names.get(node_id)) is not None and node_id not in seen_ids:
            seen_ids.add(node_id)
            view: NodeView = self._nodes[name]
            if view.myself.role == "primary":
                return name
            node_id = view.myself.primary or ""
        return None

    def silence(self) -> str:
        """Who does not answer, to be put behind a reason."""
        return f" ({listing(self.silent, 3)} cannot be asked)" if self.silent else ""
