"""The search behind placement.py, over classes of equal places (one host, one zone) instead of places.

A shard is a tuple of classes, the primary's first and the replicas' ascending; a layout is one shard for
each primary, in order.  A cost is a Score packed into one number, most significant field first, so that
costs add up and compare as scores do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, reduce
from itertools import combinations_with_replacement, count
from math import comb

Shard = tuple[int, ...]
Layout = tuple[Shard, ...]

FIELDS = 6
FIELD_BITS = 40  # no field exceeds the square of the number of nodes

UNKNOWN = -1
"""The zone number that no two places share."""

# Bounds on the work, in steps of one or two microseconds: 1,000 nodes are to take less than 0.3 s.
TRIAL_WORK = 6_000
CLIMB_WORK = 115_000
EXACT_WORK = 150_000
EXACT_NODES = 32
EXACT_FORMS = 20_000


@dataclass(frozen=True, slots=True)
class Problem:
    """What is to be laid out; classes and shards are numbered by their index in these tuples."""

    hosts: tuple[int, ...]  # host of each class
    zones: tuple[int, ...]  # zone of each class, or UNKNOWN
    stock: tuple[int, ...]  # nodes of each class
    sizes: tuple[int, ...]  # nodes of each shard, its primary included
    _costs: dict[Shard, int] = field(default_factory=dict, init=False, compare=False, repr=False)

    def shard_cost(self, shard: Shard) -> int:
        """Return what one shard adds to the cost, the spread of the primaries apart."""
        cost = self._costs.get(shard)
        if cost is None:
            on_host, host_pairs = _shared([self.hosts[place] for place in shard])
            in_zone, zone_pairs = _shared([self.zones[place] for place in shard])
            cost = self._costs[shard] = pack((on_host, host_pairs, in_zone, zone_pairs, 0, 0))
        return cost

    def cost(self, layout: Layout) -> int:
        """Return the cost of a whole layout."""
        return sum(map(self.shard_cost, layout)) + Spread(self, (shard[0] for shard in layout)).cost


def pack(fields: Iterable[int]) -> int:
    """Return the cost that stands for the six fields of a score."""
    return reduce(lambda cost, value: (cost << FIELD_BITS) + value, fields, 0)


def unpack(cost: int) -> tuple[int, ...]:
    """Return the six fields of a score that the cost stands for."""
    return tuple(cost >> FIELD_BITS * power & (1 << FIELD_BITS) - 1 for power in reversed(range(FIELDS)))


class Spread:
    """How many primaries each host and each zone has, and what they cost."""

    def __init__(self, problem: Problem, primaries: Iterable[int] = ()) -> None:
        self._host_of, self._zone_of = problem.hosts, problem.zones
        self._hosts = [0] * (max(problem.hosts) + 1)
        self._zones = [0] * (max(problem.zones) + 1)
        self._host_weight = pack((0, 0, 0, 0, 1, 0))
        self.cost = 0
        for place in primaries:
            self.add(place)

    def price(self, place: int) -> int:
        """Return what one more primary of this class would cost."""
        zone = self._zone_of[place]
        in_zone = 0 if zone == UNKNOWN else 2 * self._zones[zone] + 1
        return self._host_weight * (2 * self._hosts[self._host_of[place]] + 1) + in_zone

    def add(self, place: int) -> None:
        """Count one more primary of this class."""
        self.cost += self.price(place)
        self._count(place, 1)

    def remove(self, place: int) -> None:
        """Count one primary of this class less."""
        self._count(place, -1)
        self.cost -= self.price(place)

    def switch(self, old: int, new: int) -> int:
        """Return what it would cost to replace a primary of class `old` by one of class `new`."""
        self._count(old, -1)
        change = self.price(new) - self.price(old)
        self._count(old, 1)
        return change

    def _count(self, place: int, nodes: int) -> None:
        self._hosts[self._host_of[place]] += nodes
        if (zone := self._zone_of[place]) != UNKNOWN:
            self._zones[zone] += nodes


def lower_bound(problem: Problem) -> int:
    """Return a cost that no layout undercuts.

    The greater of two: each field's own minimum, as if the others did not matter, and the sum of what each
    shard costs at least if it had all the nodes to itself.
    """
    hosts, zones, _ = _domains(problem)
    spread = [_fill(len(problem.sizes), hosts.values(), 1, 2), _least_zone_spread(problem)]
    fields: list[int] = []
    for domains in (hosts.values(), zones.values()):
        fields.append(sum(_least_with_primary(nodes, problem.sizes) for nodes in domains))
        fields.append(sum(_fill(nodes, problem.sizes, 0, 1) for nodes in domains))
    apart = sum(map(floors(problem).__getitem__, problem.sizes))
    return max(pack([*fields, *spread]), apart + pack([0, 0, 0, 0, *spread]))


def floors(problem: Problem) -> dict[int, int]:
    """Return, for each size of shard, a cost that no shard of that size undercuts."""
    hosts, zones, unknown = _domains(problem)
    known_and_not = [*zones.values(), *[1] * unknown]
    return {
        size: pack((0, _least_pairs(size, hosts.values()), 0, _least_pairs(size, known_and_not), 0, 0))
        for size in set(problem.sizes)
    }


def deal(problem: Problem) -> Layout:
    """Return a layout that spreads every host, then every zone, evenly over the shards.

    A host's nodes go to the shards with the most room left, which keeps them apart whenever that is
    possible at all (Gale and Ryser).  Then the cheapest member of each shard becomes its primary.
    """
    shards: list[list[int]] = [[] for _ in problem.sizes]
    hosts: list[Counter[int]] = [Counter() for _ in problem.sizes]
    zones: list[Counter[int]] = [Counter() for _ in problem.sizes]
    for zone, host, place in sorted(zip(problem.zones, problem.hosts, count(), strict=False)):
        left = problem.stock[place]
        while left:
            ranked = sorted(
                (hosts[at][host], len(shard) - problem.sizes[at], zones[at][zone], at)
                for at, shard in enumerate(shards)
                if len(shard) < problem.sizes[at]
            )[:left]
            left -= len(ranked)
            for *_, at in ranked:
                shards[at].append(place)
                hosts[at][host] += 1
                zones[at][zone] += 1
    return _appoint(problem, shards)


def search(problem: Problem, starts: Iterable[Layout]) -> Layout:
    """Return the cheapest layout found from these starts; the earliest start wins ties.

    Nothing is cheaper if its cost is the lower bound, or if the exact search went through all the others
    within its bounds on the work; for 8 nodes and fewer it needs no more than a sixth of them.
    """
    goal = lower_bound(problem)
    tried: list[Layout] = []
    for start in starts:
        tried.append(start)
        if problem.cost(start) == goal:
            return start
    climbs = [_Climb(problem, start, goal) for start in tried]
    for climb in climbs:
        climb.run(TRIAL_WORK)
    climb = min(climbs, key=lambda climb: climb.cost)
    climb.run(CLIMB_WORK)
    best = min(tried[0], tuple(climb.shards), key=problem.cost)
    if problem.cost(best) > goal and _is_small(problem):
        best = _Exact(problem, best, goal).run()
    return best


class _Climb:
    """Swaps two nodes, or a primary and its replica, as long as that makes the layout cheaper."""

    def __init__(self, problem: Problem, start: Layout, goal: int) -> None:
        self._work = 0
        self._price = problem.shard_cost
        self._floors = floors(problem)
        self.shards = list(start)
        self._goal = goal
        self.cost = problem.cost(start)
        self._spread = Spread(problem, (shard[0] for shard in start))
        self._replaced: dict[tuple[Shard, int, int], Shard] = {}

    def run(self, work: int) -> None:
        """Go on until no such swap helps, or the goal is reached, or the work is used up."""
        self._work = work
        before = -1
        while before != self.cost:
            before = self.cost
            worst_first = sorted(range(len(self.shards)), key=lambda at: -self._price(self.shards[at]))
            for at in worst_first:
                while self.cost > self._goal and self._work > 0 and self._improve(at):
                    pass

    def _improve(self, at: int) -> bool:
        shard = self.shards[at]
        if any(self._appoint(at, form) for form in _forms(shard)):
            return True
        # Equal partners make equal swaps: one of each is enough.
        partners = {other: there for there, other in enumerate(self.shards) if there != at}
        self._work -= len(partners)
        # A shard at its floor can only hand over its primary; the rest is left to its partners' turns.
        at_floor = self._price(shard) == self._floors[len(shard)]
        slots = [(0, shard[0])] if at_floor else _kinds(shard)
        gains = cache(lambda place: self._gains(shard, place))
        return any(
            self._swap(at, mine, there, theirs)
            for other, there in partners.items()
            for theirs, taken in _kinds(other)
            if not at_floor or (theirs and gains(taken))
            for mine, given in slots
            if given != taken
        )

    def _gains(self, shard: Shard, primary: int) -> bool:
        change = self._price(self._replace(shard, 0, primary)) - self._price(shard)
        return change + self._spread.switch(shard[0], primary) < 0

    def _appoint(self, at: int, form: Shard) -> bool:
        shard = self.shards[at]
        change = self._price(form) - self._price(shard) + self._spread.switch(shard[0], form[0])
        return self._apply(change, {at: form})

    def _swap(self, at: int, mine: int, there: int, theirs: int) -> bool:
        shard, other = self.shards[at], self.shards[there]
        given, taken = shard[mine], other[theirs]
        left, right = self._replace(shard, mine, taken), self._replace(other, theirs, given)
        change = self._price(left) + self._price(right) - self._price(shard) - self._price(other)
        self._work -= 1
        if not mine and theirs:
            change += self._spread.switch(given, taken)
        elif mine and not theirs:
            change += self._spread.switch(taken, given)
        return self._apply(change, {at: left, there: right})

    def _replace(self, shard: Shard, index: int, place: int) -> Shard:
        key = (shard, index, place)
        if key not in self._replaced:
            self._work -= len(shard)
            members = [*shard[:index], place, *shard[index + 1 :]]
            self._replaced[key] = (members[0], *sorted(members[1:]))
        return self._replaced[key]

    def _apply(self, change: int, shards: dict[int, Shard]) -> bool:
        if change >= 0:
            return False
        self.cost += change
        for at in shards:
            self._spread.remove(self.shards[at][0])
        for at, shard in shards.items():
            self._spread.add(shard[0])
            self.shards[at] = shard
        return True


class _Exact:
    """Goes through all layouts, cheap shards first, leaving out what cannot beat the best one so far."""

    def __init__(self, problem: Problem, best: Layout, goal: int) -> None:
        self._problem = problem
        self._best = best
        self._limit = problem.cost(best)
        self._goal = goal
        self._order = sorted(range(len(problem.sizes)), key=lambda at: -problem.sizes[at])
        self._sizes = [problem.sizes[at] for at in self._order]
        self._forms = {size: _all_forms(problem, size) for size in set(self._sizes)}
        self._stock = list(problem.stock)
        self._spread = Spread(problem)
        self._chosen: list[Shard] = []
        self._work = EXACT_WORK

    def run(self) -> Layout:
        """Return the cheapest layout, the given one on a tie; the best seen if the work is used up."""
        self._descend(0, 0)
        return self._best

    def _descend(self, first: int, spent: int) -> None:
        depth = len(self._chosen)
        if depth == len(self._order):
            self._limit = spent + self._spread.cost
            self._best = tuple(shard for _, shard in sorted(zip(self._order, self._chosen, strict=True)))
            return
        size = self._sizes[depth]
        alike = self._sizes.count(size) - depth + self._sizes.index(size)
        # Shards of one size are interchangeable: taking them in ascending order tries each set of them once.
        for index in range(first, len(self._forms[size])):
            cost, shard = self._forms[size][index]
            self._work -= 1
            if self._work < 0 or self._limit <= max(self._goal, spent + cost * alike + self._spread.cost):
                return
            if self._take(shard):
                if spent + cost + self._spread.cost < self._limit:
                    more = depth + 1 < len(self._sizes) and self._sizes[depth + 1] == size
                    self._descend(index if more else 0, spent + cost)
                self._give_back(shard)

    def _take(self, shard: Shard) -> bool:
        for place in shard:
            self._stock[place] -= 1
        if all(self._stock[place] >= 0 for place in shard):
            self._spread.add(shard[0])
            self._chosen.append(shard)
            return True
        for place in shard:
            self._stock[place] += 1
        return False

    def _give_back(self, shard: Shard) -> None:
        self._chosen.pop()
        self._spread.remove(shard[0])
        for place in shard:
            self._stock[place] += 1


def _is_small(problem: Problem) -> bool:
    classes = len(problem.stock)
    forms = sum(comb(classes + size - 1, size) for size in set(problem.sizes))
    return sum(problem.sizes) <= EXACT_NODES and forms <= EXACT_FORMS


def _all_forms(problem: Problem, size: int) -> list[tuple[int, Shard]]:
    """Return every shard of this size that the stock allows, with its cost, cheapest first."""
    return sorted(
        (problem.shard_cost(form), form)
        for members in combinations_with_replacement(range(len(problem.stock)), size)
        if all(members.count(place) <= problem.stock[place] for place in set(members))
        for form in _forms(members)
    )


def _appoint(problem: Problem, shards: Iterable[list[int]]) -> Layout:
    """Return the layout in which the cheapest member of each shard, in turn, is its primary."""
    spread = Spread(problem)
    layout: list[Shard] = []
    for shard in shards:
        forms = _forms(tuple(shard))
        layout.append(min(forms, key=lambda form: problem.shard_cost(form) + spread.price(form[0])))
        spread.add(layout[-1][0])
    return tuple(layout)


@lru_cache(maxsize=4096)
def _forms(members: tuple[int, ...]) -> list[Shard]:
    """Return the shards that these members can make: one for each class that can be the primary's."""
    ordered = sorted(members)
    indexes = [at for at, place in enumerate(ordered) if at == 0 or ordered[at - 1] != place]
    return [(ordered[at], *ordered[:at], *ordered[at + 1 :]) for at in indexes]


@lru_cache(maxsize=4096)
def _kinds(shard: Shard) -> list[tuple[int, int]]:
    """Return index and class of the primary and of one replica of each class."""
    replicas = range(1, len(shard))
    return [(0, shard[0]), *((at, shard[at]) for at in replicas if at == 1 or shard[at] != shard[at - 1])]


def _shared(domains: list[int]) -> tuple[int, int]:
    """Return how many replicas share the primary's domain (the first), and how many pairs share any."""
    if len(known := [domain for domain in domains if domain != UNKNOWN]) < 2:
        return 0, 0
    with_primary = 0 if domains[0] == UNKNOWN else domains.count(domains[0]) - 1
    return with_primary, sum(comb(nodes, 2) for nodes in Counter(known).values())


def _domains(problem: Problem) -> tuple[Counter[int], Counter[int], int]:
    """Return how many nodes each host has, each known zone has, and how many are in no known zone."""
    hosts: Counter[int] = Counter()
    zones: Counter[int] = Counter()
    for host, zone, nodes in zip(problem.hosts, problem.zones, problem.stock, strict=True):
        hosts[host] += nodes
        zones[zone] += nodes
    unknown = zones.pop(UNKNOWN, 0)
    return hosts, zones, unknown


def _least_pairs(size: int, domains: Collection[int]) -> int:
    """Return the fewest pairs in one domain in a shard whose primary is alone in its own, if it can be."""
    others = sorted(domains)[1:]
    return _fill(size - 1, others, 0, 1) if sum(others) >= size - 1 else _fill(size, domains, 0, 1)


def _least_with_primary(nodes: int, sizes: Sequence[int]) -> int:
    """Return how many of a domain's nodes must at least be replicas of a primary in the same domain."""
    replicas = sorted(size - 1 for size in sizes)
    elsewhere = sum(replicas)
    least = max(0, nodes - elsewhere)
    for primaries, lost in enumerate(replicas[:nodes], 1):
        elsewhere -= lost
        least = min(least, max(0, nodes - primaries - elsewhere))
    return least


def _fill(amount: int, capacities: Collection[int], first: int, step: int) -> int:
    """Return the least cost of putting units into bins, each bin's costing first, first + step, and so on."""
    cost, level = 0, 0
    while amount and (open_bins := sum(capacity > level for capacity in capacities)):
        units = min(amount, open_bins)
        cost += units * (first + step * level)
        amount -= units
        level += 1
    return cost


def _least_zone_spread(problem: Problem) -> int:
    """Return the least sum of squares of primaries per zone, given that the one per host is least."""
    hosts, zones, unknown = _domains(problem)
    left = len(problem.sizes)
    if len(set(problem.hosts)) < len(problem.hosts):  # a host in several zones: leave the hosts out of it
        return _fill(max(0, left - unknown), zones.values(), 1, 2)
    level = 0
    while (more := sum(nodes > level for nodes in hosts.values())) <= left and more:
        left -= more
        level += 1
    sure: Counter[int] = Counter()
    room: Counter[int] = Counter()
    for host, zone in zip(problem.hosts, problem.zones, strict=True):
        sure[zone] += min(level, hosts[host])
        room[zone] += hosts[host] > level
    for _ in range(left - min(left, room[UNKNOWN])):
        zone = min((zone for zone in zones if room[zone]), key=sure.__getitem__)
        sure[zone] += 1
        room[zone] -= 1
    return sum(sure[zone] ** 2 for zone in zones)
