"""Clusters whose members were changed since their creation: recorded anew, grown, shrunk, stopped, started, reset."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import docker
import pytest

import bootstrap
from bootstrap import Cluster, ClusterSpec
from bootstrap.operations.deployment import Node
from bootstrap.planning.addressing import ports_used
from bootstrap.planning.plan import Plan, Seat, build_plan, seated_spec, seats_of
from bootstrap.planning.ports import next_ports
from bootstrap.runtimes.base import Record, Runtime
from bootstrap.runtimes.engine.labels import CLUSTER, GENERATION, RECORD, renewal_name

from .conftest import ask, find_server
from .containers import Containers, image_of

pytestmark = pytest.mark.servers

KINDS = ["process", pytest.param("docker", marks=pytest.mark.docker)]


@dataclass
class Grown:
    """A cluster of four, and what a verb does that changes its members."""

    spec: ClusterSpec
    cluster: Cluster

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def runtime(self) -> Runtime:
        found: Runtime = self.cluster._runtime()
        return found

    @property
    def plan(self) -> Plan:
        assert self.cluster.plan is not None
        return self.cluster.plan

    async def record(self) -> Record:
        (record,) = await self.runtime.inventory(self.name)
        return record

    async def amend(self, *more: Seat, without: Collection[str] = ()) -> None:
        """Record the cluster with further seats, and without some nodes; they take the next free ports."""
        while True:
            try:
                return await self._amend(*more, without=without)
            except bootstrap.Taken:  # by another test, between the survey and now
                continue

    async def _amend(self, *more: Seat, without: Collection[str]) -> None:
        record = await self.record()
        site = await self.runtime.survey(record)
        seats = [s for s, node in zip(seats_of(self.plan), self.plan.nodes, strict=True) if node.name not in without]
        use = ports_used(record.announcement, publish=True)
        ports = next_ports(site, [seat.port for seat in seats], len(more), use, base=record.base_port)
        seats += [replace(seat, port=port) for seat, port in zip(more, ports, strict=True)]
        spec = seated_spec(self.spec, seats)
        plan = build_plan(spec, site, kept=replace(record.kept, seats=tuple(seats)))
        async with self.runtime.claim(self.name):
            await self.runtime.amend(plan)
        self.spec = spec

    async def create(self) -> Cluster:
        self.cluster = await bootstrap.create(self.spec)
        return self.cluster

    async def grow(self) -> Node:
        """A further replica of the second primary, with a hole before it; the node."""
        await self.amend(Seat(6, 0, self.plan.nodes[0].host, primary=self.plan.nodes[1].name))
        return (await self.create()).nodes[-1]

    async def drop(self, name: str) -> None:
        """Let the others forget a replica, and remove it."""
        status = await self.cluster.status()
        (lost,) = [node.id for node in status.nodes if node.name == name]
        await self.amend(without=[name])
        others = [node.name for node in self.cluster.nodes if node.name != name]
        answers = await self.cluster.call("CLUSTER", "FORGET", str(lost), which=others)
        assert [each.reply for each in answers] == ["OK"] * len(others)
        assert await self.runtime.remove(self.name, [name]) == ()


@pytest.fixture(params=KINDS)
async def grown(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Grown]:
    name = f"s{os.getpid()}-{os.environ.get('PYTEST_XDIST_WORKER', 'gw')}x"
    spec = ClusterSpec(name=name, nodes=4, replicas=1, base_port="auto", state_root=str(tmp_path))
    if request.param == "docker":
        request.getfixturevalue("engine")
        spec = replace(spec, runtime="docker", image=image_of("valkey-9.1"), pull="never")
    else:
        spec = replace(spec, runtime="process", server=find_server("valkey-9.1"))
    cluster = await bootstrap.create(spec)
    made = Grown(spec, cluster)
    yield made
    await bootstrap.delete(name, runtime=spec.runtime, state_root=spec.state_root)
    assert not await made.runtime.inventory(name)


async def following(cluster: Cluster) -> dict[str, str | None]:
    """Node -> its primary, as all of them say."""
    status = await cluster.wait(timeout=20)
    return {node.name: node.primary for node in status.nodes}


async def test_a_node_is_added_and_stays_through_a_stop(grown: Grown) -> None:
    second = grown.plan.nodes[1].name
    before = {node.name: node.id for node in (await grown.cluster.status()).nodes}
    new = await grown.grow()
    assert new.name == f"{grown.name}6"
    assert len(grown.cluster.nodes) == 5
    assert grown.plan.seated
    assert grown.plan.arithmetic == "5 nodes = 2 primaries + 3 replicas"
    assert (await following(grown.cluster))[new.name] == second
    status = await grown.cluster.status()
    assert {node.name: node.id for node in status.nodes if node.name != new.name} == before
    assert grown.cluster.node(6) is grown.cluster.node(str(new.addresses.host)) is new
    await grown.cluster.stop()
    assert (await grown.record()).running == 0
    again = await grown.create()
    assert (await grown.record()).running == 5
    assert (await following(again))[new.name] == second
    assert {node.name: node.id for node in (await again.status()).nodes} == {
        node.name: node.id for node in status.nodes
    }


async def test_every_verb_sees_the_new_node(grown: Grown) -> None:
    new = await grown.grow()
    found = await bootstrap.attach(grown.name, runtime=grown.spec.runtime, state_root=grown.spec.state_root)
    assert [node.name for node in found.nodes][-1] == new.name
    status = await found.wait(timeout=20)
    assert [node.name for node in status.nodes] == [node.name for node in found.nodes]
    assert found.endpoints()[-1] == new.addresses.host
    assert f"{found.endpoints()[0].port}" in found.snippet("redis-py")
    diagnosis = await found.doctor()
    assert not [finding for finding in diagnosis.findings if finding.level == "error"], diagnosis.findings
    assert await found.logs(6)
    (record,) = [
        each
        for each in await bootstrap.clusters(runtime=grown.spec.runtime, state_root=grown.spec.state_root)
        if each.name == grown.name
    ]
    assert (len(record.nodes), record.running) == (5, 5)


async def test_other_counts_than_the_recorded_ones_are_refused(grown: Grown) -> None:
    await grown.grow()
    with pytest.raises(bootstrap.Conflict, match="nodes is 5, asked for is 4") as caught:
        await bootstrap.create(replace(grown.spec, nodes=4))
    assert f"`valkey-bootstrap scale --name {grown.name}`" in caught.value.hint
    with pytest.raises(bootstrap.Conflict, match="base_port") as other:
        await bootstrap.create(replace(grown.spec, base_port=1024))
    assert "scale" not in other.value.hint
    record = await grown.record()
    assert len((await bootstrap.create(replace(grown.spec, base_port=record.base_port))).nodes) == 5


async def test_a_node_that_was_dropped_leaves_a_hole(grown: Grown) -> None:
    second = grown.plan.nodes[1].name
    new = await grown.grow()
    old = next(node.name for node in grown.plan.replicas if node.primary == second)
    await grown.drop(old)
    cluster = await grown.create()
    assert grown.plan.arithmetic == "4 nodes = 2 primaries + 2 replicas"
    assert [node.name for node in cluster.nodes] == [node.name for node in grown.plan.nodes]
    assert (await following(cluster)).get(new.name) == second
    assert old not in await following(cluster)
    await cluster.stop()
    again = await grown.create()
    assert (await following(again))[new.name] == second
    # Its index can be had again.
    await grown.amend(Seat(int(old[-1]), 0, grown.plan.nodes[0].host, primary=second))
    assert (await following(await grown.create()))[old] == second


async def test_a_reset_brings_every_node_back_to_its_seat(grown: Grown) -> None:
    new = await grown.grow()
    cluster = grown.cluster
    await following(cluster)
    await cluster.failover(new.name)
    await cluster.reset()
    assert (await cluster.status()).agreement.layout == grown.plan.layout
    # Whatever cannot be healed is formed anew.
    await cluster.call("FLUSHALL", which="primaries")
    await cluster.call("CLUSTER", "RESET", "HARD", which=[new.name, grown.plan.nodes[0].name])
    # Without the plan it is made of the record.
    found = await bootstrap.attach(grown.name, runtime=grown.spec.runtime, state_root=grown.spec.state_root)
    await found.reset()
    assert (await found.status()).agreement.layout == grown.plan.layout


async def test_a_handle_from_before_does_not_reset_what_it_does_not_know(grown: Grown) -> None:
    before = grown.cluster
    await grown.grow()
    ports = [node.addresses.control.port for node in grown.plan.nodes]
    ids = [await in_thread(ask, port, "CLUSTER", "MYID") for port in ports] if grown.plan.network is None else []
    with pytest.raises(bootstrap.Conflict) as caught:
        await before.reset()
    assert caught.value.code == "members-changed"
    assert ids == [await in_thread(ask, port, "CLUSTER", "MYID") for port in ports][: len(ids)]


async def in_thread(call: Any, *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(partial(call, *arguments))


@pytest.fixture
async def engine_grown(
    engine: docker.DockerClient, tmp_path: Path, containers: Containers
) -> AsyncIterator[tuple[Grown, docker.APIClient]]:
    """A cluster of four in containers that was grown, and the engine."""
    spec = ClusterSpec(
        name=containers.name, nodes=4, replicas=1, base_port="auto", state_root=str(tmp_path),
        runtime="docker", image=image_of("valkey-9.1"), pull="never",
    )  # fmt: skip
    made = Grown(spec, await bootstrap.create(spec))
    await made.grow()
    yield made, engine.api
    await bootstrap.delete(made.name, runtime="docker")
    await in_thread(containers.assert_nothing_left)


def records_of(api: docker.APIClient, name: str) -> list[str]:
    found = api.volumes(filters={"label": f"{CLUSTER}={name}"})["Volumes"]
    return sorted(each["Name"] for each in found if GENERATION in each["Labels"])


def prune(api: docker.APIClient, name: str, *, renewals: bool = False) -> None:
    """What `docker container prune`, `docker network prune` and `docker volume prune --all` do while it is stopped."""
    mine = {"label": f"{CLUSTER}={name}"}
    for each in api.containers(all=True, filters=mine):
        api.remove_container(each["Id"])
    for each in api.networks(filters=mine):
        api.remove_network(each["Id"])
    for volume in records_of(api, name) if renewals else ():
        api.remove_volume(volume)


@pytest.mark.docker
@pytest.mark.parametrize("renewals", [False, True], ids=["kept", "pruned"])
async def test_members_outlive_pruning(engine_grown: tuple[Grown, docker.APIClient], renewals: bool) -> None:
    grown, api = engine_grown
    layout, nodes = grown.plan.layout, [node.addresses for node in grown.cluster.nodes]
    assert await in_thread(records_of, api, grown.name) == [renewal_name(grown.name, 1)]
    await grown.cluster.stop()
    await in_thread(partial(prune, api, grown.name, renewals=renewals))
    record = await grown.record()
    assert record.seated
    assert len(record.nodes) == 5
    again = await grown.create()
    assert [node.addresses for node in again.nodes] == nodes
    assert (await again.wait(timeout=20)).agreement.layout is not None
    assert grown.plan.layout == layout


@pytest.mark.docker
async def test_the_network_and_its_newcomers_are_the_record_where_the_renewal_is_gone(
    engine_grown: tuple[Grown, docker.APIClient],
) -> None:
    grown, api = engine_grown
    before = await grown.record()
    await in_thread(api.remove_volume, renewal_name(grown.name, 1))
    record = await grown.record()
    assert record == replace(before, spec=record.spec)
    assert {key for key in record.spec if record.spec[key] != before.spec[key]} == set()
    assert len((await grown.create()).nodes) == 5


@pytest.mark.docker
async def test_what_a_kill_left_of_renewals_is_removed_by_the_next_one(
    engine_grown: tuple[Grown, docker.APIClient],
) -> None:
    grown, api = engine_grown
    name = grown.name
    (labels,) = [each["Labels"] for each in [await in_thread(api.inspect_volume, renewal_name(name, 1))]]
    make = partial(api.create_volume, renewal_name(name, 9), labels={**labels, GENERATION: "9"})
    await in_thread(make)
    record = await grown.record()
    await grown.amend()
    # The same again makes none.
    assert await in_thread(records_of, api, name) == [renewal_name(name, 9)]
    assert await grown.record() == record
    await grown.amend(Seat(3 + 4, 0, "elsewhere", primary=grown.plan.nodes[0].name))
    assert await in_thread(records_of, api, name) == [renewal_name(name, 10)]
    assert len((await grown.record()).nodes) == 6


@pytest.mark.docker
@pytest.mark.parametrize("kind", ["container", "volume"])
async def test_a_name_that_somebody_else_has_is_not_recorded(
    engine_grown: tuple[Grown, docker.APIClient], kind: str
) -> None:
    grown, api = engine_grown
    if kind == "container":
        made = await in_thread(partial(api.create_container, image_of("valkey-9.1"), name=f"{grown.name}8"))
        remove = partial(api.remove_container, made["Id"])
    else:
        await in_thread(api.create_volume, f"{grown.name}8-data")
        remove = partial(api.remove_volume, f"{grown.name}8-data")
    try:
        with pytest.raises(bootstrap.Conflict) as caught:
            await grown.amend(Seat(8, 0, "elsewhere", primary=grown.plan.nodes[0].name))
        assert caught.value.code == f"{kind}-taken"
        assert len((await grown.record()).nodes) == 5
        assert await in_thread(records_of, api, grown.name) == [renewal_name(grown.name, 1)]
    finally:
        await in_thread(remove)


@pytest.mark.docker
async def test_a_volume_of_somebody_else_is_no_record(engine_grown: tuple[Grown, docker.APIClient]) -> None:
    grown, api = engine_grown
    theirs = renewal_name(grown.name, 2)
    await in_thread(api.create_volume, theirs)
    try:
        with pytest.raises(bootstrap.Conflict) as caught:
            await grown.amend(Seat(8, 0, "elsewhere", primary=grown.plan.nodes[0].name))
        assert caught.value.code == "volume-taken"
        assert len((await grown.record()).nodes) == 5
    finally:
        await in_thread(api.remove_volume, theirs)
    for damage in ({GENERATION: "x"}, {RECORD: "{}"}):
        made = await in_thread(api.inspect_volume, renewal_name(grown.name, 1))
        await in_thread(partial(api.create_volume, theirs, labels={**made["Labels"], GENERATION: "2", **damage}))
        try:
            with pytest.raises(bootstrap.Conflict) as unreadable:
                await grown.record()
            assert unreadable.value.code == "bad-record"
        finally:
            await in_thread(api.remove_volume, theirs)
