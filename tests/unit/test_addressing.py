"""How containers announce themselves: what is chosen where, what is refused, and what it means for one node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bootstrap.errors import UsageError
from bootstrap.planning.addressing import (
    HOST_GATEWAY,
    LOOPBACK,
    Address,
    Announcement,
    Audience,
    NodeAddresses,
    Reach,
    Strategy,
    announcement_notes,
    announcement_warnings,
    choose_announcement,
    given,
    loopback,
    neighbours_needed,
    reach,
    serves,
)
from bootstrap.planning.site import Engine, EnginePlace, Host, Resolved, ServerInfo, Site, Version
from bootstrap.planning.spec import RESERVED_SETTINGS, ClusterSpec

PLACES: tuple[EnginePlace, ...] = ("local", "desktop", "rootless", "nested", "remote", "dind")
STRATEGIES: tuple[Strategy, ...] = ("fixed-address", "gateway", "host-name", "client-address", "same-port")
NEW = ServerInfo("valkey", (8, 1, 0), "image")
OLD = ServerInfo("valkey", (8, 0, 3), "image")
REDIS = ServerInfo("redis", (7, 0, 15), "image")
HERE = Resolved("127.0.1.1", "loopback")
LAN = Resolved("192.168.1.5", "own")
FAR = Resolved("203.0.113.9", "elsewhere")


def choose(
    place: EnginePlace, server: ServerInfo = NEW, *, machine: Resolved | None = None, **asked: Any
) -> Announcement:
    names = {"me.lan": machine} if machine else {}
    engine = Engine(place, "28.0.0", machine="me.lan")
    return choose_announcement(
        ClusterSpec(**{"insecure": True, **asked}), Site("docker", (Host("h"),), server, engine=engine, names=names)
    )


@pytest.mark.parametrize(
    ("place", "server", "machine", "strategy"),
    [
        ("local", NEW, None, "fixed-address"),
        ("local", REDIS, LAN, "fixed-address"),
        ("nested", NEW, None, "gateway"),
        ("nested", REDIS, HERE, "gateway"),
        ("rootless", NEW, HERE, "client-address"),
        ("rootless", OLD, None, "same-port"),
        ("rootless", REDIS, None, "same-port"),
        # Only where the machine's name leads to it from both sides, and opens no port to the local network.
        ("desktop", NEW, HERE, "host-name"),
        ("desktop", REDIS, HERE, "host-name"),
        ("desktop", NEW, LAN, "client-address"),
        ("desktop", NEW, FAR, "client-address"),
        ("desktop", NEW, None, "client-address"),
        ("dind", NEW, FAR, "host-name"),
        ("dind", REDIS, FAR, "host-name"),
        ("desktop", OLD, LAN, "same-port"),
        ("desktop", REDIS, None, "same-port"),
    ],
)
def test_what_is_chosen_where(
    place: EnginePlace, server: ServerInfo, machine: Resolved | None, strategy: Strategy
) -> None:
    chosen = choose(place, server, machine=machine)
    assert chosen.strategy == strategy
    assert chosen.why
    leads_to = machine.address if machine else ""
    assert (chosen.name, chosen.address) == (("me.lan", leads_to) if strategy == "host-name" else ("", ""))


def test_a_remote_engine_needs_a_name() -> None:
    with pytest.raises(UsageError) as caught:
        choose("remote", machine=LAN)
    assert caught.value.code == "remote-engine"
    assert "--announce-host me.lan" in caught.value.hint


@pytest.mark.parametrize("place", ["remote", "dind"])
@pytest.mark.parametrize("leads_to", [HERE, LAN])
def test_a_name_of_ours_does_not_lead_to_an_engine_elsewhere(place: EnginePlace, leads_to: Resolved) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, machine=leads_to, announce_host="me.lan")
    assert caught.value.code == "announce-host-elsewhere"
    assert f"me.lan leads to {leads_to.address}, which is here" in caught.value.message


def test_an_address_is_announced_without_a_mapping() -> None:
    chosen = Announcement("host-name", "because", FAR.address, FAR.address, FAR.address, FAR.address)
    assert chosen.mapping == ()
    reached = reach(chosen, "valkey1", 6380, "172.28.0.3", "172.28.0.1")
    assert reached.hosts == ()
    assert reached.addresses.meet == reached.addresses.announced == Address("203.0.113.9", 6380)


def test_a_full_neighbour_table_leads_to_the_gateway() -> None:
    def chosen(neighbours: int, nodes: int) -> Announcement:
        engine = Engine("local", "28.0.0", neighbours=neighbours)
        return choose_announcement(ClusterSpec(nodes=nodes), Site("docker", (Host("h"),), NEW, engine=engine))

    # 31 nodes: 30 others each, this machine on both sides.
    assert neighbours_needed(31) == 31 * 30 + 31 * 2
    assert chosen(992, 31).strategy == "fixed-address"
    full = chosen(991, 31)
    assert full.strategy == "gateway"
    assert "991" in full.why
    assert "992" in full.why
    assert chosen(0, 1000).strategy == "fixed-address", "unknown is no reason"


WORKS: dict[Strategy, set[EnginePlace]] = {
    "fixed-address": {"local"},
    "gateway": {"local", "nested"},
    "client-address": {"local", "desktop", "rootless"},
    "same-port": {"local", "desktop", "rootless"},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("strategy", WORKS)
@pytest.mark.parametrize("server", [NEW, OLD, REDIS], ids=str)
@pytest.mark.parametrize("publish", [True, False])
def test_what_is_asked_for_is_taken_or_refused(
    place: EnginePlace, strategy: Strategy, server: ServerInfo, publish: bool
) -> None:
    needs_new, needs_publish = strategy == "client-address", strategy in ("client-address", "same-port")
    if place in WORKS[strategy] and (server is NEW or not needs_new) and (publish or not needs_publish):
        chosen = choose(place, server, announce=strategy, publish=publish)
        assert chosen == Announcement(strategy, "--announce says so")
        return
    with pytest.raises(UsageError) as caught:
        choose(place, server, announce=strategy, publish=publish)
    assert caught.value.code == "announce-impossible"
    assert caught.value.message.startswith(f"--announce {strategy} ")
    assert caught.value.hint == "leave out --announce"


@pytest.mark.parametrize(
    ("place", "asked", "server", "words"),
    [
        ("desktop", {"announce": "fixed-address"}, NEW, "needs an engine on this Linux machine"),
        ("desktop", {"announce": "gateway"}, NEW, "and this one is in a virtual machine"),
        ("rootless", {"announce": "gateway"}, NEW, "and this one is rootless"),
        ("nested", {"announce": "fixed-address"}, NEW, "cannot be reached from the network of another container"),
        ("nested", {"announce": "same-port"}, NEW, "is for clients on the engine's own machine"),
        ("remote", {"announce": "client-address"}, NEW, "this one is on another machine"),
        ("dind", {"announce": "client-address"}, NEW, "this one is in a container of its own"),
        ("dind", {"announce": "gateway"}, NEW, "needs an engine on this Linux machine"),
        ("local", {"announce": "same-port", "publish": False}, NEW, "--no-publish forbids them"),
        ("local", {"announce": "client-address"}, REDIS, "needs Valkey 8.1 or newer, and this is redis 7.0.15"),
        ("local", {"announce": "client-address"}, OLD, "same-port does the same"),
    ],
)
def test_a_refusal_says_why(place: EnginePlace, asked: dict[str, Any], server: ServerInfo, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, server, **asked)
    assert words in caught.value.message


@pytest.mark.parametrize("announce", ["auto", "host-name"])
@pytest.mark.parametrize(
    ("place", "leads_to", "gateway", "mapped"),
    [
        ("local", HERE, HOST_GATEWAY, "host-gateway"),
        ("local", LAN, HOST_GATEWAY, "host-gateway"),
        ("rootless", HERE, HOST_GATEWAY, "host-gateway"),
        # A virtual machine hands what containers send to its host on to the loopback interface there.
        ("desktop", HERE, LOOPBACK, "host-gateway"),
        ("desktop", LAN, LOOPBACK, "host-gateway"),
        # Where the engine's machine has one address for everybody.
        ("remote", FAR, "203.0.113.9", "203.0.113.9"),
        ("dind", FAR, "203.0.113.9", "203.0.113.9"),
    ],
)
def test_a_name_is_announced_where_it_leads_to_the_engine(
    place: EnginePlace, leads_to: Resolved, gateway: str, mapped: str, announce: Any
) -> None:
    chosen = choose(place, REDIS, machine=leads_to, announce=announce, announce_host="me.lan")
    assert (chosen.strategy, chosen.name, chosen.address) == ("host-name", "me.lan", leads_to.address)
    assert chosen.gateway == gateway
    assert chosen.mapping == (("me.lan", mapped),)
    reached = reach(chosen, "valkey1", 6380, "172.28.0.3", "172.28.0.1")
    # What nodes meet is published there, but for a virtual machine, which hands it on.
    assert place == "desktop" or {reached.addresses.meet, reached.addresses.bus} <= set(reached.published)


@pytest.mark.parametrize("place", PLACES)
def test_a_name_that_leads_nowhere_is_refused(place: EnginePlace) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, machine=HERE, announce_host="you.lan")
    assert caught.value.code == "announce-host-unknown"
    assert "you.lan leads nowhere" in caught.value.message
    assert "`127.0.0.1 you.lan` to /etc/hosts" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "asked", "leads_to"),
    [
        ("local", {"announce_host": "me.lan"}, LAN),
        ("desktop", {"announce_host": "me.lan"}, LAN),
        ("remote", {"announce_host": "me.lan"}, FAR),
        ("local", {"expose": "me.lan"}, LAN),
    ],
)
def test_ports_are_opened_to_others_with_a_password(
    place: EnginePlace, asked: dict[str, Any], leads_to: Resolved
) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, machine=leads_to, insecure=False, **asked)
    assert caught.value.code == "password-demanded"
    assert f"open to the network of {leads_to.address if 'expose' not in asked else 'me.lan'}" in caught.value.message
    for allowed in ({"user": "default"}, {"insecure": True}):
        assert choose(place, machine=leads_to, **{"insecure": False, **asked, **allowed}).address


@pytest.mark.parametrize(
    ("server", "announce", "strategy"),
    [
        (NEW, "auto", "client-address"),
        (REDIS, "auto", "same-port"),
        (OLD, "auto", "same-port"),
        (NEW, "same-port", "same-port"),
    ],
)
def test_an_address_of_the_local_network(server: ServerInfo, announce: Any, strategy: Strategy) -> None:
    site = Site("docker", (Host("h"),), server, engine=Engine("local", "28.0.0"), names={LAN.address: LAN})
    spec = ClusterSpec(expose=LAN.address, announce=announce, user="default")
    chosen = choose_announcement(spec, site)
    assert (chosen.strategy, chosen.address) == (strategy, LAN.address)
    assert serves(chosen) == {"host", "network"}
    reached = reach(chosen, "valkey1", 6380, "172.28.0.3", "172.28.0.1")
    there = Address(LAN.address, 6380)
    # The bus stays inside: it knows no passwords.
    assert reached.published == (there,)
    assert reached.addresses == NodeAddresses(there, there, there, INSIDE, 16380, there)
    assert "192.168.1.5" in dict(reached.settings).values()
    (warning,) = announcement_warnings(chosen, spec, Engine("local", "28.0.0"))
    assert "can be read by others" in warning
    assert not announcement_warnings(chosen, replace(spec, tls=True), Engine("local", "28.0.0"))[0].count("--tls")


@pytest.mark.parametrize("place", ["nested", "remote", "dind"])
def test_only_an_engine_of_this_machine_opens_ports_of_it(place: EnginePlace) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, expose=LAN.address)
    assert caught.value.code == "publish-impossible"


@pytest.mark.parametrize("resolved", [FAR, HERE, None])
def test_an_address_of_another_machine_is_not_opened(resolved: Resolved | None) -> None:
    with pytest.raises(UsageError, match="is no address of this machine"):
        choose("local", machine=resolved, expose="me.lan")


def test_an_address_of_ours_is_no_name_for_containers() -> None:
    site = Site("docker", (Host("h"),), NEW, engine=Engine("local", "28.0.0"), names={LAN.address: LAN})
    with pytest.raises(UsageError) as caught:
        choose_announcement(ClusterSpec(announce_host=LAN.address), site)
    assert caught.value.code == "announce-host-address"
    assert "`192.168.1.5 myhost.local`" in caught.value.hint


@pytest.mark.parametrize("place", ["local", "desktop", "rootless"])
def test_a_name_of_another_machine_is_refused(place: EnginePlace) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, machine=FAR, announce_host="me.lan")
    assert caught.value.code == "announce-host-elsewhere"
    assert "me.lan leads to 203.0.113.9" in caught.value.message
    assert "/etc/hosts" in caught.value.hint


HOST, INSIDE, GATEWAY = Address(LOOPBACK, 6380), Address("172.28.0.3", 6380), Address("172.28.0.1", 6380)
NAMED, LOCAL_NAME = Address("me.lan", 6380), Address("localhost", 6380)


def on(host: str) -> Address:
    """The bus port of a node at a host."""
    return Address(host, 16380)


def announces(host: str) -> dict[str, str]:
    return {
        "cluster-announce-ip": host,
        "cluster-announce-port": "6380",
        "cluster-announce-bus-port": "16380",
        "replica-announce-ip": host,
        "replica-announce-port": "6380",
    }


def means(strategy: Strategy, *, publish: bool = True) -> Reach:
    chosen = Announcement(strategy, "because")
    if strategy == "host-name":
        chosen = Announcement(strategy, "because", "me.lan", "192.168.1.5", HOST_GATEWAY, HOST_GATEWAY)
    return reach(chosen, "valkey1", 6380, "172.28.0.3", "172.28.0.1", publish=publish)


@pytest.mark.parametrize(
    ("strategy", "host", "network", "control", "meet", "announced", "published"),
    [
        ("fixed-address", HOST, Address("valkey1", 6380), INSIDE, INSIDE, INSIDE, {HOST}),
        ("gateway", HOST, GATEWAY, GATEWAY, GATEWAY, GATEWAY, {HOST, GATEWAY, on("172.28.0.1")}),
        (
            "host-name",
            NAMED,
            NAMED,
            Address("192.168.1.5", 6380),
            Address(HOST_GATEWAY, 6380),
            NAMED,
            {Address(HOST_GATEWAY, 6380), on(HOST_GATEWAY), Address("192.168.1.5", 6380)},
        ),
        ("client-address", HOST, None, HOST, INSIDE, HOST, {HOST}),
        ("same-port", HOST, None, HOST, INSIDE, LOCAL_NAME, {HOST}),
    ],
)
def test_where_a_node_is_reached(  # noqa: PLR0917 - the columns of a table
    strategy: Strategy,
    host: Address,
    network: Address | None,
    control: Address,
    meet: Address,
    announced: Address,
    published: set[Address],
) -> None:
    reached = means(strategy)
    assert reached.addresses == NodeAddresses(host, network, control, meet, 16380, announced)
    by: dict[Audience, Address | None] = {"host": host, "network": network}
    assert {audience: reached.addresses.of(audience) for audience in by} == by
    assert reached.addresses.bus == on(meet.host)
    assert set(reached.published) == published
    assert len(reached.published) == len(published), "an engine refuses the same port twice"
    assert reached.hosts == ((("me.lan", "host-gateway"),) if strategy == "host-name" else ())


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("fixed-address", {"cluster-announce-ip": "172.28.0.3"}),
        ("gateway", announces("172.28.0.1")),
        ("host-name", announces("me.lan")),
        ("client-address", {"cluster-announce-ip": "172.28.0.3", "cluster-announce-client-ipv4": "127.0.0.1"}),
        (
            "same-port",
            {
                "cluster-announce-ip": "172.28.0.3",
                "cluster-announce-hostname": "localhost",
                "cluster-preferred-endpoint-type": "hostname",
            },
        ),
    ],
)
def test_what_a_node_is_told_to_announce(strategy: Strategy, settings: dict[str, str]) -> None:
    reached = means(strategy)
    assert dict(reached.settings) == settings
    assert settings.keys() <= RESERVED_SETTINGS.keys(), "a user could undo it"


@pytest.mark.parametrize(
    ("strategy", "host", "published"),
    [
        ("fixed-address", INSIDE, set()),
        ("gateway", GATEWAY, {GATEWAY, on("172.28.0.1")}),
    ],
)
def test_nothing_is_published_on_this_machine_where_that_is_not_wanted(
    strategy: Strategy, host: Address, published: set[Address]
) -> None:
    reached = means(strategy, publish=False)
    assert reached.addresses.host == host
    assert set(reached.published) == published


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_way_leads_to_the_container_or_to_a_published_port(strategy: Strategy) -> None:
    reached = means(strategy)
    leads_in = {INSIDE, on(INSIDE.host), Address("valkey1", 6380), *reached.published}
    # What names lead to: the announced one on this machine and inside, localhost everywhere.
    if strategy == "host-name":
        leads_in |= {NAMED}
    if strategy == "same-port":
        leads_in |= {LOCAL_NAME}
    where = reached.addresses
    ways = [where.host, where.control, where.meet, where.bus, where.announced]
    assert {each for each in (*ways, where.network) if each} <= leads_in


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("version", "publish", "noted"),
    [("20.10.24", True, True), ("27.5.1", True, True), ("28.0.0", True, False), ("27.5.1", False, False)],
)
def test_an_engine_that_lets_neighbours_in_is_noted(
    strategy: Strategy, version: str, publish: bool, noted: bool
) -> None:
    chosen = Announcement(strategy, "because", "me.lan")
    reason, *more = announcement_notes(chosen, ClusterSpec(publish=publish), Engine("local", version))
    assert strategy in reason
    assert reason.endswith("because")
    if strategy in ("gateway", "host-name"):
        # Addresses of this machine: no engine keeps a neighbour from them.
        assert more == ["a neighbour that routes to the containers' network reaches the ports published there"]
    elif not noted and (strategy == "fixed-address" or version == "28.0.0"):
        assert not more
    else:
        (note,) = more
        assert f"Docker {version} lets a neighbour" in note
        assert ("--no-publish closes that" in note) == (strategy == "fixed-address")


@pytest.mark.parametrize("place", ["desktop", "rootless", "remote", "dind"])
@pytest.mark.parametrize("strategy", ["host-name", "client-address", "same-port"])
def test_neighbours_of_other_machines_are_not_guessed_at(place: EnginePlace, strategy: Strategy) -> None:
    assert len(announcement_notes(Announcement(strategy, "because"), ClusterSpec(), Engine(place, "20.10.24"))) == 1


@pytest.mark.parametrize("version", ["", "edge", "library-import"])
def test_an_engine_without_a_version_is_not_accused(version: str) -> None:
    chosen = Announcement("fixed-address", "because")
    assert len(announcement_notes(chosen, ClusterSpec(), Engine("local", version))) == 1


@pytest.mark.parametrize(
    ("strategy", "address", "warned"),
    [
        ("host-name", "192.168.1.5", True),
        ("host-name", "10.0.0.1", True),
        ("host-name", "127.0.0.1", False),
        ("host-name", "127.0.1.1", False),
        ("gateway", "", False),
        ("same-port", "", False),
    ],
)
def test_a_name_that_opens_ports_to_the_network_is_warned_of(strategy: Strategy, address: str, warned: bool) -> None:
    chosen = Announcement(strategy, "because", "me.lan", address)
    warnings = announcement_warnings(chosen, ClusterSpec(), Engine("local", "28.0.0"))
    assert len(warnings) == warned
    assert all(f"me.lan leads to {address}: the ports are open" in each for each in warnings)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("neighbours", "full"), [(991, True), (992, False), (0, False)])
def test_more_nodes_than_the_kernel_can_connect_are_warned_of(strategy: Strategy, neighbours: int, full: bool) -> None:
    # Through the gateway, and by a name that leads there, every container has one neighbour.
    chosen = Announcement(strategy, "because", "me.lan", "127.0.0.1")
    warnings = announcement_warnings(chosen, ClusterSpec(nodes=31), Engine("local", "28.0.0", neighbours=neighbours))
    assert bool(warnings) == (full and strategy not in ("gateway", "host-name"))
    assert all("31 nodes need 992 entries" in each and "gc_thresh3" in each for each in warnings)


@pytest.mark.parametrize(
    ("setting", "before", "since"),
    [
        ("cluster-announce-human-nodename", (7, 1, 999), (7, 2, 0)),
        ("cluster-ping-interval", (7, 1, 999), (7, 2, 0)),
        ("availability-zone", (7, 2, 9), (8, 0, 0)),
        ("cluster-announce-client-ipv4", (8, 0, 9), (8, 1, 0)),
    ],
)
def test_settings_that_only_newer_servers_know(setting: str, before: Version, since: Version) -> None:
    assert not ServerInfo("valkey", before, "").has(setting)
    assert ServerInfo("valkey", since, "").has(setting)
    assert ServerInfo("valkey", (10, 0, 0), "").has(setting)
    # Redis has none of them, whatever its version.
    assert not ServerInfo("redis", (8, 4, 0), "").has(setting)
    assert ServerInfo("redis", (7, 0, 0), "").has("cluster-announce-hostname")


def test_servers_of_this_machine_have_one_address_for_everybody() -> None:
    here = Address("127.0.0.1", 7000)
    assert loopback(7000) == NodeAddresses(here, here, here, here, 17000, None)


def test_servers_of_others_are_met_by_what_their_name_led_to() -> None:
    there, met = Address("db1.lan", 7000), Address("10.0.0.1", 7000)
    assert given(there, "10.0.0.1") == NodeAddresses(there, there, there, met, 17000, None)
    assert given(there, "10.0.0.1", 7001).bus == Address("10.0.0.1", 7001)


def test_the_json_form_of_addresses() -> None:
    assert means("gateway").addresses.as_dict() == {
        "host": "127.0.0.1:6380",
        "network": "172.28.0.1:6380",
        "announced": "172.28.0.1:6380",
        "bus": "172.28.0.1:16380",
    }
    assert means("same-port").addresses.as_dict() == {
        "host": "127.0.0.1:6380",
        "network": None,
        "announced": "localhost:6380",
        "bus": "172.28.0.3:16380",
    }
    assert loopback(7000).as_dict()["announced"] is None


@pytest.mark.parametrize("text", ["127.0.0.1:6379", "valkey0:1", "[::1]:65535"])
def test_an_address_reads_back(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "::1:6379", "a b:1", "u@h:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("place", ["desktop", "rootless", "dind"])
def test_without_published_ports_nobody_would_get_through(place: EnginePlace) -> None:
    names = {"me.lan": Resolved("127.0.0.1", "loopback")}
    found = Site("docker", (Host("vm"),), NEW, engine=Engine(place, "28.0.0", machine="me.lan"), names=names)
    with pytest.raises(UsageError) as caught:
        choose_announcement(ClusterSpec(publish=False), found)
    assert caught.value.code == "announce-impossible"
    assert caught.value.hint == "leave out --no-publish"


@pytest.mark.parametrize(("whose", "taken"), [("loopback", False), ("own", False), ("elsewhere", True)])
def test_in_a_container_a_name_must_lead_out_of_it(whose: Any, taken: bool) -> None:
    names = {"out.lan": Resolved("172.17.0.1", whose)}
    found = Site("docker", (Host("vm"),), NEW, engine=Engine("nested", "28.0.0"), names=names)
    spec = ClusterSpec(announce_host="out.lan")
    if taken:
        chosen = choose_announcement(spec, found)
        assert (chosen.strategy, chosen.address) == ("host-name", "172.17.0.1")
        return
    with pytest.raises(UsageError) as caught:
        choose_announcement(spec, found)
    assert caught.value.code == "announce-host-elsewhere"
    assert "--add-host out.lan:host-gateway" in caught.value.hint


@pytest.mark.parametrize(
    ("place", "asked", "strategy", "served"),
    [
        ("local", {"audience": "both"}, "fixed-address", {"host", "network"}),
        ("local", {"audience": "host"}, "fixed-address", {"host", "network"}),
        ("local", {"audience": "network"}, "fixed-address", {"host", "network"}),
        ("local", {"audience": "host", "announce": "client-address"}, "client-address", {"host"}),
        ("nested", {"audience": "both"}, "gateway", {"host", "network"}),
        ("dind", {"audience": "both"}, "host-name", {"host", "network"}),
        ("desktop", {"audience": "host"}, "client-address", {"host"}),
        ("desktop", {"audience": "network"}, "fixed-address", {"network"}),
        ("desktop", {"audience": "network", "announce": "fixed-address"}, "fixed-address", {"network"}),
        ("desktop", {"audience": "both", "announce_host": "me.lan"}, "host-name", {"host", "network"}),
        ("rootless", {"audience": "network"}, "fixed-address", {"network"}),
        ("rootless", {"audience": "auto"}, "client-address", {"host"}),
    ],
)
def test_a_strategy_serves_the_audience_that_is_asked_for(
    place: EnginePlace, asked: dict[str, Any], strategy: Strategy, served: set[str]
) -> None:
    machine = FAR if place == "dind" else HERE if "announce_host" in asked else None
    chosen = choose(place, NEW, machine=machine, **asked)
    assert chosen.strategy == strategy
    assert serves(chosen) == served


@pytest.mark.parametrize(
    ("place", "asked", "words", "hint"),
    [
        (
            "rootless",
            {"audience": "both"},
            "client-address does not serve programs beside the servers",
            "--announce-host",
        ),
        (
            "desktop",
            {"audience": "both"},
            "client-address does not serve programs beside the servers",
            "--announce-host",
        ),
        (
            "local",
            {"audience": "network", "announce": "same-port"},
            "same-port does not serve programs beside the servers",
            "leave out --announce",
        ),
        (
            "desktop",
            {"audience": "network", "announce": "client-address"},
            "client-address does not serve programs beside the servers",
            "leave out --announce",
        ),
    ],
)
def test_an_audience_that_cannot_be_served_is_refused(
    place: EnginePlace, asked: dict[str, Any], words: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        choose(place, NEW, **asked)
    assert caught.value.code == "audience-impossible"
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_addresses_of_containers_that_only_they_can_use() -> None:
    chosen = Announcement("fixed-address", "because", routed=False)
    where = reach(chosen, "valkey1", 6380, "172.28.0.3", "172.28.0.1").addresses
    assert where.control == Address("127.0.0.1", 6380), "the only way from here"
    assert where.announced == where.meet == Address("172.28.0.3", 6380)
