"""What every `NodeClient` promises, and what servers answer it: the fakes are held to the real ones here."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from bootstrap.events import Reporter
from bootstrap.formation.base import ServerError, Unreachable
from bootstrap.judging.views import NodeView, Peer, Silent, View
from bootstrap.operations.reset import reset
from bootstrap.operations.status import read_status
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import Plan, PlannedNode
from bootstrap.planning.slots import covering_key, key_slot
from tests.contract.world import World, eventually

NOBODY = "f" * 40


def meet(node: PlannedNode) -> str:
    return f"CLUSTER MEET {node.addresses.meet.host} {node.addresses.meet.port}"


def announced(node: PlannedNode) -> Address:
    """Where servers send clients for a node that others know."""
    return node.addresses.announced or node.addresses.host


async def view_of(world: World, plan: Plan, index: int) -> NodeView:
    async with world.client(plan.nodes[index].addresses.control) as client:
        view = await client.look()
    assert isinstance(view, NodeView), view
    return view


async def test_a_closed_port_is_unreachable(world: World) -> None:
    plan = await world.prepared()
    await world.start(plan, 0)
    one, two = (node.addresses.control for node in plan.nodes)
    closed = Address(one.host, two.port)
    async with world.client(closed) as client:
        with pytest.raises(Unreachable) as caught:
            await client.run(("PING",))
        assert caught.value.code == "unreachable"
        assert caught.value.message == f"{closed} cannot be reached: connection refused"
        assert await client.look() == Silent("cannot be reached: connection refused")


async def test_a_client_survives_its_server(world: World) -> None:
    plan = await world.started(nodes=1)
    async with world.client(plan.nodes[0].addresses.control) as client:
        assert await client.run(("PING",)) == ["PONG"]
        await world.runtime.control(world.name, world.node(0), "kill")
        with pytest.raises(Unreachable):
            await client.run(("PING",))
        await world.start(plan, 0)
        assert await client.run(("PING",)) == ["PONG"]


async def test_a_server_that_does_not_answer_is_silent(world: World) -> None:
    plan = await world.started(nodes=1)
    async with world.client(plan.nodes[0].addresses.control) as client:
        await client.run(("PING",))
        await world.runtime.control(world.name, world.node(0), "pause")
        assert await client.look() == Silent("does not answer in time", "no-answer")
        for within in (None, 0.1):
            with pytest.raises(Unreachable, match="does not answer in time") as caught:
                await client.run_raw(("PING",), within=within)
            assert caught.value.code == "no-answer"
        await world.runtime.control(world.name, world.node(0), "resume")
        # Late answers are nobody's.
        answers = await client.run_raw(("CLUSTER", "MYID"), ("PING",), within=5)
        assert answers == [(await view_of(world, plan, 0)).id.encode(), b"PONG"]


@pytest.mark.parametrize("password", [None, "wrong"])
async def test_a_refused_login_has_its_own_code(world: World, password: str | None) -> None:
    plan = await world.started(nodes=1)
    assert await world.ask(plan, 0, "CONFIG", "SET", "requirepass", "right") == "OK"
    async with world.client(plan.nodes[0].addresses.control, password) as client:
        with pytest.raises(Unreachable, match="refuses the login") as caught:
            await client.run(("PING",))
        assert caught.value.code == "login-failed"
        view = await client.look()
        assert isinstance(view, Silent)
        assert view.code == "login"
        assert view.reason.startswith("refuses the login")
    async with world.client(plan.nodes[0].addresses.control, "right") as client:
        assert await client.run(("PING",)) == ["PONG"]
        assert isinstance(await client.look(), NodeView)


async def test_errors_are_values_in_their_place(world: World) -> None:
    plan = await world.started(nodes=1)
    async with world.client(plan.nodes[0].addresses.control) as client:
        replies = await client.run(("PING",), ("CLUSTER", "FORGET", NOBODY), ("NONSENSE", "a"), ("PING",))
    assert replies == [
        "PONG",
        ServerError(f"Unknown node {NOBODY}"),
        ServerError("unknown command 'NONSENSE', with args beginning with: 'a' "),
        "PONG",
    ]


async def test_raw_replies_are_what_was_sent(world: World) -> None:
    plan = (await world.formed()).plan
    key, value = covering_key(0, 100, "").encode() + b"\xff\r\n\0", b"\x1b\xfe\0\r\n"
    async with world.client(plan.nodes[0].addresses.control) as client:
        replies = await client.run_raw(("SET", key, value), ("GET", key), ("NONSENSE", b"a"), ("GET", key + b"2"))
        refused = ServerError("unknown command 'NONSENSE', with args beginning with: 'a' ")
        assert replies == [b"OK", value, refused, None]
        assert await client.run(("PING",)) == ["PONG"]
        assert await client.run_raw(("DEL", key), ("DEL", key), within=9) == [1, 0]


async def test_settings(world: World) -> None:
    plan = await world.started(nodes=1)
    name = "cluster-ping-interval"
    async with world.client(plan.nodes[0].addresses.control) as client:
        assert await client.run(("CONFIG", "GET", name), ("CONFIG", "GET", "nonsense")) == [[name, "0"], []]
        assert await client.run(("CONFIG", "SET", name, "100"), ("CONFIG", "GET", name)) == ["OK", [name, "100"]]
        assert await client.run(("CONFIG", "SET", "nonsense", "1"), ("CONFIG", "SET", name, "x")) == [
            ServerError("Unknown option or number of arguments for CONFIG SET - 'nonsense'"),
            ServerError(
                f"CONFIG SET failed (possibly related to argument '{name}') - "
                "argument couldn't be parsed into an integer"
            ),
        ]


async def test_a_blank_node_looks_the_same(world: World) -> None:
    plan = await world.started(nodes=1)
    view = await view_of(world, plan, 0)
    where = plan.nodes[0].addresses
    # Until another node tells it, a node knows only the address that it was told to announce.
    nowhere = Address("", where.control.port)
    myself = Peer(
        id=view.id,
        address=where.meet if where.announced else nowhere,
        bus_port=where.bus_port,
        hostname="",
        flags=frozenset({"myself", "master"}),
        primary=None,
        connected=True,
        epoch=0,
    )
    assert view == NodeView(id=view.id, flavor="valkey", version=plan.server.version, peers={view.id: myself})
    assert view.blank
    assert len(view.id) == 40
    assert await world.ask(plan, 0, "CLUSTER", "MYID") == view.id


async def test_epochs_are_given_once_and_to_the_lonely(world: World) -> None:
    plan = await world.started()
    assert await world.asks(
        plan,
        0,
        "CLUSTER SET-CONFIG-EPOCH 0",
        "CLUSTER SET-CONFIG-EPOCH -1",
        "CLUSTER SET-CONFIG-EPOCH x",
        "CLUSTER SET-CONFIG-EPOCH",
        "CLUSTER SET-CONFIG-EPOCH 3",
        "CLUSTER SET-CONFIG-EPOCH 3",
        meet(plan.nodes[1]),
        "CLUSTER SET-CONFIG-EPOCH 4",
    ) == [
        "OK",
        "Invalid config epoch specified: -1",
        "value is not an integer or out of range",
        "wrong number of arguments for 'cluster|set-config-epoch' command",
        "OK",
        "Node config epoch is already non-zero",
        "OK",
        "The user can assign a config epoch only when the node does not know any other node.",
    ]
    view = await view_of(world, plan, 0)
    assert view.epoch == view.myself.epoch == 3


async def test_slots_are_added_all_or_none(world: World) -> None:
    plan = await world.started(nodes=1)
    assert await world.asks(
        plan,
        0,
        "CLUSTER ADDSLOTSRANGE 0 100",
        "CLUSTER ADDSLOTSRANGE 200 300 90 110",
        "CLUSTER ADDSLOTSRANGE 5 1",
        "CLUSTER ADDSLOTSRANGE 5",
        "CLUSTER ADDSLOTSRANGE x y",
        "CLUSTER ADDSLOTSRANGE 0 16384",
        "CLUSTER ADDSLOTSRANGE 200 210 205 215",
        "CLUSTER ADDSLOTSRANGE 102 102 104 106",
    ) == [
        "OK",
        "Slot 90 is already busy",
        "start slot number 5 is greater than end slot number 1",
        "wrong number of arguments for 'cluster|addslotsrange' command",
        "Invalid or out of range slot",
        "Invalid or out of range slot",
        "Slot 205 specified multiple times",
        "OK",
    ]
    view = await view_of(world, plan, 0)
    assert view.myself.slots == ((0, 100), (102, 102), (104, 106))
    where = plan.nodes[0].addresses
    assert view.listed == {view.id: where.announced or Address("", where.control.port)}
    assert view.state == "fail"
    assert not view.blank


async def test_nodes_meet_by_address(world: World) -> None:
    plan = await world.started()
    other = plan.nodes[1]
    assert await world.asks(
        plan,
        0,
        "CLUSTER MEET localhost 7000",
        "CLUSTER MEET 127.0.0.1 99999",
        "CLUSTER MEET 127.0.0.1 abc",
        "CLUSTER MEET 127.0.0.1 6000 abc",
        "CLUSTER MEET 127.0.0.1 60000",
        "CLUSTER MEET 127.0.0.1",
        f"{meet(other)} {other.addresses.bus_port}",
        meet(other),
    ) == [
        "Invalid node address specified: localhost:7000",
        "Port number is out of range",
        "Invalid base port specified: abc",
        "Invalid bus port specified: abc",
        "Cluster bus port number is out of range",
        "wrong number of arguments for 'cluster|meet' command",
        "OK",
        "OK",
    ]


async def test_what_is_not_there_answers_no_handshake(world: World) -> None:
    plan = await world.started(nodes=1)
    (free,) = (await world.planned(name=world.other, nodes=1)).nodes
    nowhere = free.addresses
    assert await world.asks(plan, 0, meet(free)) == ["OK"]
    view = await view_of(world, plan, 0)
    (peer,) = (peer for peer in view.peers.values() if peer.id != view.id)
    expected = Peer(
        peer.id, nowhere.meet, nowhere.bus_port, "", frozenset({"handshake"}), None, connected=False, epoch=0
    )
    assert peer == expected
    assert not view.blank
    # Valkey's clusterStartHandshake draws the name of a handshake at random.
    assert peer.handshake
    assert len(peer.id) == 40


async def test_only_known_nodes_are_followed_or_forgotten(world: World) -> None:
    plan = await world.started(nodes=1)
    me = await world.ask(plan, 0, "CLUSTER", "MYID")
    assert await world.asks(
        plan,
        0,
        f"CLUSTER REPLICATE {NOBODY}",
        f"CLUSTER REPLICATE {me}",
        f"CLUSTER FORGET {NOBODY}",
        f"CLUSTER FORGET {me}",
        "CLUSTER NONSENSE",
    ) == [
        f"Unknown node {NOBODY}",
        "Can't replicate myself",
        f"Unknown node {NOBODY}",
        "I tried hard but I can't forget myself...",
        "unknown subcommand 'NONSENSE'. Try CLUSTER HELP.",
    ]


async def test_keys_need_a_served_slot(world: World) -> None:
    plan = await world.started(nodes=1)
    assert await world.asks(plan, 0, "SET k 1") == ["CLUSTERDOWN Hash slot not served"]
    assert await world.asks(plan, 0, "CLUSTER ADDSLOTSRANGE 0 16000") == ["OK"]
    served, other = covering_key(0, 16000, ""), covering_key(16001, 16383, "")
    assert await world.asks(plan, 0, f"SET {served} 1", f"GET {other}") == [
        "CLUSTERDOWN The cluster is down",
        "CLUSTERDOWN Hash slot not served",
    ]


async def test_a_first_write_moves_the_offset_and_nothing_else(world: World) -> None:
    plan = await world.started(nodes=1)
    before = await view_of(world, plan, 0)
    assert await world.asks(plan, 0, "FUNCTION FLUSH") == ["OK"]
    after = await view_of(world, plan, 0)
    assert before.offset == 0 < after.offset
    assert replace(after, offset=0) == before


async def test_waiting_for_more_replicas_than_there_are_moves_the_offset(world: World) -> None:
    plan = (await world.formed(nodes=4, replicas=1)).plan
    before = await view_of(world, plan, 0)
    assert await world.ask(plan, 0, "WAIT", "1000", "1") == 1
    assert (await view_of(world, plan, 0)).offset > before.offset


async def test_a_formed_cluster_looks_the_same_from_every_node(world: World) -> None:
    plan = (await world.formed(nodes=5)).plan
    views = [await view_of(world, plan, index) for index in range(5)]
    ids = {node.name: view.id for node, view in zip(plan.nodes, views, strict=True)}
    assert len(set(ids.values())) == 5
    epochs = {node.name: node.epoch for node in plan.nodes}
    for node, view in zip(plan.nodes, views, strict=True):
        myself = {each.name: frozenset({"myself"} if each.name == node.name else ()) for each in plan.nodes}
        peers = {
            ids[each.name]: Peer(
                id=ids[each.name],
                address=each.addresses.meet,
                bus_port=each.addresses.bus_port,
                hostname="",
                flags=myself[each.name] | {"slave" if each.primary else "master"},
                primary=ids[each.primary] if each.primary else None,
                connected=True,
                epoch=epochs[each.primary or each.name],
                slots=each.slots,
            )
            for each in plan.nodes
        }
        expected = NodeView(
            id=ids[node.name],
            flavor="valkey",
            version=plan.server.version,
            state="ok",
            epoch=epochs[node.primary or node.name],
            peers=peers,
            link="up" if node.primary else "",
            listed={ids[each.name]: announced(each) for each in plan.nodes},
        )
        assert view.offset > 0
        assert replace(view, offset=0) == expected


async def test_a_formed_cluster_takes_keys_and_refuses_changes_of_its_shape(world: World) -> None:
    plan = (await world.formed()).plan
    first, second, replica = plan.nodes[0], plan.nodes[1], plan.nodes[2]
    ids = [str(await world.ask(plan, index, "CLUSTER", "MYID")) for index in range(4)]
    assert replica.primary == second.name
    key = covering_key(*first.slots[0], "x")
    moved = f"MOVED {key_slot(key)} {announced(first)}"
    for index in (1, 2, 3):
        assert await world.asks(plan, index, f"SET {key} 1", f"GET {key}", f"DEL {key}") == [moved] * 3
    assert await world.asks(plan, 0, f"GET {key}", f"SET {key} 7", f"GET {key}") == ["None", "OK", "7"]
    assert (await view_of(world, plan, 0)).keys == {"db0": 1}
    assert await world.asks(plan, 0, f"DEL {key}", f"DEL {key}") == ["1", "0"]
    assert (await view_of(world, plan, 0)).keys == {}
    assert await world.asks(plan, 0, f"CLUSTER REPLICATE {ids[1]}", "CLUSTER SET-CONFIG-EPOCH 9") == [
        "To set a master the node must be empty and without assigned slots.",
        "The user can assign a config epoch only when the node does not know any other node.",
    ]
    assert await world.asks(
        plan,
        2,
        f"CLUSTER FORGET {ids[1]}",
        f"CLUSTER REPLICATE {ids[1]}",
        f"CLUSTER REPLICATE {ids[3]}",
        "CLUSTER ADDSLOTSRANGE 5 6",
    ) == [
        "Can't forget my master!",
        "OK",
        "I can only replicate a master, not a replica.",
        "Slot 5 is already busy",
    ]


async def test_a_replica_takes_over_and_a_primary_does_not(world: World) -> None:
    plan = (await world.formed()).plan
    assert plan.nodes[2].primary == plan.nodes[1].name
    assert await world.asks(plan, 0, "CLUSTER FAILOVER") == ["You should send CLUSTER FAILOVER to a replica"]
    assert await world.asks(plan, 2, "FLUSHDB SYNC", "CLUSTER FAILOVER") == [
        "READONLY You can't write against a read only replica.",
        "OK",
    ]

    async def swapped() -> bool:
        views = [await view_of(world, plan, index) for index in range(4)]
        return (views[1].myself.role, views[2].myself.role) == ("replica", "primary")

    await eventually(swapped)
    assert (await view_of(world, plan, 2)).myself.slots == plan.nodes[1].slots


async def test_a_reset_node_knows_nobody_and_has_another_id(world: World) -> None:
    plan = (await world.formed()).plan
    before = await view_of(world, plan, 0)
    key = covering_key(*plan.nodes[0].slots[0], "x")
    assert await world.asks(plan, 0, f"SET {key} 1", "CLUSTER RESET HARD", "FLUSHALL SYNC", "CLUSTER RESET HARD") == [
        "OK",
        "CLUSTER RESET can't be called with master nodes containing keys",
        "OK",
        "OK",
    ]
    after = await view_of(world, plan, 0)
    assert after.blank
    assert after.id != before.id
    assert (after.epoch, after.keys) == (0, {})


async def test_a_cluster_is_what_it_was_made_as_again(world: World) -> None:
    made = await world.formed()
    plan, deployment = made.plan, made.deployment
    key = covering_key(*plan.nodes[0].slots[0], "x")

    async def ids_after_reset() -> list[str]:
        await reset(deployment, plan, Reporter(plan.name), timeout=30)
        status = await read_status(deployment)
        assert status.healthy, status.agreement.doubts
        assert status.agreement.layout == plan.layout
        assert (await view_of(world, plan, 0)).keys == {}
        return [node.id for node in status.nodes]

    ids = [node.id for node in (await read_status(deployment)).nodes]
    assert await world.asks(plan, 0, f"SET {key} 1") == ["OK"]
    assert await ids_after_reset() == ids
    assert await world.asks(plan, 2, "CLUSTER FAILOVER") == ["OK"]
    await world.runtime.control(plan.name, plan.nodes[3].name, "kill")
    await ids_after_reset()
    assert await world.asks(plan, 0, "CLUSTER RESET HARD") == ["OK"]
    assert set(await ids_after_reset()).isdisjoint(ids)


async def test_a_cancelled_look_leaves_no_replies_for_the_next_command(world: World) -> None:
    plan = await world.started(nodes=1)
    async with world.client(plan.nodes[0].addresses.control) as client:
        assert await client.run(("PING",)) == ["PONG"]
        await world.runtime.control(world.name, world.node(0), "pause")
        view: View = Silent("cancelled")
        with anyio.move_on_after(0.2):
            view = await client.look()
        await world.runtime.control(world.name, world.node(0), "resume")
        assert isinstance(view, Silent)
        assert await client.run(("PING",)) == ["PONG"]
