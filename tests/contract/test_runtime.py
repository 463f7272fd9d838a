"""What every runtime promises; see `bootstrap.runtimes.base.Runtime`."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace

import anyio
import pytest

from bootstrap.concurrency import together
from bootstrap.errors import Conflict, NodeFailed, PortTaken, RuntimeUnavailable
from bootstrap.events import Event, Reporter
from bootstrap.formation.base import Unreachable
from bootstrap.planning.plan import PlannedNode, bind, build_plan, seats_of
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes.base import Action
from bootstrap.runtimes.records import differences
from bootstrap.testing import FakeRuntime
from tests.contract.world import World, eventually

TIMEOUT = "cluster-node-timeout"


def configured(node: PlannedNode, key: str, value: str) -> PlannedNode:
    return replace(node, settings=tuple({**dict(node.settings), key: value}.items()))


async def test_there_is_nothing_at_first(world: World) -> None:
    assert not await world.clusters()
    assert not await world.runtime.inventory(world.name)
    assert await world.runtime.remove(world.name) == ()


async def test_nothing_is_told_where_nothing_has_to_be_fetched(world: World) -> None:
    told: list[Event] = []
    await world.runtime.fetch(None, Reporter(world.name, told.append))
    await world.prepared(nodes=1)
    await world.runtime.fetch(await world.record(), Reporter(world.name, told.append))
    assert not told


async def test_the_survey_can_be_planned_for(world: World) -> None:
    site = await world.runtime.survey()
    assert site.runtime == world.runtime.kind
    assert site.hosts
    assert site.server.version >= (9, 1, 0)
    plan = await world.planned()
    assert [node.name for node in plan.nodes] == [f"{world.name}0", f"{world.name}1"]


async def test_prepare_records_the_cluster_and_may_be_repeated(world: World) -> None:
    plan = await world.prepared()
    record = await world.record()
    facts = await world.runtime.prepare(plan)
    assert await world.runtime.prepare(plan) == facts
    assert await world.record() == record
    assert record in await world.runtime.inventory()
    assert (record.name, record.runtime, record.running) == (world.name, world.runtime.kind, 0)
    assert record.server == str(plan.server)
    assert record.base_port == plan.nodes[0].addresses.control.port
    assert [(n.name, n.index, n.host, n.zone, n.addresses) for n in record.nodes] == [
        (n.name, n.index, n.host, n.zone, n.addresses) for n in plan.nodes
    ]


async def test_the_facts_fill_every_symbol_and_the_record_keeps_the_plan(world: World) -> None:
    plan = await world.planned(zones=("a", "b"))
    bound = bind(plan, await world.runtime.prepare(plan))
    assert "${" not in str(bound.nodes)
    record = await world.record()
    site = await world.runtime.survey(record)
    again = build_plan(plan.spec, site, kept=record.kept)
    assert (again.nodes, again.network, again.announcement) == (plan.nodes, plan.network, plan.announcement)
    assert bind(again, await world.runtime.prepare(again)).nodes == bound.nodes


async def test_a_record_tells_another_specification_by_field(world: World) -> None:
    await world.prepared(zones=("a", "b"), settings={"maxmemory": "10mb"})
    record = await world.record()
    same = ClusterSpec(name=world.name, nodes=2, replicas=0, zones=("a", "b"), settings={"maxmemory": "10mb"})
    assert not differences(same, record)
    other = ClusterSpec(name=world.name, nodes=4, replicas=1, zones=("a", "b"), base_port=1234)
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


async def test_files_configure_the_server_anew_at_every_start(world: World) -> None:
    plan = await world.started(nodes=1, settings={TIMEOUT: "3210"})
    assert await world.ask(plan, 0, "CONFIG", "GET", TIMEOUT) == [TIMEOUT, "3210"]
    await world.runtime.control(world.name, world.node(0), "stop")
    other = replace(plan, nodes=(configured(plan.nodes[0], TIMEOUT, "2109"),))
    await world.start(other, 0)
    assert await world.ask(plan, 0, "CONFIG", "GET", TIMEOUT) == [TIMEOUT, "2109"]


async def test_secrets_are_kept_until_the_cluster_is_removed(world: World) -> None:
    assert not (await world.runtime.kept(world.name)).files
    await world.prepared(nodes=1)
    await world.runtime.keep(world.name, {"password": b"one", "ca.key": b"\x00\xff"})
    await world.runtime.keep(world.name, {"password": b"horse"})
    kept = await world.runtime.kept(world.name)
    assert kept.files == {"password": b"horse", "ca.key": b"\x00\xff"}
    assert "horse" not in repr(kept)
    if kept.folder:
        folder = anyio.Path(kept.folder)
        assert (await folder.stat()).st_mode & 0o777 == 0o700
        assert {(await each.stat()).st_mode & 0o777 async for each in folder.iterdir()} == {0o600}
    assert "horse" not in repr(await world.record())
    assert await world.runtime.remove(world.name) == ()
    assert not (await world.runtime.kept(world.name)).files


async def test_a_server_that_dies_at_its_start_says_why_and_can_be_started_again(world: World) -> None:
    plan = await world.prepared(nodes=1)
    (node,) = plan.nodes
    name = world.node(0)
    if isinstance(world.runtime, FakeRuntime):
        world.runtime.deaths[name] = "*** FATAL CONFIG FILE ERROR (Version 9.1.2) ***\n"
    await world.launch(world.name, configured(node, "maxmemory-policy", "nonsense"))

    async def died() -> bool:
        return "FATAL CONFIG FILE ERROR" in await world.runtime.logs(world.name, name)

    await eventually(died)
    await eventually(lambda: world.idle(0))
    with pytest.raises(NodeFailed) as caught:
        await world.runtime.control(world.name, name, "stop")
    assert caught.value.code == "not-running"
    if isinstance(world.runtime, FakeRuntime):
        world.runtime.deaths.clear()
    await world.start(plan, 0)
    assert (await world.node_record(0)).running


@pytest.mark.parametrize("action", ["stop", "kill"])
async def test_an_ended_node_keeps_its_data_and_can_be_started_again(world: World, action: Action) -> None:
    plan = await world.started()
    before = await world.ask(plan, 0, "CLUSTER", "MYID")
    await world.runtime.control(world.name, world.node(0), action)
    assert not (await world.node_record(0)).running
    assert (await world.node_record(1)).running
    with pytest.raises(Unreachable):
        await world.ask(plan, 0, "PING")
    await world.start(plan, 0)
    assert (await world.node_record(0)).running
    assert await world.ask(plan, 0, "CLUSTER", "MYID") == before


async def test_a_paused_node_runs_and_does_not_answer(world: World) -> None:
    plan = await world.started()
    await world.runtime.control(world.name, world.node(0), "pause")
    assert (await world.node_record(0)).running
    with pytest.raises(Unreachable, match="does not answer in time") as caught:
        await world.ask(plan, 0, "PING")
    assert caught.value.code == "no-answer"
    assert await world.ask(plan, 1, "PING") == "PONG"
    await world.runtime.control(world.name, world.node(0), "resume")
    assert await world.ask(plan, 0, "PING") == "PONG"


async def test_a_node_is_paused_until_it_is_resumed_however_often_that_is_said(world: World) -> None:
    plan = await world.started(nodes=1)
    for _ in range(2):
        await world.runtime.control(world.name, world.node(0), "pause")
    await world.launch(world.name, plan.nodes[0])
    with pytest.raises(Unreachable, match="does not answer in time"):
        await world.ask(plan, 0, "PING")
    for _ in range(2):
        await world.runtime.control(world.name, world.node(0), "resume")
    assert await world.ask(plan, 0, "PING") == "PONG"


@pytest.mark.parametrize("action", ["stop", "kill"])
async def test_a_paused_node_can_be_ended_and_removed(world: World, action: Action) -> None:
    plan = await world.started()
    for name in (world.node(0), world.node(1)):
        await world.runtime.control(world.name, name, "pause")
    await world.runtime.control(world.name, world.node(0), action)
    assert not (await world.node_record(0)).running
    assert await world.runtime.remove(world.name, [world.node(1)]) == ()
    await world.start(plan, 0)
    await world.start(plan, 1)
    assert (await world.record()).running == 2


@pytest.mark.parametrize("action", ["stop", "kill"])
async def test_a_node_ends_once_however_many_want_it_to(world: World, action: Action) -> None:
    await world.started(nodes=1)
    outcomes: list[str] = []

    async def end() -> None:
        try:
            await world.runtime.control(world.name, world.node(0), action)
            outcomes.append("")
        except NodeFailed as error:
            outcomes.append(error.code)

    await together([end] * 4)
    assert len(outcomes) == 4
    assert "" in outcomes
    assert set(outcomes) <= {"", "not-running"}
    assert await world.idle(0)


@pytest.mark.parametrize("action", ["stop", "kill", "pause", "resume"])
async def test_what_does_not_run_cannot_be_controlled(world: World, action: Action) -> None:
    await world.prepared()
    first = world.node(0)
    for cluster, node in ((world.name, first), (world.name, "nobody"), (world.other, first)):
        with pytest.raises(NodeFailed) as caught:
            await world.runtime.control(cluster, node, action)
        assert caught.value.code == "not-running"


async def test_nothing_starts_unprepared(world: World) -> None:
    (node,) = (await world.planned(nodes=1)).nodes
    with pytest.raises(RuntimeUnavailable) as caught:
        await world.launch(world.name, node)
    assert caught.value.code == "not-prepared"
    assert not await world.clusters()


async def test_logs_are_whole_or_their_last_lines(world: World) -> None:
    await world.started(nodes=1)

    async def complete() -> bool:
        # An engine copies what servers write: a server may answer before its last line is there.
        return "ready to accept connections" in (await world.runtime.logs(world.name, world.node(0))).lower()

    await eventually(complete)
    whole = await world.runtime.logs(world.name, world.node(0))
    assert whole.endswith("\n")
    assert await world.runtime.logs(world.name, world.node(0), tail=1) == whole.splitlines(keepends=True)[-1]
    assert await world.runtime.logs(world.name, world.node(0), tail=10**6) == whole
    assert await world.runtime.logs(world.name, world.node(0), tail=0) == ""
    assert await world.runtime.logs(world.name, "nobody") == ""
    assert await world.runtime.logs(world.other, world.node(0)) == ""


async def test_logs_outlive_the_server(world: World) -> None:
    plan = await world.started(nodes=1)
    first = await world.runtime.logs(world.name, world.node(0))
    await world.runtime.control(world.name, world.node(0), "stop")
    assert (await world.runtime.logs(world.name, world.node(0))).startswith(first)
    await world.start(plan, 0)
    assert (await world.runtime.logs(world.name, world.node(0))).startswith(first)


async def test_logs_can_be_followed_over_a_restart(world: World) -> None:
    plan = await world.started(nodes=1)
    heard: list[str] = []

    async def listen() -> None:
        async with aclosing(world.runtime.follow(world.name, world.node(0))) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                heard.append(piece)  # noqa: PERF401 - it is read meanwhile

    before = await world.runtime.logs(world.name, world.node(0))
    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        # Nothing tells when the listener has begun to listen: go on making noise until it hears some.
        with anyio.fail_after(20):
            while not heard:
                await world.runtime.control(world.name, world.node(0), "stop")
                await world.start(plan, 0)
        group.cancel_scope.cancel()
    whole = await world.runtime.logs(world.name, world.node(0))
    assert "".join(heard) in whole[len(before) :]


@pytest.mark.parametrize("tail", [None, 1])
async def test_following_begins_with_the_last_lines(world: World, tail: int | None) -> None:
    await world.started(nodes=1)
    with anyio.fail_after(20):
        async with aclosing(world.runtime.follow(world.name, world.node(0), tail=tail)) as pieces:  # type: ignore[type-var]
            first = await anext(pieces)
    whole = await world.runtime.logs(world.name, world.node(0))
    assert (whole if tail is None else whole.splitlines(keepends=True)[-1]).startswith(first)


async def test_following_ends_with_the_cluster(world: World) -> None:
    await world.started(nodes=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(_drain, world)
            await world.runtime.remove(world.name)


async def test_there_is_nothing_to_follow_where_there_is_no_such_node(world: World) -> None:
    with anyio.fail_after(10):
        assert not [piece async for piece in world.runtime.follow(world.name, world.node(0), tail=None)]
        await world.prepared()
        assert not [piece async for piece in world.runtime.follow(world.name, "nobody", tail=None)]
    assert [node.name for node in (await world.record()).nodes] == [world.node(0), world.node(1)]


async def test_a_node_is_followed_from_before_its_start_until_it_is_removed(world: World) -> None:
    plan = await world.prepared(nodes=2)
    heard: list[str] = []

    async def listen() -> None:
        async for piece in world.runtime.follow(world.name, world.node(0)):
            heard.append(piece)  # noqa: PERF401 - it is read meanwhile

    async def told() -> bool:
        return "".join(heard) == await world.runtime.logs(world.name, world.node(0))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await world.start(plan, 1)
            await world.start(plan, 0)
            await eventually(told)
            await world.runtime.remove(world.name, [world.node(0)])
    assert heard
    assert await world.idle(0)
    assert not await world.idle(1)


async def _drain(world: World) -> None:
    async for _ in world.runtime.follow(world.name, world.node(0)):
        pass


async def test_a_claim_excludes_others_until_it_ends(world: World) -> None:
    async with world.runtime.claim(world.name):
        with pytest.raises(Conflict) as caught:
            async with world.runtime.claim(world.name):
                pytest.fail("claimed twice")
        assert caught.value.code == "busy"
        async with world.runtime.claim(world.other):
            pass
    with pytest.raises(ZeroDivisionError):
        async with world.runtime.claim(world.name):
            1 / 0  # noqa: B018 - a failure of whatever kind
    async with world.runtime.claim(world.name):
        pass


async def test_remove_leaves_nothing_and_may_be_repeated(world: World) -> None:
    plan = await world.started()
    assert await world.runtime.remove(world.name) == ()
    assert not await world.runtime.inventory(world.name)
    with pytest.raises(Unreachable):
        await world.ask(plan, 0, "PING")
    assert await world.runtime.remove(world.name) == ()
    assert await world.runtime.logs(world.name, world.node(0)) == ""
    await world.prepared()


async def test_half_made_clusters_are_seen_and_removed(world: World) -> None:
    plan = await world.prepared(nodes=3)
    assert (await world.record()).running == 0
    await world.start(plan, 1)
    assert [node.running for node in (await world.record()).nodes] == [False, True, False]
    assert await world.runtime.remove(world.name) == ()
    assert not await world.clusters()


async def test_some_nodes_can_be_removed_and_come_back_blank(world: World) -> None:
    plan = await world.started()
    before = [await world.ask(plan, index, "CLUSTER", "MYID") for index in (0, 1)]
    assert await world.runtime.remove(world.name, [world.node(1), "nobody"]) == ()
    assert [node.running for node in (await world.record()).nodes] == [True, False]
    await world.start(plan, 1)
    assert await world.ask(plan, 0, "CLUSTER", "MYID") == before[0]
    assert await world.ask(plan, 1, "CLUSTER", "MYID") != before[1]


async def test_other_clusters_are_not_touched(world: World) -> None:
    one, other = await world.started(nodes=1), await world.started(nodes=1, name=world.other)
    assert await world.clusters() == [world.name, world.other]
    await world.runtime.remove(world.name)
    assert await world.clusters() == [world.other]
    assert await world.ask(other, 0, "PING") == "PONG"
    assert one.nodes[0].addresses != other.nodes[0].addresses


@pytest.mark.parametrize("which", [0, -1])
async def test_a_port_that_was_taken_meanwhile_is_refused_at_the_latest_by_the_start(world: World, which: int) -> None:
    plan = await world.planned()
    port = world.ports(plan)[which]
    with world.occupied(port):
        with pytest.raises(PortTaken) as caught:
            await world.begin(plan)
        assert list(caught.value.ports) == [port]
        assert port in (await world.runtime.survey()).taken_ports
        # Whoever looks before anything is made has made nothing; an engine finds out when it publishes the port.
        assert plan.network is not None or not await world.clusters()
    # What was made before it was found out is in the way of nothing.
    await world.begin(plan)
    assert (await world.record()).running == 2


async def test_ports_of_recorded_clusters_are_avoided_by_choice(world: World) -> None:
    first = await world.prepared()
    base = first.nodes[0].addresses.control.port
    site = await world.runtime.survey()
    # Bus ports only where they are taken on this machine.
    assert {base, base + 1} <= site.reserved_ports.keys()
    again = await world.planned(name=world.other, base_port=base)
    auto = await world.planned(name=world.other)
    assert auto.nodes[0].addresses != first.nodes[0].addresses
    await world.runtime.prepare(again)


async def test_vantages_tell_open_ports_from_shut_ones(world: World) -> None:
    plan = await world.prepared()
    await world.start(plan, 0)
    there, absent = (node.addresses for node in plan.nodes)
    assert (await world.runtime.inspect(plan.name))[plan.nodes[0].name].state == "running"
    vantages = [each for each in world.runtime.vantages(await world.record()) if each.beside]
    here = [each for each in vantages if each.node in ("", plan.nodes[0].name)]
    assert here
    for vantage in here:
        assert vantage.name
        for address in (there.meet, there.bus):
            assert (await vantage.dial(address.host, address.port, timeout=5)).outcome == "open"
        asked = await vantage.dial(there.meet.host, there.meet.port, timeout=5, ask="plain")
        assert len(asked.said) == 40, "its node id"
        assert (await vantage.dial(there.meet.host, absent.meet.port, timeout=5)).outcome == "refused"
        for address in (absent.meet, absent.bus):
            assert (await vantage.dial(address.host, address.port, timeout=0.5)).outcome != "open"


async def test_what_can_be_said_of_a_server_without_asking_it(world: World) -> None:
    plan = await world.prepared()
    first, second = (node.name for node in plan.nodes)
    assert {name: server.state for name, server in (await world.runtime.inspect(plan.name)).items()} == {
        first: "missing",
        second: "missing",
    }
    await world.start(plan, 0)
    assert (await world.runtime.inspect(plan.name))[first].state == "running"
    assert "eady to accept" in (await world.runtime.inspect(plan.name))[first].log
    await world.runtime.control(plan.name, first, "pause")
    assert (await world.runtime.inspect(plan.name))[first].state == "paused"
    await world.runtime.control(plan.name, first, "resume")
    await world.runtime.control(plan.name, first, "kill")
    assert (await world.runtime.inspect(plan.name))[first].state == "stopped"
    assert await world.runtime.inspect("nothing-of-that-name") == {}


async def test_a_cluster_is_recorded_anew_with_a_node_more_and_a_hole(world: World) -> None:
    made = await world.started(nodes=3)
    before = await world.record()
    plan = await world.amended(made, without=[1], replicas={5: world.node(0)})
    record = await world.record()
    assert [node.name for node in record.nodes] == [world.node(0), world.node(2), world.node(5)]
    assert [node.running for node in record.nodes] == [True, True, False]
    assert [node.addresses for node in record.nodes] == [node.addresses for node in plan.nodes]
    assert (record.seated, record.kept.seats) == (True, seats_of(plan))
    # What it was made as, when and by whom stays.
    assert (record.created_at, record.base_port, record.owner) == (before.created_at, before.base_port, before.owner)
    assert (record.spec["nodes"], record.spec["replicas"]) == (3, 0)
    # Nothing was started or removed; who is not recorded any more can be removed all the same.
    assert await world.ask(made, 1, "PING") == "PONG"
    assert (await world.runtime.inspect(world.name)).keys() == {node.name for node in plan.nodes}
    assert await world.runtime.remove(world.name, [world.node(1)]) == ()
    with pytest.raises(Unreachable):
        await world.ask(made, 1, "PING")
    await world.start(plan, 2)
    assert (await world.record()).running == 3
    assert await world.ask(plan, 2, "PING") == "PONG"


async def test_recording_a_cluster_anew_may_be_repeated_and_done_again(world: World) -> None:
    made = await world.prepared(nodes=3)
    one = await world.amended(made, replicas={7: world.node(1)})
    record = await world.record()
    await world.runtime.amend(one)
    assert await world.record() == record
    two = await world.amended(one, without=[0], replicas={3: world.node(2)})
    assert [node.index for node in (await world.record()).nodes] == [1, 2, 3, 7]
    assert (await world.record()).base_port == record.base_port
    await world.amended(two, without=[3, 7], replicas={0: world.node(1)})
    assert [node.index for node in (await world.record()).nodes] == [0, 1, 2]
    assert await world.runtime.remove(world.name) == ()
    assert not await world.runtime.inventory(world.name)


async def test_changed_members_are_kept_while_all_are_stopped(world: World) -> None:
    made = await world.prepared(nodes=3)
    plan = await world.amended(made, without=[0], replicas={4: world.node(1)})
    await world.begin(plan)
    await world.runtime.control(world.name, world.node(4), "stop")
    record = await world.record()
    again = build_plan(plan.spec, await world.runtime.survey(record), kept=record.kept)
    bound = bind(again, await world.runtime.prepare(again))
    assert bound.nodes == plan.nodes
    await world.start(bound, 2)
    assert (await world.record()).running == 3
    # Its ports are its own, wherever they are.
    reserved = (await world.runtime.survey()).reserved_ports
    assert {node.addresses.control.port for node in plan.nodes} <= reserved.keys()


async def test_ports_of_nodes_that_are_new_are_refused_where_they_are_taken(world: World) -> None:
    made = await world.started(nodes=1)
    before = await world.record()
    plan = await world.replanned(made, replicas={1: world.node(0)})
    port = world.ports(replace(plan, nodes=plan.nodes[1:]))[0]
    with world.occupied(port):
        with pytest.raises(PortTaken) as caught:
            await world.runtime.amend(plan)
        assert list(caught.value.ports) == [port]
        assert await world.record() == before
    await world.runtime.amend(plan)
    # Those that it had before are taken by itself.
    await world.runtime.amend(plan)
    assert len((await world.record()).nodes) == 2


async def test_only_what_is_recorded_is_recorded_anew(world: World) -> None:
    with pytest.raises(RuntimeUnavailable) as caught:
        await world.runtime.amend(await world.planned())
    assert caught.value.code == "not-prepared"
    assert not await world.clusters()
