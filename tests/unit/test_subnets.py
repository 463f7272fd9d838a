"""The subnet of a cluster's network: room for everybody, nobody else's, and the same one again."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootstrap.errors import Conflict
from bootstrap.planning.subnets import POOL, SECOND_POOL, Network, choose_network

names = st.from_regex(r"[a-z][a-z0-9]{0,20}", fullmatch=True)
sizes = st.integers(1, 1000)
usual = settings(deadline=None, max_examples=100)


@st.composite
def subnets(draw: st.DrawFn) -> str:
    """Draw one as engines, interfaces and routes tell it: in the pool, around it or elsewhere."""
    if draw(st.integers(0, 9)) == 0:
        return "fd00::/64"
    prefix = draw(st.integers(12, 30))
    first = draw(st.integers(int(IPv4Address("172.16.0.0")), int(IPv4Address("172.31.255.255"))))
    network = ipaddress.ip_network((first, prefix), strict=False)
    return f"{network.network_address}/{draw(st.sampled_from([network.prefixlen, network.netmask]))}"


def check_room(found: Network, nodes: int) -> IPv4Network:
    """Everybody has a place of his own; the whole subnet."""
    subnet, clients = IPv4Network(found.subnet), IPv4Network(found.clients)
    fixed = [IPv4Address(found.address(index)) for index in range(nodes)]
    assert len(set(fixed)) == nodes
    lower, upper = subnet.subnets(prefixlen_diff=1)
    assert clients == upper
    assert all(each in lower for each in fixed)
    assert not {subnet.network_address, subnet.broadcast_address, IPv4Address(found.gateway)} & set(fixed)
    assert IPv4Address(found.gateway) in lower
    # Twice the nodes find a place, beside the network's own address and the gateway, and so many clients.
    assert lower.num_addresses - 2 >= 2 * nodes
    assert clients.num_addresses - 2 >= 2 * nodes
    assert subnet.subnet_of(POOL) or subnet.subnet_of(SECOND_POOL)
    return subnet


@usual
@given(names, sizes, st.lists(subnets(), max_size=30))
@example("valkey", 1, [])
@example("valkey", 1000, [])
@example("valkey", 6, ["172.16.0.0/12"])
def test_there_is_room_and_it_is_free(name: str, nodes: int, taken: list[str]) -> None:
    found = choose_network(name, nodes, taken)
    subnet = check_room(found, nodes)
    if not subnet.subnet_of(POOL):
        # Only where no subnet of this size is left there.
        others = [IPv4Network(each) for each in taken if ":" not in each]
        ways = POOL.subnets(new_prefix=subnet.prefixlen)
        assert all(any(one.overlaps(other) for other in others) for one in ways)
    assert not any(subnet.overlaps(IPv4Network(each)) for each in taken if ":" not in each)
    assert found.name == f"{name}-net"
    assert choose_network(name, nodes, list(taken)) == found


@pytest.mark.parametrize("nodes", [1, 13, 14, 15, 16, 29, 30, 31, 32, 33, 500, 510, 511, 512, 999, 1000])
def test_room_at_the_edges(nodes: int) -> None:
    check_room(choose_network("valkey", nodes, ()), nodes)


@usual
@given(names, sizes, st.lists(subnets(), max_size=10))
def test_what_others_have_elsewhere_makes_no_difference(name: str, nodes: int, taken: list[str]) -> None:
    first = choose_network(name, nodes, ())
    elsewhere = [each for each in taken if ":" in each or not IPv4Network(each).overlaps(IPv4Network(first.subnet))]
    assert choose_network(name, nodes, elsewhere) == first


def test_names_begin_in_different_places() -> None:
    found = {choose_network(f"cluster{number}", 6, ()).subnet for number in range(100)}
    assert len(found) > 90


@pytest.mark.parametrize("nodes", [1000, 200])
def test_the_pool_is_used_up_to_the_last_subnet(nodes: int) -> None:
    taken: list[str] = []

    def fill() -> None:
        while True:
            taken.append(choose_network(f"c{len(taken)}x", nodes, taken).subnet)

    with pytest.raises(Conflict) as caught:
        fill()
    assert sum(IPv4Network(each).num_addresses for each in taken) == POOL.num_addresses + SECOND_POOL.num_addresses
    assert len({IPv4Network(each) for each in taken}) == len(taken)
    assert caught.value.code == "no-free-subnet"
    assert caught.value.exit_code == 4
    assert f"{nodes} nodes" in caught.value.message
    assert "docker network prune" in caught.value.hint
    # A smaller one fits as soon as there is a gap.
    assert IPv4Network(choose_network("small", 1, taken[1:]).subnet).subnet_of(IPv4Network(taken[0]))
