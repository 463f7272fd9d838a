"""No placement of a small cluster has a better score: everything else is tried."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.planning.placement import Place, Placement, Score, place

Case = tuple[list[Place], list[int]]
Spots = tuple[tuple[str, str], ...]
Costs = tuple[int, int, int, int]


def pairs(names: Sequence[str]) -> int:
    return sum(one == other != "" for one, other in combinations(names, 2))


def shard_score(primary: tuple[str, str], replicas: Sequence[tuple[str, str]]) -> Costs:
    hosts = [primary[0], *(host for host, _ in replicas)]
    zones = [primary[1], *(zone for _, zone in replicas)]
    on_host = sum(host == primary[0] for host in hosts[1:])
    in_zone = sum(zone == primary[1] != "" for zone in zones[1:])
    return on_host, pairs(hosts), in_zone, pairs(zones)


def squares(names: Sequence[str]) -> int:
    return sum(number**2 for name, number in Counter(names).items() if name)


def added(one: Costs, other: Costs) -> Costs:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def best_score(places: Sequence[Place], replicas: Sequence[int]) -> Score:
    """Try every primary and every set of replicas for each shard in turn.

    Of two ways to the same places left over and the same primaries, only the cheaper is followed.
    """
    start: tuple[Spots, Spots] = (tuple(sorted((spot.host, spot.zone) for spot in places)), ())
    ways: dict[tuple[Spots, Spots], Costs] = {start: (0, 0, 0, 0)}
    for wanted in replicas:
        longer: dict[tuple[Spots, Spots], Costs] = {}
        for (left, primaries), so_far in ways.items():
            for members in set(combinations(left, wanted + 1)):
                rest = tuple(sorted((Counter(left) - Counter(members)).elements()))
                for primary in set(members):
                    others = list(members)
                    others.remove(primary)
                    total = added(so_far, shard_score(primary, others))
                    way = rest, tuple(sorted((*primaries, primary)))
                    longer[way] = min(total, longer.get(way, total))
        ways = longer
    return min(
        Score(*total, squares([host for host, _ in primaries]), squares([zone for _, zone in primaries]))
        for (_, primaries), total in ways.items()
    )


def score_of(places: Sequence[Place], replicas: Sequence[int], result: Placement) -> Score:
    """Return the score that the order and the pairs of a placement really have."""
    spots = [(places[index].host, places[index].zone) for index in result.order]
    shards: list[list[tuple[str, str]]] = [[] for _ in replicas]
    for spot, primary in zip(spots[len(replicas) :], result.primary_of, strict=True):
        shards[primary].append(spot)
    total: Costs = (0, 0, 0, 0)
    for spot, shard in zip(spots, shards, strict=False):
        total = added(total, shard_score(spot, shard))
    heads = spots[: len(replicas)]
    return Score(*total, squares([host for host, _ in heads]), squares([zone for _, zone in heads]))


@st.composite
def clusters(draw: st.DrawFn, most: int) -> Case:
    """Draw up to `most` nodes on 1..5 hosts in 0..3 zones, with any division into shards."""
    replicas: list[int] = []
    room = draw(st.integers(1, most))
    while room:
        size = draw(st.integers(1, room))
        replicas.append(size - 1)
        room -= size
    zones = ["", *(f"z{number}" for number in range(draw(st.integers(0, 3))))]
    hosts = [f"h{number}" for number in range(draw(st.integers(1, 5)))]
    homes = {host: draw(st.sampled_from(zones)) for host in hosts}
    stray = draw(st.booleans())
    nodes = len(replicas) + sum(replicas)
    names = draw(st.lists(st.sampled_from(hosts), min_size=nodes, max_size=nodes))
    return [Place(name, draw(st.sampled_from(zones)) if stray else homes[name]) for name in names], replicas


@settings(deadline=None, max_examples=300)
@given(clusters(most=8))
def test_nothing_is_better(case: Case) -> None:
    places, replicas = case
    result = place(places, replicas)
    assert result.score == score_of(places, replicas, result)
    assert result.score == best_score(places, replicas)


@settings(deadline=None, max_examples=100)
@given(clusters(most=30))
def test_every_place_is_taken_once_and_every_primary_has_its_replicas(case: Case) -> None:
    places, replicas = case
    result = place(places, replicas)
    assert sorted(result.order) == list(range(len(places)))
    assert [result.primary_of.count(primary) for primary in range(len(replicas))] == list(replicas)
    assert result.score == score_of(places, replicas, result)
    assert result == place(list(places), list(replicas))
