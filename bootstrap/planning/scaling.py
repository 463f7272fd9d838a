"""What each node is to become when a cluster grows, shrinks or is spread anew; pure, and the same every time.

A `Standing` is what there is. Every function gives the layout that is wanted; `changes` tells the two apart, and
`moves_between` gives the slots that have to move. How to get there is decided in `bootstrap.judging.transition`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from bootstrap.errors import Conflict, UsageError
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.moves import THRESHOLD, SlotMove, moves_to, shares
from bootstrap.planning.placement import Place
from bootstrap.planning.slots import SLOTS, SlotRange, count, expand, merge
from bootstrap.planning.text import listing, plural


@dataclass(frozen=True, slots=True)
class Standing:
    """What there is, and what may be used.

    Args:
        layout: the shape that all members agree on.
        places: name -> where it sits, in the order of the nodes' indexes; nodes that are to join have theirs, too.
    """

    layout: Layout
    places: Mapping[str, Place]

    def rank(self, name: str) -> int:
        """Its position among all nodes."""
        return list(self.places).index(name)


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one node: it joins (+), changes (~) or leaves (-)."""

    sign: Literal["+", "~", "-"]
    node: str
    text: str
    address: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        words = {"+": "add", "~": "change", "-": "remove"}
        return {"action": words[self.sign], "node": self.node, "text": self.text, "address": self.address or None}


def scaled(standing: Standing, members: Sequence[str], counts: Sequence[int]) -> Layout:
    """The layout of these members with as many primaries as there are counts, and so many replicas of each.

    Primaries stay where they can. A shard whose primary leaves goes on under one of its replicas, which moves no slot.
    Where primaries are too many, those of the highest index hand over their slots; where they are too few, nodes that
    belong to nobody are next, and then the replicas that are too many. Slots move only to and from primaries that
    are off their share.

    Args:
        standing: what there is.
        members: who is to be in it, in the order of their indexes.
        counts: replicas of each primary, in any order; with the primaries as many as members.
    """
    if len(counts) + sum(counts) != len(members):
        raise ValueError(f"{len(members)} members are no primaries with {list(counts)} replicas")
    leaders = _leaders(standing, members, counts)
    homes = {leader: shard for leader, shard in leaders.items() if shard is not None}
    wanted = _counts_by_leader(list(leaders), homes, members, counts)
    replicas = _replicas(standing, members, homes, wanted)
    slots = _spread(standing, list(leaders), homes)
    return make_layout(Shard(leader, slots[leader], replicas[leader]) for leader in leaders)


def with_primaries(standing: Standing, names: Sequence[str]) -> Layout:
    """The layout with further primaries, each with its share; what the others have stays in proportion.

    Args:
        standing: what there is.
        names: the newcomers; primaries without slots are taken, too.
    """
    old = {shard.primary: count(shard.slots) for shard in standing.layout.shards if shard.primary not in names}
    weights = {name: Fraction(number) for name, number in old.items()}
    leading = sum(number > 0 for number in old.values()) or 1
    weights |= dict.fromkeys(names, Fraction(sum(old.values()) or SLOTS, leading))
    shards = [shard for shard in standing.layout.shards if shard.primary not in names]
    newcomers = [standing.layout.shard_of(name) or Shard(name, ()) for name in names]
    grown = make_layout([*shards, *newcomers])
    owned = {shard.primary: count(shard.slots) for shard in grown.shards}
    return moved(grown, moves_to(grown, shares(owned, weights)))


def with_replicas(standing: Standing, names: Sequence[str], of: Sequence[str] = ()) -> Layout:
    """The layout with further replicas.

    Args:
        standing: what there is.
        names: the newcomers.
        of: the primaries to follow, in turn; empty for wherever they are missed most: the shards with the fewest
            replicas, and of these one that has nobody on the newcomer's machine, or in its zone.

    Raises:
        UsageError: one of these is no primary.
    """
    shards = {shard.primary: list(shard.replicas) for shard in standing.layout.shards if shard.slots}
    _refuse_unknown(of, shards, standing)
    for index, name in enumerate(names):
        home = of[index % len(of)] if of else _missed_most(standing, name, shards)
        shards[home].append(name)
    return make_layout(
        Shard(shard.primary, shard.slots, tuple(shards.get(shard.primary, shard.replicas)))
        for shard in standing.layout.shards
        if shard.primary not in names
    )


def without(standing: Standing, leaving: Sequence[str], *, replicas: int, fewer: bool = False) -> Layout:
    """The layout without some nodes: primaries hand their slots to the others, their replicas go where they are missed.

    Args:
        standing: what there is.
        leaving: who goes.
        replicas: how many each primary is to have at least; where one would have fewer, others give up what they have
            beyond that.
        fewer: leave primaries with fewer replicas, if it must be.

    Raises:
        Conflict: nobody would be left to have the slots (``last-primary``), or a primary would have too few replicas
            (``too-few-replicas``).
    """
    staying = [shard for shard in standing.layout.shards if shard.primary not in leaving]
    if not any(shard.slots for shard in staying):
        heir = next((n for shard in standing.layout.shards if shard.slots for n in shard.nodes if n not in leaving), "")
        raise Conflict(
            "no primary with slots would be left",
            code="last-primary",
            hint=f"let a replica lead first: `valkey-bootstrap failover {heir}`"
            if heir
            else "remove fewer nodes, or the whole cluster with `valkey-bootstrap delete`",
        )
    homes = {shard.primary: [n for n in shard.replicas if n not in leaving] for shard in staying}
    orphans = [
        name
        for shard in standing.layout.shards
        if shard.primary in leaving
        for name in shard.replicas
        if name not in leaving
    ]
    for name in sorted(orphans, key=standing.rank):
        homes[_missed_most(standing, name, homes)].append(name)
    _even_out(standing, homes, replicas)
    lacking = {primary: len(found) for primary, found in homes.items() if len(found) < replicas}
    had = {shard.primary: len(shard.replicas) for shard in standing.layout.shards}
    worse = {primary: number for primary, number in lacking.items() if number < min(had[primary], replicas)}
    if worse and not fewer:
        primary, number = next(iter(worse.items()))
        raise Conflict(
            f"{primary} would be left with {plural(number, 'replica')}, and {replicas} "
            f"{'is' if replicas == 1 else 'are'} asked for",
            code="too-few-replicas",
            hint="add a replica first (`valkey-bootstrap add-node`), or allow it with --fewer-replicas",
            nodes={name: plural(number, "replica") for name, number in worse.items()},
        )
    owned = {shard.primary: count(shard.slots) for shard in standing.layout.shards}
    weights = {name: Fraction(0 if name in leaving else number) for name, number in owned.items()}
    spread = moved(standing.layout, moves_to(standing.layout, shares(owned, weights)))
    slots = {shard.primary: shard.slots for shard in spread.shards}
    return make_layout(Shard(primary, slots[primary], tuple(found)) for primary, found in homes.items())


def moved(layout: Layout, moves: Iterable[SlotMove]) -> Layout:
    """The layout after some moves."""
    owned = {shard.primary: set(expand(shard.slots)) for shard in layout.shards}
    for move in moves:
        owned[move.source] -= expand(move.slots)
        owned[move.target] |= expand(move.slots)
    return make_layout(Shard(shard.primary, merge(owned[shard.primary]), shard.replicas) for shard in layout.shards)


def moves_between(now: Layout, goal: Layout) -> tuple[SlotMove, ...]:
    """The moves that are left once replicas that are to lead have taken over; slots of nobody are not among them."""
    wanted = _owners(goal)
    heirs = {shard.primary: successor(shard, goal) for shard in now.shards if shard.slots}
    taken: dict[tuple[str, str], list[int]] = {}
    for slot, owner in sorted(_owners(now).items()):
        source, target = heirs[owner], wanted.get(slot)
        if target is not None and target != source:
            taken.setdefault((source, target), []).append(slot)
    return tuple(SlotMove(source, target, merge(slots)) for (source, target), slots in taken.items())


def successor(shard: Shard, goal: Layout) -> str:
    """Who goes on with the slots of a shard: its primary if that is to lead, otherwise the replica that is.

    Of several that are to lead it is the one that is to have the most of these slots. The primary, too, where none of
    them is to lead.
    """
    leading = {each.primary: each.slots for each in goal.shards if each.primary in shard.nodes}
    if shard.primary in leading or not leading:
        return shard.primary
    mine = expand(shard.slots)
    return min(leading, key=lambda name: (-len(mine & expand(leading[name])), name))


def changes(now: Layout, goal: Layout) -> tuple[Change, ...]:
    """What becomes of whom: who joins, who changes and who leaves."""
    before, after = dict(_roles(now)), dict(_roles(goal))
    found = [Change("+", name, text) for name, text in after.items() if name not in before]
    found += [
        Change("~", name, f"{before[name]} -> {text}") for name, text in after.items() if before.get(name, text) != text
    ]
    return (*found, *(Change("-", name, text) for name, text in before.items() if name not in after))


def _roles(layout: Layout) -> Iterator[tuple[str, str]]:
    for shard in layout.shards:
        yield shard.primary, f"primary of {plural(count(shard.slots), 'slot')}"
    for shard in layout.shards:
        for name in shard.replicas:
            yield name, f"replica of {shard.primary}"


def _owners(layout: Layout) -> dict[int, str]:
    return {slot: shard.primary for shard in layout.shards for slot in expand(shard.slots)}


def _leaders(standing: Standing, members: Sequence[str], counts: Sequence[int]) -> dict[str, Shard | None]:
    """Who is to lead, and the shard that it goes on with; None for those that begin a new one."""
    order = {name: index for index, name in enumerate(members)}
    found: list[tuple[str, Shard]] = []
    for shard in standing.layout.shards:
        kept = sorted((name for name in shard.nodes if name in order), key=order.__getitem__)
        if shard.slots and kept:
            found.append((shard.primary if shard.primary in order else kept[0], shard))
    found.sort(key=lambda each: order[each[0]])
    leaders: dict[str, Shard | None] = dict(found[: len(counts)])
    kept_shards = [shard for _, shard in found[: len(counts)]]
    free = [name for name in members if not any(name in shard.nodes for shard in kept_shards)]
    spare = {shard.primary: [n for n in members if n in shard.nodes and n not in leaders] for shard in kept_shards}
    while len(leaders) < len(counts):
        # Whoever belongs to nobody; then the last replica of whoever has the most.
        name = free.pop(0) if free else max(reversed(list(spare.values())), key=len).pop()
        leaders[name] = None
    return dict(sorted(leaders.items(), key=lambda each: order[each[0]]))


def _counts_by_leader(
    leaders: Sequence[str], homes: Mapping[str, Shard], members: Sequence[str], counts: Sequence[int]
) -> dict[str, int]:
    """How many replicas each is to have: the higher counts go to those who have more already."""

    def has(leader: str) -> int:
        shard = homes.get(leader)
        return sum(n in members and n not in leaders for n in shard.nodes) if shard else 0

    ordered = sorted(leaders, key=lambda leader: (-has(leader), leaders.index(leader)))
    return dict(zip(ordered, sorted(counts, reverse=True), strict=True))


def _replicas(
    standing: Standing, members: Sequence[str], homes: Mapping[str, Shard], wanted: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    """Who follows whom: whoever follows already goes on, the others go where they are missed most."""
    found: dict[str, list[str]] = {leader: [] for leader in wanted}
    for leader, shard in homes.items():
        mine = [name for name in members if name in shard.nodes and name not in wanted]
        # Those that a lost machine or zone would take together with their primary are the first to go elsewhere.
        mine.sort(key=lambda name: (_shared(standing, name, [leader]), standing.rank(name)))
        found[leader] = mine[: wanted[leader]]
    settled = {name for names in found.values() for name in names}
    for name in members:
        if name not in wanted and name not in settled:
            open_ = {leader: names for leader, names in found.items() if len(names) < wanted[leader]}
            found[_missed_most(standing, name, open_)].append(name)
    return {leader: tuple(names) for leader, names in found.items()}


def _missed_most(standing: Standing, name: str, shards: Mapping[str, Sequence[str]]) -> str:
    """The primary that a replica at this place helps most."""

    def cost(primary: str) -> tuple[int, tuple[int, ...], int]:
        return (len(shards[primary]), _shared(standing, name, [primary, *shards[primary]]), standing.rank(primary))

    return min(shards, key=cost)


def _shared(standing: Standing, name: str, nodes: Sequence[str]) -> tuple[int, ...]:
    """How much a node shares with a shard: its primary's machine, machines in all, its primary's zone, zones."""
    mine = standing.places[name]
    places = [standing.places[node] for node in nodes]
    hosts = [mine.host == place.host for place in places]
    zones = [mine.zone != "" and mine.zone == place.zone for place in places]
    return (int(hosts[0]), sum(hosts), int(zones[0]), sum(zones))


def _even_out(standing: Standing, homes: dict[str, list[str]], replicas: int) -> None:
    """Let primaries with more replicas than asked for give some to those with fewer."""
    while lacking := [primary for primary, found in homes.items() if len(found) < replicas]:
        givers = [primary for primary, found in homes.items() if len(found) > replicas]
        if not givers:
            return
        giver = max(givers, key=lambda primary: (len(homes[primary]), standing.rank(primary)))
        name = homes[giver].pop()
        homes[_missed_most(standing, name, {primary: homes[primary] for primary in lacking})].append(name)


def _spread(
    standing: Standing, leaders: Collection[str], homes: Mapping[str, Shard]
) -> dict[str, tuple[SlotRange, ...]]:
    """The slots of each leader: what it goes on with, evened out where somebody is off by more than the threshold."""
    continued = {shard.primary for shard in homes.values()}
    begun = [Shard(leader, homes[leader].slots if leader in homes else ()) for leader in leaders]
    # A primary that leads no more may have the name of none of these: it gives up all that it has.
    ended = [
        Shard(f"{shard.primary}\0", shard.slots)
        for shard in standing.layout.shards
        if shard.primary not in continued and shard.slots
    ]
    layout = make_layout([*begun, *ended])
    owned = {shard.primary: count(shard.slots) for shard in layout.shards}
    wanted = shares(owned, {shard.primary: Fraction(0) for shard in ended})
    if any(abs(owned[name] - wanted[name]) * 100 > THRESHOLD * wanted[name] for name in owned):
        layout = moved(layout, moves_to(layout, wanted))
    return {shard.primary: shard.slots for shard in layout.shards if shard.primary in leaders}


def _refuse_unknown(of: Sequence[str], shards: Collection[str], standing: Standing) -> None:
    for name in of:
        if name in shards:
            continue
        home = standing.layout.shard_of(name)
        what = f"{name} is a replica of {home.primary}" if home and home.primary != name else f"{name} has no slots"
        raise UsageError(what, code="not-a-primary", hint=f"primaries: {listing(list(shards), 12)}")
