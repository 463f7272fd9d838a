"""Which place each node of a plan takes, so that a lost host or zone costs each shard as little as can be."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import TypeVar

from bootstrap.planning._search import UNKNOWN, Layout, Problem, Shard, deal, search, unpack

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one node sits: a declared host and, if known, its zone ("" = unknown, shared with nobody)."""

    host: str
    zone: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Score:
    """How far a placement is from ideal: lower is better, compared field by field in this order."""

    on_primary_host: int
    """Replicas on their primary's host."""
    pairs_on_host: int
    """Pairs of nodes of one shard on the same host."""
    in_primary_zone: int
    """Replicas in their primary's zone."""
    pairs_in_zone: int
    """Pairs of nodes of one shard in the same zone."""
    host_imbalance: int
    """Sum over the hosts of the square of the number of primaries there."""
    zone_imbalance: int
    """The same over the known zones."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Who sits where: plan nodes 0..P-1 are the primaries, in shard order; the others are replicas."""

    order: tuple[int, ...]
    """order[i]: the index, into the places given, of the place that plan node i takes."""
    primary_of: tuple[int, ...]
    """For plan nodes P.., in order: the plan index (0..P-1) of their primary."""
    score: Score


def place(places: Sequence[Place], replicas: Sequence[int]) -> Placement:
    """Return the best placement found of a primary with replicas[j] replicas for each j.

    It starts from what `valkey-cli --cluster create` does (valkey-cli.c, clusterManagerCommandCreate): take
    one node of each host in turn, let the first be the primaries, and give each of them the next replicas
    that are not on its host.  Only a better score changes that.  No placement has a better score where there
    are at most 8 nodes.  The result depends on nothing but the arguments.  ValueError unless there is at
    least one primary, no count is negative, and there is exactly one place for each node.
    """
    if not replicas or min(replicas) < 0 or len(replicas) + sum(replicas) != len(places):
        raise ValueError(f"{len(places)} places cannot hold primaries with {list(replicas)} replicas")
    order = interleave(places)
    problem, classes = _classify(places, order, replicas)
    primary_of = _pair(problem, classes, replicas, strict=False)
    layout = usual = _layout(classes, primary_of, len(replicas))
    if len(problem.stock) > 1:
        layout = search(problem, _starts(problem, classes, replicas, usual))
    if problem.cost(layout) < problem.cost(usual):
        order, primary_of = _seat(layout, order, classes)
    return Placement(tuple(order), tuple(primary_of), Score(*unpack(problem.cost(layout))))


def judge(shards: Sequence[Sequence[Place]]) -> Score:
    """Return the score of shards as they are: of each its primary's place, then those of its replicas."""
    places = [spot for shard in shards for spot in shard]
    replicas = [len(shard) - 1 for shard in shards]
    problem, classes = _classify(places, list(range(len(places))), replicas)
    left = iter(classes)
    layout = tuple((next(left), *sorted(islice(left, count))) for count in replicas)
    return Score(*unpack(problem.cost(layout)))


def interleave(places: Sequence[Place]) -> list[int]:
    """Return the indexes of the places with one of each host in turn, one host of each zone in turn.

    Hosts and zones come in order of their first appearance; without zones it is the order in which
    valkey-cli takes its nodes.
    """
    by_host: dict[str, list[int]] = {}
    for index, spot in enumerate(places):
        by_host.setdefault(spot.host, []).append(index)
    by_zone: dict[tuple[str, str], list[str]] = {}
    for host, indexes in by_host.items():
        zone = places[indexes[0]].zone
        by_zone.setdefault((zone, "" if zone else host), []).append(host)
    return _in_turn(by_host[host] for host in _in_turn(by_zone.values()))


def describe(score: Score, replicas: int, hosts: int, zones: int) -> tuple[str, ...]:
    """Return the sentences for a plan of so many replicas on so many hosts and known zones.

    What a lost host and a lost zone meet; nothing about zones if none is known, and nothing about replicas
    if there are none.
    """
    lines: list[str] = []
    if hosts == 1:
        lines.append("all nodes are on one host: a lost host loses the cluster")
    elif replicas:
        lines.append(_sharing(score.on_primary_host, replicas, "host"))
    if replicas and zones > 0:
        lines.append(_sharing(score.in_primary_zone, replicas, "zone"))
    return tuple(lines)


def _sharing(some: int, replicas: int, domain: str) -> str:
    noun = "replica shares" if replicas == 1 else "replicas share"
    return f"{some} of {replicas} {noun} a {domain} with {'its' if replicas == 1 else 'their'} primary"


def _in_turn(groups: Iterable[Sequence[_T]]) -> list[_T]:
    """Return the first of each group, then the second of each, and so on."""
    rows = zip_longest(*([(item,) for item in group] for group in groups))
    return [item[0] for row in rows for item in row if item]


def _classify(places: Sequence[Place], order: list[int], replicas: Sequence[int]) -> tuple[Problem, list[int]]:
    """Return the problem, and the class of each place in this order; classes are numbered as they appear."""
    hosts: dict[str, int] = {}
    zones: dict[str, int] = {"": UNKNOWN}
    stock: dict[tuple[int, int], int] = {}
    kinds: list[tuple[int, int]] = []
    for index in order:
        host = hosts.setdefault(places[index].host, len(hosts))
        zone = zones.setdefault(places[index].zone, len(zones) - 1)
        kinds.append((host, zone))
        stock[host, zone] = stock.get((host, zone), 0) + 1
    numbers = {kind: number for number, kind in enumerate(stock)}
    problem = Problem(
        hosts=tuple(host for host, _ in stock),
        zones=tuple(zone for _, zone in stock),
        stock=tuple(stock.values()),
        sizes=tuple(1 + count for count in replicas),
    )
    return problem, [numbers[kind] for kind in kinds]


def _starts(problem: Problem, classes: list[int], replicas: Sequence[int], usual: Layout) -> Iterator[Layout]:
    """Yield layouts from the most to the least like valkey-cli's, each made only if it is asked for."""
    yield usual
    yield _layout(classes, _pair(problem, classes, replicas, strict=True), len(replicas))
    yield deal(problem)


class _Crew:
    """A shard while it is put together: how its nodes are spread so far."""

    def __init__(self, problem: Problem, primary: int) -> None:
        self._problem = problem
        self._host, self._zone = problem.hosts[primary], problem.zones[primary]
        self._hosts: Counter[int] = Counter()
        self._zones: Counter[int] = Counter()
        self.replicas = -1
        self.add(primary)

    def add(self, kind: int) -> None:
        self.replicas += 1
        self._hosts[self._problem.hosts[kind]] += 1
        if self._problem.zones[kind] != UNKNOWN:
            self._zones[self._problem.zones[kind]] += 1

    def clashes(self, kind: int, strict: bool) -> tuple[int, ...]:
        """Return how badly a replica of this class fits: as valkey-cli sees it, or (strict) in every way."""
        host, zone = self._problem.hosts[kind], self._problem.zones[kind]
        if not strict:
            return (host == self._host,)
        return host == self._host, self._hosts[host], zone == self._zone != UNKNOWN, self._zones[zone]


def _pair(problem: Problem, classes: list[int], replicas: Sequence[int], strict: bool) -> list[int]:
    """Return the primary of each node after the primaries, as valkey-cli deals them.

    Each primary takes as many as every primary is to have, each time the first left that clashes least;
    then one each goes to those that still lack some.
    """
    primaries = len(replicas)
    primary_of = [0] * (len(classes) - primaries)
    # valkey-cli rotates what is left by one, so that a primary's first choice is on the next host.
    left = [*range(primaries + 1, len(classes)), *range(primaries, len(classes))[:1]]
    crews = [_Crew(problem, kind) for kind in classes[:primaries]]
    share = min(replicas)
    while left:
        for primary, (crew, wanted) in enumerate(zip(crews, replicas, strict=True)):
            for _ in range(min(share, wanted - crew.replicas)):
                node = left.pop(_best_fit(crew, left, classes, strict))
                crew.add(classes[node])
                primary_of[node - primaries] = primary
        share = 1
    return primary_of


def _best_fit(crew: _Crew, left: Sequence[int], classes: Sequence[int], strict: bool) -> int:
    """Return the index, in `left`, of the first node that clashes least with the crew."""
    ranked: dict[int, tuple[tuple[int, ...], int]] = {}
    for index, node in enumerate(left):
        kind = classes[node]
        if kind not in ranked:
            clashes = crew.clashes(kind, strict)
            if not any(clashes):
                return index
            ranked[kind] = clashes, index
    return min(ranked.values())[1]


def _layout(classes: list[int], primary_of: list[int], primaries: int) -> Layout:
    members: list[list[int]] = [[] for _ in range(primaries)]
    for kind, primary in zip(classes[primaries:], primary_of, strict=True):
        members[primary].append(kind)
    return tuple((kind, *sorted(rest)) for kind, rest in zip(classes, members, strict=False))


def _seat(layout: Layout, order: list[int], classes: list[int]) -> tuple[list[int], list[int]]:
    """Return order and primary_of for a layout; replicas stay in the order given.

    Primaries take the first places of their class, and shards of one size swap so that these ascend.
    """
    free: dict[int, deque[int]] = {}
    for seat, kind in enumerate(classes):
        free.setdefault(kind, deque()).append(seat)
    seated = [(free[shard[0]].popleft(), shard) for shard in layout]
    ascending: dict[int, deque[tuple[int, Shard]]] = {}
    for seat, shard in sorted(seated):
        ascending.setdefault(len(shard), deque()).append((seat, shard))
    shards = [ascending[len(shard)].popleft() for shard in layout]
    wanted = [(at, kind) for at, (_, shard) in enumerate(shards) for kind in shard[1:]]
    replicas = sorted((free[kind].popleft(), at) for at, kind in wanted)
    seats = [seat for seat, _ in shards] + [seat for seat, _ in replicas]
    return [order[seat] for seat in seats], [primary for _, primary in replicas]
