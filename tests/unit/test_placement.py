"""Placements that are known, and what the plan says about them."""

from __future__ import annotations

from collections import Counter

import pytest

from bootstrap.planning.placement import Place, Placement, Score, describe, interleave, place


def on(*hosts: str) -> list[Place]:
    """Return one place for each name, "host" or "host@zone"."""
    return [Place(*name.split("@")) for name in hosts]


def shards(places: list[Place], result: Placement, primaries: int) -> list[tuple[str, str]]:
    """Return, for each shard, its primary's host and its replicas' hosts joined."""
    hosts = [places[index].host for index in result.order]
    pairs = list(zip(result.primary_of, hosts[primaries:], strict=True))
    return [(hosts[shard], "".join(host for at, host in pairs if at == shard)) for shard in range(primaries)]


@pytest.mark.parametrize(
    ("replicas", "primary_of"),
    [([1, 1, 1], (2, 0, 1)), ([1, 1], (1, 0)), ([2, 1], (0, 0, 1)), ([0, 0, 0], ()), ([2], (0, 0))],
)
def test_one_host_is_paired_as_valkey_cli_does(replicas: list[int], primary_of: tuple[int, ...]) -> None:
    nodes = len(replicas) + sum(replicas)
    result = place(on(*["h"] * nodes), replicas)
    assert result.order == tuple(range(nodes))
    assert result.primary_of == primary_of


def test_hosts_are_interleaved() -> None:
    places = on("h1", "h1", "h2", "h2", "h3", "h3")
    result = place(places, [1, 1, 1])
    assert result.order == (0, 2, 4, 1, 3, 5)
    assert result.primary_of == (2, 0, 1)
    assert shards(places, result, 3) == [("h1", "h2"), ("h2", "h3"), ("h3", "h1")]
    assert result.score == Score(0, 0, 0, 0, 3, 0)


def test_zones_are_interleaved() -> None:
    assert interleave(on("a1@a", "a2@a", "b1@b", "b2@b", "c1@c", "a1@a")) == [0, 2, 4, 1, 3, 5]
    assert interleave(on("x", "y", "x", "z", "y")) == [0, 1, 3, 2, 4]


def test_a_zone_is_left_though_valkey_cli_would_stay_in_it() -> None:
    places = on("a1@a", "a2@a", "b1@b", "b2@b")
    result = place(places, [1, 1])
    assert result.score == Score(0, 0, 0, 0, 2, 2)


def test_both_primaries_share_a_host_if_that_keeps_the_replicas_off_it() -> None:
    places = on("X", "X", "Y", "Y", "Y", "Y")
    result = place(places, [2, 2])
    assert shards(places, result, 2) == [("X", "YY"), ("X", "YY")]
    assert result.order == (0, 1, 2, 3, 4, 5)


def test_the_primarys_host_matters_more_than_pairs() -> None:
    places = on(*["X"] * 4, *["Y"] * 4)
    result = place(places, [3, 3])
    assert shards(places, result, 2) == [("X", "YYY"), ("Y", "XXX")]
    assert result.score == Score(0, 6, 0, 0, 2, 0)


def test_an_unknown_zone_is_shared_with_nobody() -> None:
    result = place(on("x", "y"), [1])
    assert result.score == Score(0, 0, 0, 0, 1, 0)
    assert place(on("x@z", "y@z"), [1]).score == Score(0, 0, 1, 1, 1, 1)


def test_the_same_arguments_give_the_same_placement() -> None:
    places = [Place(f"h{number * number % 7}", f"z{number % 3}") for number in range(40)]
    assert place(places, [3] * 10) == place(list(places), (3,) * 10)


@pytest.mark.parametrize(
    ("nodes", "replicas", "score"),
    [
        (1000, 1, Score(0, 0, 0, 0, 5000, 83400)),
        (999, 2, Score(0, 0, 0, 13, 2229, 36987)),
        (1000, 4, Score(0, 0, 0, 400, 832, 13600)),
    ],
)
def test_a_thousand_nodes_on_fifty_hosts_in_three_zones(nodes: int, replicas: int, score: Score) -> None:
    places = [Place(f"h{number % 50}", f"z{number % 50 % 3}") for number in range(nodes)]
    result = place(places, [replicas] * (nodes // (replicas + 1)))
    assert result.score <= score
    assert sorted(result.order) == list(range(nodes))
    assert set(Counter(result.primary_of).values()) == {replicas}


@pytest.mark.parametrize(("nodes", "replicas"), [(0, []), (3, [1]), (2, [1, 1]), (2, [2, -1]), (1, [])])
def test_places_and_replicas_must_match(nodes: int, replicas: list[int]) -> None:
    with pytest.raises(ValueError, match=f"{nodes} places"):
        place(on(*["h"] * nodes), replicas)


@pytest.mark.parametrize(
    ("score", "replicas", "hosts", "zones", "lines"),
    [
        (Score(0, 0, 0, 0, 3, 0), 6, 3, 0, ("0 of 6 replicas share a host with their primary",)),
        (
            Score(1, 1, 2, 2, 3, 3),
            6,
            3,
            2,
            (
                "1 of 6 replicas share a host with their primary",
                "2 of 6 replicas share a zone with their primary",
            ),
        ),
        (Score(1, 1, 0, 0, 1, 0), 1, 1, 0, ("all nodes are on one host: a lost host loses the cluster",)),
        (Score(0, 0, 0, 0, 3, 0), 0, 1, 0, ("all nodes are on one host: a lost host loses the cluster",)),
        (Score(0, 0, 0, 0, 1, 0), 1, 2, 0, ("0 of 1 replica shares a host with its primary",)),
        (Score(0, 0, 0, 0, 3, 3), 0, 3, 3, ()),
    ],
)
def test_sentences(score: Score, replicas: int, hosts: int, zones: int, lines: tuple[str, ...]) -> None:
    assert describe(score, replicas, hosts, zones) == lines
