"""Which slots go where: the fewest that bring primaries to their shares, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from bootstrap.errors import UsageError
from bootstrap.planning.layout import Layout
from bootstrap.planning.slots import SLOTS, SlotRange, count, expand, format_ranges, merge
from bootstrap.planning.text import listing, plural

THRESHOLD = Fraction(2)
"""Per cent that a primary may be off its share before it is worth a move, as valkey-cli's ``--cluster-threshold``."""


@dataclass(frozen=True, slots=True)
class SlotMove:
    """Slots that one primary hands to another, by the nodes' names."""

    source: str
    target: str
    slots: tuple[SlotRange, ...]

    @property
    def count(self) -> int:
        """How many slots."""
        return count(self.slots)

    def __str__(self) -> str:
        return f"{self.source} to {self.target}: {plural(self.count, 'slot')} ({format_ranges(self.slots)})"


def split(move: SlotMove, most: int) -> tuple[SlotMove, ...]:
    """The move in as few parts as there can be with no more slots than `most`, the lowest slots first."""
    slots = sorted(expand(move.slots))
    return tuple(replace(move, slots=merge(slots[at : at + most])) for at in range(0, len(slots), most))


def shares(owned: Mapping[str, int], weights: Mapping[str, Fraction]) -> dict[str, int]:
    """How many slots each primary is to have, for all slots to be owned.

    Shares are in proportion to the weights, rounded so that they add up. Who is rounded up is whoever has the largest
    remainder, and of equals whoever has more than its share already: that moves the fewest.

    Args:
        owned: primary -> how many it has now, in a fixed order.
        weights: primary -> its weight, 1 where it is not named; 0 for one that is to be emptied.

    Raises:
        UsageError: a weight for nobody, a negative one, or none that is more than 0.
    """
    if unknown := [name for name in weights if name not in owned]:
        raise UsageError(
            f"{listing(unknown)} {'is' if len(unknown) == 1 else 'are'} no primary",
            code="no-such-node",
            hint=f"primaries: {listing(list(owned), 12)}",
        )
    weighed = {name: weights.get(name, Fraction(1)) for name in owned}
    total = sum(weighed.values(), Fraction(0))
    if total <= 0 or min(weighed.values()) < 0:
        raise UsageError("weights must be 0 or more, and one more than 0", code="bad-weight", hint="such as 1 or 0.5")
    exact = {name: SLOTS * weight / total for name, weight in weighed.items()}
    found = {name: int(share) for name, share in exact.items()}
    order = {name: index for index, name in enumerate(owned)}

    def urgency(name: str) -> tuple[Fraction, int, int]:
        return (found[name] - exact[name], found[name] - owned[name], order[name])

    for name in sorted(owned, key=urgency)[: SLOTS - sum(found.values())]:
        found[name] += 1
    return found


def rebalance(
    layout: Layout, weights: Mapping[str, Fraction] | None = None, *, threshold: Fraction = THRESHOLD
) -> tuple[SlotMove, ...]:
    """The moves that bring every primary to its share; none where all are within the threshold.

    Args:
        layout: all slots must have a primary.
        weights: see `shares`.
        threshold: per cent of a primary's share that it may be off; primaries of weight 0 are always emptied.

    Raises:
        UsageError: see `shares`.
    """
    owned = {shard.primary: count(shard.slots) for shard in layout.shards}
    wanted = shares(owned, weights or {})
    off = {name: abs(owned[name] - wanted[name]) for name in owned}
    if all(off[name] * 100 <= threshold * wanted[name] for name in owned):
        return ()
    return moves_to(layout, wanted)


def moves_to(layout: Layout, wanted: Mapping[str, int]) -> tuple[SlotMove, ...]:
    """The fewest moves of the fewest slots that give each primary as many slots as it is to have.

    Whoever has too many gives its last ones away, so that what it keeps stays together. ValueError unless as many slots
    are wanted as there are.
    """
    if sum(wanted.values()) != layout.slots:
        raise ValueError(f"{sum(wanted.values())} slots are wanted, and there are {layout.slots}")
    surplus = {shard.primary: count(shard.slots) - wanted.get(shard.primary, 0) for shard in layout.shards}
    giving = {
        shard.primary: sorted(expand(shard.slots))[-surplus[shard.primary] :]
        for shard in layout.shards
        if surplus[shard.primary] > 0
    }
    lacking = {name: -number for name, number in surplus.items() if number < 0}
    return tuple(_deal(giving, lacking))


def reshard(layout: Layout, sources: Sequence[str], targets: Sequence[str], number: int) -> tuple[SlotMove, ...]:
    """The moves of a number of slots: sources give in proportion to what they have, targets get the same each.

    Args:
        layout: who has what.
        sources: primaries; empty for all but the targets.
        targets: primaries.
        number: how many slots in all.

    Raises:
        UsageError: no such primary, one that is source and target, or more slots than the sources have.
    """
    owned = {shard.primary: shard.slots for shard in layout.shards}
    sources = list(dict.fromkeys(sources)) or [name for name in owned if name not in targets and owned[name]]
    targets = list(dict.fromkeys(targets))
    _refuse(owned, sources, targets)
    available = sum(count(owned[name]) for name in sources)
    if not 0 < number <= available:
        raise UsageError(
            f"{plural(number, 'slot')} cannot be moved: the sources have {available}", code="bad-slots",
            hint=f"ask for 1 to {available}",
        )  # fmt: skip
    exact = {name: Fraction(number * count(owned[name]), available) for name in sources}
    gives = {name: int(share) for name, share in exact.items()}
    rounded = sorted(sources, key=lambda name: (gives[name] - exact[name], sources.index(name)))
    for name in rounded[: number - sum(gives.values())]:
        gives[name] += 1
    giving = {name: sorted(expand(owned[name]))[-gives[name] :] for name in sources if gives[name]}
    each, rest = divmod(number, len(targets))
    lacking = {name: each + (index < rest) for index, name in enumerate(targets)}
    return tuple(_deal(giving, lacking))


def move_slots(layout: Layout, slots: Iterable[int], target: str) -> tuple[SlotMove, ...]:
    """The moves that bring these very slots to a primary; what it has already stays.

    Raises:
        UsageError: no such primary, or slots that nobody has.
    """
    owned = {shard.primary: expand(shard.slots) for shard in layout.shards}
    _refuse(dict.fromkeys(owned, ()), [], [target])
    asked = frozenset(slots)
    if homeless := asked - frozenset().union(*owned.values()):
        raise UsageError(f"nobody has the slots {format_ranges(merge(homeless))}", code="bad-slots")
    found = {name: merge(asked & mine) for name, mine in owned.items() if name != target}
    return tuple(SlotMove(name, target, ranges) for name, ranges in found.items() if ranges)


def _refuse(owned: Mapping[str, object], sources: Sequence[str], targets: Sequence[str]) -> None:
    if unknown := [name for name in (*sources, *targets) if name not in owned]:
        raise UsageError(
            f"{listing(unknown)} {'is' if len(unknown) == 1 else 'are'} no primary",
            code="no-such-node",
            hint=f"primaries: {listing(list(owned), 12)}",
        )
    if not targets:
        raise UsageError("there is nobody to move slots to", code="no-target", hint="name a primary")
    if both := [name for name in sources if name in targets]:
        raise UsageError(f"{listing(both)} cannot be source and target", code="same-node", hint="leave one of them out")


def _deal(giving: Mapping[str, Sequence[int]], lacking: Mapping[str, int]) -> Iterable[SlotMove]:
    """Give every target what it lacks, source by source: no more moves than sources and targets less one."""
    need = dict(lacking)
    for source, slots in giving.items():
        rest = list(slots)
        while rest:
            target = next(name for name, number in need.items() if number)
            part, rest = rest[: need[target]], rest[need[target] :]
            need[target] -= len(part)
            yield SlotMove(source, target, merge(part))
