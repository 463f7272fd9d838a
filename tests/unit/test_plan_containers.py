"""The plan for containers: the same every time, kept where a cluster exists, and whole once it is bound."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bootstrap.errors import Conflict, PortTaken
from bootstrap.planning.addressing import HOST_GATEWAY, Address, Announcement, Strategy
from bootstrap.planning.plan import Container, Facts, Kept, Plan, bind, build_plan, render_config
from bootstrap.planning.ports import block_ports
from bootstrap.planning.site import Engine, Host, Resolved, ServerInfo, Site
from bootstrap.planning.spec import ClusterSpec
from bootstrap.planning.subnets import Network

IMAGE = "valkey/valkey:9.1"
NEW, REDIS = ServerInfo("valkey", (9, 1, 0), IMAGE), ServerInfo("redis", (7, 0, 15), "redis:7.0")
STRATEGIES: tuple[Strategy, ...] = ("fixed-address", "gateway", "client-address", "same-port")
NAME = {"me.lan": Resolved("127.0.1.1", "loopback")}


def site(server: ServerInfo = NEW, *, place: Any = "local", subnets: tuple[str, ...] = (), **facts: Any) -> Site:
    return Site("docker", (Host("vm"),), server, engine=Engine(place, "28.0.0", "me.lan", subnets), **facts)


def plan(where: Site | None = None, **asked: Any) -> Plan:
    return build_plan(ClusterSpec(**asked), where or site())


def text(plan: Plan) -> str:
    return json.dumps(plan.as_dict()) + str(plan) + "".join(render_config(node).decode() for node in plan.nodes)


@pytest.mark.parametrize("announce", STRATEGIES)
@pytest.mark.parametrize("base_port", [None, "auto", 7000])
def test_the_same_again_byte_for_byte(announce: Strategy, base_port: Any) -> None:
    taken = {6381: "redis-server"}
    facts: dict[str, Any] = {"taken_ports": taken, "seed": 7, "subnets": ("172.28.0.0/16",)}
    asked: dict[str, Any] = {"nodes": 7, "zones": ("a", "b"), "announce": announce, "base_port": base_port}
    assert text(plan(site(**facts), **asked)) == text(plan(site(**facts), **asked))


def test_a_node_and_its_container() -> None:
    planned = plan(nodes=2, replicas=0, memory="256m", zones=("a", "b"))
    network = planned.network
    assert network is not None
    assert network.name == "valkey-net"
    node = planned.nodes[1]
    inside = network.address(1)
    assert node.container == Container(
        image=IMAGE,
        program="valkey-server",
        network="valkey-net",
        address=inside,
        published=(Address("127.0.0.1", 6380),),
        volume="valkey1-data",
        memory=256 * 1024**2,
    )
    assert dict(node.settings) == {
        "port": "6380",
        "bind": "0.0.0.0",
        "dir": "/data/server",
        "logfile": "",
        "cluster-announce-ip": inside,
        "protected-mode": "no",
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": "5000",
        "appendonly": "yes",
        "daemonize": "no",
        "cluster-announce-human-nodename": "valkey1",
        "availability-zone": "b",
    }
    assert planned.announced == {each.name: each.addresses.control for each in planned.nodes}
    assert len({each.container.address for each in planned.nodes if each.container}) == 2


def test_what_is_created_is_listed_in_order() -> None:
    planned = plan(nodes=2, replicas=0)
    assert [(each.kind, each.name) for each in planned.creations] == [
        ("network", "valkey-net"),
        ("volume", "valkey0-data"),
        ("volume", "valkey1-data"),
        ("container", "valkey0"),
        ("container", "valkey1"),
    ]
    assert planned.network is not None
    assert planned.network.subnet in planned.creations[0].detail
    kinds = [each.kind for each in plan(nodes=2, replicas=0, ephemeral=True).creations]
    assert kinds == ["network", "container", "container"]


def test_ephemeral_containers_have_no_volume_and_memory_is_unlimited_unless_asked_for() -> None:
    (node,) = plan(nodes=1, replicas=0, ephemeral=True).nodes
    assert node.container is not None
    assert (node.container.volume, node.container.memory) == ("", 0)
    (other,) = plan(nodes=1, replicas=0, name="web1").nodes
    assert other.container is not None
    assert other.container.volume == "web1-0-data"


UNKNOWN_TO_REDIS = {"cluster-announce-human-nodename", "cluster-announce-client-ipv4", "availability-zone"}


@pytest.mark.parametrize(
    ("place", "announce"),
    [
        ("local", "gateway"),
        *((place, announce) for place in ("local", "rootless", "desktop") for announce in ("auto", "same-port")),
        *((place, "host-name") for place in ("local", "rootless", "desktop")),
    ],
)
def test_an_old_server_is_given_no_setting_that_it_dies_of(announce: Any, place: Any) -> None:
    name = "me.lan" if announce == "host-name" else None
    planned = plan(site(REDIS, place=place, names=NAME), announce=announce, announce_host=name, zones=("a", "b"))
    for node in planned.nodes:
        assert not UNKNOWN_TO_REDIS & dict(node.settings).keys()
        assert node.container is not None
        assert (node.container.image, node.container.program) == ("redis:7.0", "redis-server")
    assert any("availability-zone" in warning for warning in planned.warnings)


def test_zones_of_a_new_server_reach_it() -> None:
    planned = plan(zones=("a", "b"), nodes=2, replicas=0)
    assert [node.setting("availability-zone") for node in planned.nodes] == ["a", "b"]
    assert not any("availability-zone" in warning for warning in planned.warnings)


KEPT = Kept(
    7000,
    Announcement("gateway", "--announce says so"),
    Network("valkey-net", "172.28.0.0/26", "172.28.0.1", "172.28.0.32/27"),
)


def test_a_cluster_that_exists_keeps_what_it_has_though_that_is_taken_now() -> None:
    ours = dict.fromkeys(block_ports(7000, 6), 'the cluster "valkey"')
    crowded = site(subnets=("172.28.0.0/15",), taken_ports=ours, reserved_ports=ours)
    planned = build_plan(ClusterSpec(), crowded, kept=KEPT)
    assert (planned.announcement, planned.network) == (KEPT.announcement, KEPT.network)
    assert [node.addresses.control for node in planned.nodes] == [
        Address("172.28.0.1", 7000 + index) for index in range(6)
    ]
    assert [node.container.address for node in planned.nodes if node.container] == [
        f"172.28.0.{index + 2}" for index in range(6)
    ]
    # Where the engine is now makes no difference to how it was made.
    moved = build_plan(ClusterSpec(), replace(crowded, engine=Engine("rootless", "28.0.0")), kept=KEPT)
    assert [node.addresses for node in moved.nodes] == [node.addresses for node in planned.nodes]


def test_what_cannot_be_chosen_any_more_is_not_warned_of() -> None:
    full = replace(site(), engine=Engine("local", "28.0.0", neighbours=10))
    fresh = plan(full, announce="fixed-address")
    assert any("neighbour table" in warning for warning in fresh.warnings)
    kept = Kept(6379, fresh.announcement, fresh.network)
    assert not build_plan(ClusterSpec(announce="fixed-address"), full, kept=kept).warnings


def test_without_a_record_the_same_crowd_is_a_conflict() -> None:
    with pytest.raises(Conflict) as caught:
        plan(site(subnets=("172.28.0.0/15", "10.0.0.0/8")))
    assert caught.value.code == "no-free-subnet"
    with pytest.raises(PortTaken):
        plan(site(taken_ports={7003: "redis-server"}), base_port=7000)


def test_ports_that_are_not_published_cannot_be_taken() -> None:
    taken = site(taken_ports=dict.fromkeys(range(6379, 6400), "redis-server"))
    hidden = plan(taken, publish=False, announce="fixed-address")
    assert [node.addresses.control.port for node in hidden.nodes] == list(range(6379, 6385))
    assert all(node.container and not node.container.published for node in hidden.nodes)
    assert all(node.addresses.host == node.addresses.control for node in hidden.nodes)
    assert not any("6379" in note for note in hidden.notes)
    strict = plan(taken, publish=False, announce="fixed-address", base_port=6390)
    assert strict.nodes[0].addresses.control.port == 6390
    # Published ones make way, and those of the gateway are published whatever is asked for.
    for asked in ({"announce": "fixed-address"}, {"announce": "gateway", "publish": False}):
        planned = plan(taken, **asked)
        assert planned.nodes[0].addresses.control.port == 6400
        assert "ports start at 6400: 6379 is held by redis-server" in planned.notes


def test_in_a_container_of_the_same_engine_nothing_is_published_on_our_own_loopback() -> None:
    planned = plan(site(place="nested"))
    for node in planned.nodes:
        assert node.container is not None
        assert {each.host for each in node.container.published} == {node.addresses.control.host}
        assert node.addresses.host == node.addresses.control


# Late facts.


def named(**asked: Any) -> Plan:
    return plan(site(names=NAME), announce_host="me.lan", nodes=2, replicas=0, **asked)


def test_the_host_gateway_is_filled_in_where_nodes_meet_and_where_ports_are_published() -> None:
    before = named()
    assert {node.addresses.meet.host for node in before.nodes} == {HOST_GATEWAY}
    bound = bind(before, Facts({"host_gateway": "172.17.0.1"}))
    for index, node in enumerate(bound.nodes):
        port = 6379 + index
        assert node.addresses.meet == Address("172.17.0.1", port)
        assert node.addresses.bus == Address("172.17.0.1", port + 10000)
        assert node.container is not None
        assert set(node.container.published) == {
            Address("172.17.0.1", port),
            Address("172.17.0.1", port + 10000),
            Address("127.0.1.1", port),
        }
        # The engine knows its own gateway by this word.
        assert node.container.hosts == (("me.lan", "host-gateway"),)
        assert node.addresses.announced == node.addresses.host == Address("me.lan", port)
        assert node.addresses.control == Address("127.0.1.1", port)
    assert "${" not in str(bound.nodes)
    assert [replace(node, container=None, addresses=before.nodes[0].addresses) for node in bound.nodes] == [
        replace(node, container=None, addresses=before.nodes[0].addresses) for node in before.nodes
    ], "nothing else is changed"


@pytest.mark.parametrize("announce", STRATEGIES)
def test_no_other_way_of_announcing_has_symbols(announce: Strategy) -> None:
    planned = plan(announce=announce)
    assert "${" not in text(planned)
    assert bind(planned, Facts({})) == planned


def test_a_fact_that_is_missing_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="host_gateway"):
        bind(named(), Facts({}))


def test_what_a_user_sets_is_never_looked_into() -> None:
    wild = {"cluster-node-timeout": "${host_gateway}", "appendfilename": "${folder}", "save": "${nonsense} $x ${"}
    bound = bind(named(settings=wild), Facts({"host_gateway": "172.17.0.1"}))
    for node in bound.nodes:
        assert {key: node.setting(key) for key in wild} == wild
        assert b'save "${nonsense} $x ${"' in render_config(node)


def test_the_json_form_tells_network_and_ways() -> None:
    document = named().as_dict()
    assert document["announce"] == "host-name"
    assert document["network"]["name"] == "valkey-net"
    node = document["nodes"][0]
    assert node["addresses"]["announced"] == "me.lan:6379"
    assert node["published"] == ["${host_gateway}:6379", "${host_gateway}:16379", "127.0.1.1:6379"]


@pytest.mark.parametrize(
    ("spec", "runtime", "strategy"),
    [
        (ClusterSpec(), "docker", "fixed-address"),
        (ClusterSpec(runtime="docker", image="redis:7.0"), "docker", "fixed-address"),
        (ClusterSpec(announce_host="me.lan"), "docker", "host-name"),
        (ClusterSpec(nodes=1000), "docker", "gateway"),
        (ClusterSpec(runtime="process"), "process", None),
        (ClusterSpec(server="valkey-server"), "process", None),
    ],
    ids=str,
)
def test_a_dry_run_assumes_what_is_asked_for(spec: ClusterSpec, runtime: str, strategy: str | None) -> None:
    assumed = Site.assumed(spec)
    planned = build_plan(spec, assumed)
    assert planned.runtime == runtime
    assert planned.as_dict()["announce"] == strategy
    assert assumed.assumptions
    assert planned.assumptions == assumed.assumptions
    assert str(assumed.server) == ("redis 7.0.0" if spec.image else "valkey 9.1.0")


def test_bus_ports_that_are_not_published_cannot_be_taken() -> None:
    busy = site(taken_ports={16381: "redis-server"})
    assert plan(busy, base_port=6379).nodes[0].addresses.control.port == 6379
    with pytest.raises(PortTaken):
        plan(busy, base_port=6379, announce="gateway")


def test_a_port_is_published_once_where_a_name_leads_to_the_host_gateway() -> None:
    nested = replace(site(), engine=Engine("nested", "28.0.0"), names={"host.lan": Resolved("172.17.0.1", "elsewhere")})
    made = bind(plan(nested, announce_host="host.lan"), Facts({"host_gateway": "172.17.0.1"}))
    (node, *_) = made.nodes
    assert node.container is not None
    assert [str(each) for each in node.container.published] == ["172.17.0.1:6379", "172.17.0.1:16379"]
