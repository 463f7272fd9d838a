"""What every runtime promises; see `bootstrap.runtimes.base.Runtime`."""

from __future__ import annotations

from contextlib import aclosing

import anyio
import pytest

from bootstrap.errors import Conflict, NodeFailed, PortTaken, RuntimeUnavailable
from bootstrap.formation.base import Unreachable
from bootstrap.planning.plan import CONFIG_FILE, bind, render_config
from bootstrap.planning.ports import block_ports
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes.base import Action
from bootstrap.runtimes.records import differences
from tests.contract.world import World


async def test_there_is_nothing_at_first(world: World) -> None:
    assert not await world.runtime.inventory()
    assert not await world.runtime.inventory("t")
    assert await world.runtime.remove("t") == ()


async def test_the_survey_can_be_planned_for(world: World) -> None:
    site = await world.runtime.survey()
    assert site.runtime == world.runtime.kind
    assert site.hosts
    assert site.server.version >= (9, 1, 0)
    plan = await world.planned()
    assert [node.name for node in plan.nodes] == ["t0", "t1"]


async def test_prepare_records_the_cluster_and_may_be_repeated(world: World) -> None:
    plan = await world.planned()
    facts = await world.runtime.prepare(plan)
    record = await world.record()
    assert await world.runtime.prepare(plan) == facts
    assert await world.record() == record
    assert await world.runtime.inventory() == (record,)
    assert (record.name, record.runtime, record.running) == ("t", world.runtime.kind, 0)
    assert record.server == str(plan.server)
    assert record.base_port == plan.nodes[0].addresses.control.port
    assert [(n.name, n.index, n.host, n.zone, n.addresses) for n in record.nodes] == [
        (n.name, n.index, n.host, n.zone, n.addresses) for n in plan.nodes
    ]
    assert bind(plan, facts) != plan, "the facts fill the plan's symbols"


async def test_a_record_tells_another_specification_by_field(world: World) -> None:
    await world.prepared(zones=("a", "b"), settings={"maxmemory": "10mb"})
    record = await world.record()
    same = ClusterSpec(name="t", nodes=2, replicas=0, zones=("a", "b"), settings={"maxmemory": "10mb"})
    assert not differences(same, record)
    other = ClusterSpec(name="t", nodes=4, replicas=1, zones=("a", "b"), base_port=1234)
    assert differences(other, record) == {
        "nodes": (2, 4),
        "replicas": (0, 1),
        "settings": ({"maxmemory": "10mb"}, {}),
        "base_port": (record.base_port, 1234),
    }


async def test_a_started_node_answers_and_is_adopted_when_started_again(world: World) -> None:
    plan = await world.started()
    before = await world.ask(plan, 0, "CLUSTER", "MYID")
    await world.ask(plan, 0, "CONFIG", "SET", "cluster-node-timeout", "4321")
    record = await world.record()
    assert record.running == 2
    await world.start(plan, 0)
    assert await world.record() == record
    assert await world.ask(plan, 0, "CLUSTER", "MYID") == before
    assert await world.ask(plan, 0, "CONFIG", "GET", "cluster-node-timeout") == ["cluster-node-timeout", "4321"]


async def test_files_configure_the_server(world: World) -> None:
    plan = await world.started(nodes=1, settings={"cluster-node-timeout": "3210"})
    assert await world.ask(plan, 0, "CONFIG", "GET", "cluster-node-timeout") == ["cluster-node-timeout", "3210"]


@pytest.mark.parametrize("action", ["stop", "kill"])
async def test_an_ended_node_keeps_its_data_and_can_be_started_again(world: World, action: Action) -> None:
    plan = await world.started()
    before = await world.ask(plan, 0, "CLUSTER", "MYID")
    await world.runtime.control("t", "t0", action)
    assert not (await world.node_record(0)).running
    assert (await world.node_record(1)).running
    with pytest.raises(Unreachable):
        await world.ask(plan, 0, "PING")
    await world.start(plan, 0)
    assert (await world.node_record(0)).running
    assert await world.ask(plan, 0, "CLUSTER", "MYID") == before


async def test_a_paused_node_runs_and_does_not_answer(world: World) -> None:
    plan = await world.started()
    await world.runtime.control("t", "t0", "pause")
    assert (await world.node_record(0)).running
    with pytest.raises(Unreachable, match="does not answer in time") as caught:
        await world.ask(plan, 0, "PING")
    assert caught.value.code == "no-answer"
    assert await world.ask(plan, 1, "PING") == "PONG"
    await world.runtime.control("t", "t0", "resume")
    assert await world.ask(plan, 0, "PING") == "PONG"


async def test_a_paused_node_can_be_killed(world: World) -> None:
    await world.started(nodes=1)
    await world.runtime.control("t", "t0", "pause")
    await world.runtime.control("t", "t0", "kill")
    assert not (await world.node_record(0)).running


@pytest.mark.parametrize("action", ["stop", "kill", "pause", "resume"])
async def test_what_does_not_run_cannot_be_controlled(world: World, action: Action) -> None:
    await world.prepared()
    for cluster, node in (("t", "t0"), ("t", "nobody"), ("nothing", "t0")):
        with pytest.raises(NodeFailed) as caught:
            await world.runtime.control(cluster, node, action)
        assert caught.value.code == "not-running"


async def test_nothing_starts_unprepared(world: World) -> None:
    (node,) = (await world.planned(nodes=1)).nodes
    with pytest.raises(RuntimeUnavailable) as caught:
        await world.runtime.start("t", node, {CONFIG_FILE: render_config(node)})
    assert caught.value.code == "state-root"
    assert not await world.runtime.inventory()


async def test_logs_are_whole_or_their_last_lines(world: World) -> None:
    await world.started(nodes=1)
    whole = await world.runtime.logs("t", "t0")
    assert whole.endswith("\n")
    assert await world.runtime.logs("t", "t0", tail=1) == whole.splitlines(keepends=True)[-1]
    assert await world.runtime.logs("t", "t0", tail=10**6) == whole
    assert await world.runtime.logs("t", "t0", tail=0) == ""
    assert await world.runtime.logs("t", "nobody") == ""
    assert await world.runtime.logs("nothing", "t0") == ""


async def test_logs_can_be_followed_over_a_restart(world: World) -> None:
    plan = await world.started(nodes=1)
    heard: list[str] = []

    async def listen() -> None:
        async with aclosing(world.runtime.follow("t", "t0")) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                heard.append(piece)  # noqa: PERF401 - it is read meanwhile

    before = await world.runtime.logs("t", "t0")
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        # Nothing tells when the listener has begun to listen: go on making noise until it hears some.
        with anyio.fail_after(20):
            while not heard:
                await world.runtime.control("t", "t0", "stop")
                await world.start(plan, 0)
        group.cancel_scope.cancel()
    whole = await world.runtime.logs("t", "t0")
    assert "".join(heard) in whole[len(before) :]


@pytest.mark.parametrize("tail", [None, 1])
async def test_following_begins_with_the_last_lines(world: World, tail: int | None) -> None:
    await world.started(nodes=1)
    with anyio.fail_after(20):
        async with aclosing(world.runtime.follow("t", "t0", tail=tail)) as pieces:  # type: ignore[type-var]
            first = await anext(pieces)
    whole = await world.runtime.logs("t", "t0")
    assert (whole if tail is None else whole.splitlines(keepends=True)[-1]).startswith(first)


async def test_following_ends_with_the_cluster(world: World) -> None:
    await world.started(nodes=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(_drain, world)
            await world.runtime.remove("t")


async def _drain(world: World) -> None:
    async for _ in world.runtime.follow("t", "t0"):
        pass


async def test_a_claim_excludes_others_until_it_ends(world: World) -> None:
    async with world.runtime.claim("t"):
        with pytest.raises(Conflict) as caught:
            async with world.runtime.claim("t"):
                pytest.fail("claimed twice")
        assert caught.value.code == "busy"
        async with world.runtime.claim("u"):
            pass
    with pytest.raises(ZeroDivisionError):
        async with world.runtime.claim("t"):
            1 / 0  # noqa: B018 - a failure of whatever kind
    async with world.runtime.claim("t"):
        pass


async def test_remove_leaves_nothing_and_may_be_repeated(world: World) -> None:
    plan = await world.started()
    assert await world.runtime.remove("t") == ()
    assert not await world.runtime.inventory("t")
    with pytest.raises(Unreachable):
        await world.ask(plan, 0, "PING")
    assert await world.runtime.remove("t") == ()
    assert await world.runtime.logs("t", "t0") == ""
    await world.prepared()


async def test_half_made_clusters_are_seen_and_removed(world: World) -> None:
    plan = await world.prepared(nodes=3)
    assert (await world.record()).running == 0
    await world.start(plan, 1)
    assert [node.running for node in (await world.record()).nodes] == [False, True, False]
    assert await world.runtime.remove("t") == ()
    assert not await world.runtime.inventory()


async def test_some_nodes_can_be_removed_and_come_back_blank(world: World) -> None:
    plan = await world.started()
    before = [await world.ask(plan, index, "CLUSTER", "MYID") for index in (0, 1)]
    assert await world.runtime.remove("t", ["t1"]) == ()
    assert [node.running for node in (await world.record()).nodes] == [True, False]
    await world.start(plan, 1)
    assert await world.ask(plan, 0, "CLUSTER", "MYID") == before[0]
    assert await world.ask(plan, 1, "CLUSTER", "MYID") != before[1]


async def test_other_clusters_are_not_touched(world: World) -> None:
    one, other = await world.started(nodes=1), await world.started(nodes=1, name="u")
    assert [record.name for record in await world.runtime.inventory()] == ["t", "u"]
    await world.runtime.remove("t")
    assert [record.name for record in await world.runtime.inventory()] == ["u"]
    assert await world.ask(other, 0, "PING") == "PONG"
    assert one.nodes[0].addresses != other.nodes[0].addresses


@pytest.mark.parametrize("which", [0, 3])
async def test_a_port_that_was_taken_meanwhile_is_refused(world: World, which: int) -> None:
    plan = await world.planned()
    port = block_ports(plan.nodes[0].addresses.control.port, 2)[which]
    with world.occupied(port):
        with pytest.raises(PortTaken) as caught:
            await world.runtime.prepare(plan)
        assert list(caught.value.ports) == [port]
        assert port in (await world.runtime.survey()).taken_ports
    assert not await world.runtime.inventory()
    await world.runtime.prepare(plan)


async def test_ports_of_recorded_clusters_are_avoided_by_choice(world: World) -> None:
    first = await world.prepared()
    base = first.nodes[0].addresses.control.port
    site = await world.runtime.survey()
    assert set(block_ports(base, 2)) <= site.reserved_ports.keys()
    again = await world.planned(name="u", base_port=base)
    auto = await world.planned(name="u")
    assert auto.nodes[0].addresses != first.nodes[0].addresses
    await world.runtime.prepare(again)


async def test_vantages_tell_open_ports_from_shut_ones(world: World) -> None:
    plan = await world.prepared()
    await world.start(plan, 0)
    for vantage in world.runtime.vantages(await world.record()):
        for node, outcome in zip(plan.nodes, ("open", "refused"), strict=True):
            for address in (node.addresses.meet, node.addresses.bus):
                assert await vantage.dial(address.host, address.port, timeout=5) == outcome
