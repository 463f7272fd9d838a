"""The library with containers: for a block, for longer, by name, and several at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Unpack

import anyio
import anyio.to_thread
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from redis.cluster import RedisCluster

import bootstrap
from bootstrap import Cluster, Event, Timeline
from bootstrap.planning.spec import SpecFields

from .containers import PROJECT, Containers, image_of, python_inside

pytestmark = [pytest.mark.servers, pytest.mark.docker]


def three(**more: Unpack[SpecFields]) -> SpecFields:
    """Three primaries in containers, unless said otherwise."""
    found = SpecFields(nodes=3, replicas=0, runtime="docker", image=image_of("valkey-9.1"), pull="never")
    found.update(more)
    return found


@pytest.fixture
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call on the event loop is an error."""
    with blockbuster_ctx() as found:
        yield found


def named(containers: Containers, name: str) -> Containers:
    """The engine's view of a cluster that the library named."""
    return Containers(containers.command, name, containers.engine)


async def assert_nothing_left(containers: Containers, name: str) -> None:
    await anyio.to_thread.run_sync(named(containers, name).assert_nothing_left)


@pytest.fixture
async def running(containers: Containers) -> AsyncIterator[Cluster]:
    async with bootstrap.cluster(**three(name=containers.name, base_port="auto")) as found:
        yield found


async def test_for_a_block(containers: Containers, blockbuster: BlockBuster) -> None:
    seen: list[Event] = []
    async with bootstrap.cluster(observer=seen.append, **three()) as cluster:
        assert cluster.name.startswith("vb-")
        assert cluster.plan is not None
        assert cluster.plan.runtime == "docker"
        assert (await cluster.status()).healthy
        client = cluster.client(decode_responses=True)
        try:
            for number in range(50):
                assert await client.set(f"key{number}", number)
                assert await client.get(f"key{number}") == str(number)
        finally:
            await client.aclose()
        assert "Ready to accept connections" in await cluster.logs(0)
        found = await anyio.to_thread.run_sync(named(containers, cluster.name).containers)
        assert [str(each.name) for each in found] == [node.name for node in cluster.nodes]
        (record,) = [each for each in await bootstrap.clusters(runtime="docker") if each.name == cluster.name]
        assert (record.runtime, record.running, record.orphan) == ("docker", 3, False)
    await assert_nothing_left(containers, cluster.name)
    assert {event.cluster for event in seen} == {cluster.name}
    assert seen[-1].name == "cluster.ready"


async def test_addresses_for_both_audiences(running: Cluster, containers: Containers) -> None:
    names = [f"{containers.name}{index}" for index in range(3)]
    ports = [address.port for address in running.endpoints()]
    assert [str(address) for address in running.endpoints()] == [f"127.0.0.1:{port}" for port in ports]
    assert [(each.host, each.port) for each in running.endpoints("network")] == list(zip(names, ports, strict=True))
    assert running.connection_kwargs() == {"host": "127.0.0.1", "port": ports[0]}
    assert running.connection_kwargs("network") == {"host": names[0], "port": ports[0]}
    assert running.node(f"{names[1]}:{ports[1]}") is running.node(1)
    assert running.node(f"127.0.0.1:{ports[2]}") is running.node(names[2])

    def ask_both() -> tuple[bool, bool]:
        with RedisCluster(**running.connection_kwargs()) as client:
            here = client.set("key", "there")
        source = f"""
import json
from redis.cluster import RedisCluster
print(json.dumps(RedisCluster(**{running.connection_kwargs("network")}).get("key").decode()))
"""
        return bool(here), python_inside(containers, source, network=containers.network_name) == "there"

    assert await anyio.to_thread.run_sync(ask_both) == (True, True)


async def test_no_addresses_for_the_network(containers: Containers) -> None:
    async with bootstrap.cluster(**three(name=containers.name, announce="client-address", base_port="auto")) as cluster:
        assert [each.host for each in cluster.endpoints()] == ["127.0.0.1"] * 3
        for use in (cluster.endpoints, cluster.connection_kwargs):
            with pytest.raises(bootstrap.UsageError) as refused:
                use("network")
            assert refused.value.code == "no-such-audience"
    await assert_nothing_left(containers, containers.name)


async def test_two_at_once_are_two(containers: Containers) -> None:
    timelines = Timeline(), Timeline()
    async with (
        bootstrap.cluster(observer=timelines[0], **three()) as one,
        bootstrap.cluster(observer=timelines[1], **three()) as other,
    ):
        assert one.name != other.name
        assert set(one.endpoints()).isdisjoint(other.endpoints())
        assert one.plan is not None
        assert other.plan is not None
        assert one.plan.network != other.plan.network
        assert {one.name, other.name} <= {each.name for each in await bootstrap.clusters(runtime="docker")}
        assert (await one.status()).healthy
        assert (await other.status()).healthy
    for cluster, timeline in ((one, timelines[0]), (other, timelines[1])):
        await assert_nothing_left(containers, cluster.name)
        names = [phase.name for phase in timeline.phases]
        assert names[:2] == ["network", "start"]
        assert names[-1] == "proof"


async def test_two_in_one_task_group(containers: Containers) -> None:
    # At the same moment, so that ports and subnets are chosen side by side.
    names: list[str] = []

    async def one() -> None:
        async with bootstrap.cluster(**three(nodes=1)) as cluster:
            names.append(cluster.name)
            assert (await cluster.status()).healthy

    async with anyio.create_task_group() as group:
        for _ in range(4):
            group.start_soon(one)
    assert len(set(names)) == 4
    for name in names:
        await assert_nothing_left(containers, name)


async def test_create_stop_create_attach_delete(containers: Containers, blockbuster: BlockBuster) -> None:
    name = containers.name
    made = await bootstrap.create(**three(name=name, base_port="auto"))
    by_name = await bootstrap.attach(name, runtime="docker")
    by_address = await bootstrap.attach(str(made.endpoints()[0]))
    assert (by_name.nodes, by_name.plan) == (made.nodes, None)
    # What nodes announce leads there, too.
    assert made.plan is not None
    assert set(by_address.endpoints()) - set(made.endpoints()) <= set(made.plan.announced.values())
    assert len(by_address.endpoints()) == 3
    assert (await by_address.status()).healthy
    with pytest.raises(bootstrap.UsageError, match="somebody else runs these servers"):
        await by_address.delete()
    await by_name.stop()
    (record,) = [each for each in await bootstrap.clusters(runtime="docker") if each.name == name]
    assert record.running == 0
    assert not (await made.status()).healthy
    again = await bootstrap.create(**three(name=name))
    assert again.endpoints() == made.endpoints()
    with pytest.raises(bootstrap.Conflict) as differs:
        await bootstrap.create(**three(name=name, nodes=4))
    assert differs.value.code == "spec-differs"
    assert await bootstrap.delete(name, runtime="docker")
    assert not await bootstrap.delete(name, runtime="docker")
    await assert_nothing_left(containers, name)
    with pytest.raises(bootstrap.UsageError) as gone:
        await bootstrap.attach(name, runtime="docker")
    assert gone.value.code == "no-such-cluster"


async def test_a_cluster_that_was_there_stays(running: Cluster, containers: Containers) -> None:
    async with bootstrap.cluster(**three(name=containers.name)) as same:
        assert same.endpoints() == running.endpoints()
    assert (await running.status()).healthy


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, 1.0, 2.0])
async def test_cancellation_removes(containers: Containers, delay: float) -> None:
    with anyio.move_on_after(delay) as scope:
        async with bootstrap.cluster(**three(name=containers.name, base_port="auto")):
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    await assert_nothing_left(containers, containers.name)


async def test_an_exception_in_the_block_removes(containers: Containers) -> None:
    with pytest.raises(ZeroDivisionError):
        async with bootstrap.cluster(**three(name=containers.name, base_port="auto", nodes=1)):
            raise ZeroDivisionError
    await assert_nothing_left(containers, containers.name)


async def test_a_deadline_that_is_too_short(containers: Containers) -> None:
    with pytest.raises(bootstrap.BootstrapError) as late:
        await bootstrap.create(timeout=0.4, **three(name=containers.name, base_port="auto"))
    assert isinstance(late.value, (bootstrap.NotConverged, bootstrap.NodeFailed))
    assert "0.4 s" in late.value.message
    await assert_nothing_left(containers, containers.name)


async def test_an_image_that_is_not_there(containers: Containers) -> None:
    with pytest.raises(bootstrap.RuntimeUnavailable) as missing:
        await bootstrap.create(**three(name=containers.name, image="valkey-bootstrap-test:nothing"))
    assert (missing.value.code, missing.value.exit_code) == ("no-image", 3)
    await assert_nothing_left(containers, containers.name)


OWNER = """
import sys, anyio, bootstrap

async def main():
    where = dict(runtime="docker", image=sys.argv[2], pull="never")
    async with bootstrap.cluster(name=sys.argv[1], nodes=1, replicas=0, base_port="auto", **where):
        print("ready", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_the_cluster_of_a_program_that_died_is_an_orphan(containers: Containers) -> None:
    def orphan() -> bool:
        records = containers.json("list")["clusters"]
        return next(bool(each["orphan"]) for each in records if each["name"] == containers.name)

    with subprocess.Popen(
        [sys.executable, "-c", OWNER, containers.name, image_of("valkey-9.1")], stdout=subprocess.PIPE, text=True,
        env={**containers.command.env(), "PYTHONPATH": str(PROJECT)},
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        assert not orphan()
        owner.kill()
        owner.wait(10)
    assert orphan()
    # Not `delete --orphans`: others on this engine may have some of their own.
    containers.ok("delete")
    containers.assert_nothing_left()
