"""A cluster that is used again is what it was when it was created, whatever was done to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import anyio
import pytest
import redis
from redis.exceptions import ResponseError

import bootstrap
from bootstrap import Cluster, ClusterSpec, Status
from bootstrap.runtimes.base import Action

from .conftest import ask, find_server
from .containers import image_of

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("state"))


PASSWORD = "only for tests"

# One cluster of each kind for all tests here.
KINDS = [
    pytest.param("valkey-9.1", marks=pytest.mark.xdist_group("reset-valkey")),
    pytest.param("redis-7.0", marks=pytest.mark.xdist_group("reset-redis")),
    pytest.param("docker", marks=[pytest.mark.xdist_group("reset-docker"), pytest.mark.docker]),
]


@pytest.fixture(scope="module", params=KINDS)
async def shared(request: pytest.FixtureRequest, root: str) -> AsyncIterator[Cluster]:
    spec = ClusterSpec(name=f"reset-{request.param.replace('.', '-')}x", base_port="auto", state_root=root)
    if request.param == "docker":
        request.getfixturevalue("engine")
        spec = replace(spec, runtime="docker", image=image_of("valkey-9.1"))
    else:
        spec = replace(spec, runtime="process", server=find_server(request.param))
    if request.param != "redis-7.0":
        spec = replace(spec, settings={"cluster-databases": "4"})
    async with bootstrap.cluster(spec, login=PASSWORD) as cluster:
        yield cluster


@pytest.fixture
async def cluster(shared: Cluster) -> AsyncIterator[Cluster]:
    """It may be left in any state: the next test resets it, too."""
    await shared.reset()
    yield shared
    await shared.reset()
    await assert_pristine(shared)


def port(cluster: Cluster, index: int) -> int:
    return cluster.nodes[index].addresses.host.port


def call(cluster: Cluster, index: int, *command: str | int) -> object:
    return ask(port(cluster, index), *command, password=PASSWORD)


def leads(cluster: Cluster, index: int) -> bool:
    found = call(cluster, index, "ROLE")
    assert isinstance(found, list)
    return bool(found[0] == "master")


async def control(cluster: Cluster, index: int, action: Action) -> None:
    runtime = cluster._deployment.runtime
    assert runtime is not None
    await runtime.control(cluster.name, cluster.nodes[index].name, action)


async def assert_pristine(cluster: Cluster) -> None:
    status = await cluster.status()
    assert status.healthy, status.agreement.doubts
    assert cluster.plan is not None
    assert status.agreement.layout == cluster.plan.layout
    for index in range(6):
        assert call(cluster, index, "DBSIZE") == 0
        assert call(cluster, index, "FUNCTION", "LIST") == []


def identity(status: Status) -> list[str]:
    return [node.id for node in status.nodes]


async def test_what_was_stored_is_gone_everywhere(cluster: Cluster) -> None:
    before = identity(await cluster.status())
    client = cluster.client()
    for number in range(100):
        await client.set(f"key{number}", number)
    await client.aclose()
    for index in range(3):
        call(cluster, index, "FUNCTION", "LOAD", "#!lua name=f\nredis.register_function('f', function() end)")
    digest = call(cluster, 4, "SCRIPT", "LOAD", "return 1")
    assert call(cluster, 4, "SCRIPT", "EXISTS", str(digest)) == [1]
    await cluster.reset()
    await assert_pristine(cluster)
    assert call(cluster, 4, "SCRIPT", "EXISTS", str(digest)) == [0]
    assert identity(await cluster.status()) == before


async def test_every_database_is_emptied(cluster: Cluster) -> None:
    # Redis has one database in a cluster.
    more = call(cluster, 0, "CONFIG", "GET", "cluster-databases") == ["cluster-databases", "4"]
    databases = [0, 3] if more else [0]
    for database in databases:
        with redis.Redis(host="127.0.0.1", port=port(cluster, 0), db=database, password=PASSWORD) as client:
            # Slot 3300 is the first node's.
            assert client.set("b", "value")
    assert len(keyspace(cluster)) == len(databases)
    await cluster.reset()
    assert keyspace(cluster) == {}


def keyspace(cluster: Cluster) -> dict[str, object]:
    found = call(cluster, 0, "INFO", "keyspace")
    assert isinstance(found, dict)
    return found


async def test_a_failover_is_taken_back(cluster: Cluster) -> None:
    before = identity(await cluster.status())
    assert cluster.plan is not None
    for index in (3, 4, 5):
        call(cluster, index, "CLUSTER", "FAILOVER", "TAKEOVER")
    with anyio.fail_after(10):
        while not all(leads(cluster, index) for index in (3, 4, 5)):
            await anyio.sleep(0.02)
    await cluster.wait(timeout=10)
    await cluster.reset()
    await assert_pristine(cluster)
    assert identity(await cluster.status()) == before


@pytest.mark.parametrize("action", ["kill", "stop", "pause"])
async def test_servers_are_revived(cluster: Cluster, action: Action) -> None:
    call(cluster, 1, "CLIENT", "PAUSE", 60_000, "WRITE")
    for index in (0, 4):
        await control(cluster, index, action)
    await cluster.reset(timeout=20)
    await assert_pristine(cluster)


async def test_one_that_was_taken_over_from_leads_again(cluster: Cluster) -> None:
    for index in range(6):
        call(cluster, index, "CONFIG", "SET", "cluster-node-timeout", 1000)
    await control(cluster, 0, "kill")
    assert cluster.plan is not None
    heir = next(node.index for node in cluster.plan.nodes if node.primary == cluster.nodes[0].name)
    with anyio.fail_after(30):
        while not leads(cluster, heir):
            await anyio.sleep(0.05)
    await cluster.reset(timeout=20)
    await assert_pristine(cluster)


def moved_slots(cluster: Cluster) -> None:
    target = str(call(cluster, 1, "CLUSTER", "MYID"))
    for index in (1, 0, 2):
        call(cluster, index, "CLUSTER", "SETSLOT", 0, "NODE", target)


def open_slot(cluster: Cluster) -> None:
    call(cluster, 0, "CLUSTER", "SETSLOT", 5, "MIGRATING", str(call(cluster, 1, "CLUSTER", "MYID")))


def lost_slots(cluster: Cluster) -> None:
    call(cluster, 0, "CLUSTER", "DELSLOTSRANGE", 0, 99)


def forgotten(cluster: Cluster) -> None:
    stranger = str(call(cluster, 1, "CLUSTER", "MYID"))
    for index in (0, 2):
        call(cluster, index, "CLUSTER", "FORGET", stranger)


def left(cluster: Cluster) -> None:
    call(cluster, 2, "CLUSTER", "RESET", "HARD")


@pytest.mark.parametrize("harm", [moved_slots, open_slot, lost_slots, forgotten, left])
async def test_a_cluster_that_fell_apart_is_formed_anew(cluster: Cluster, harm: Callable[[Cluster], None]) -> None:
    harm(cluster)
    await cluster.reset(timeout=20)
    await assert_pristine(cluster)


async def test_a_script_that_does_not_end_is_ended(cluster: Cluster) -> None:
    for index in range(3):
        call(cluster, index, "CONFIG", "SET", "busy-reply-threshold", 100)

    async def spin() -> None:
        client = cluster.client(socket_timeout=30)
        with pytest.raises(ResponseError, match="killed"):
            await client.eval("while true do end", 1, "key")
        await client.aclose()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(spin)
            await anyio.sleep(0.5)
            await cluster.reset(timeout=25)


async def test_by_name_it_is_what_its_record_says(cluster: Cluster, root: str) -> None:
    found = await bootstrap.attach(cluster.name, state_root=root)
    assert found.plan is None
    call(cluster, 0, "CLUSTER", "DELSLOTSRANGE", 0, 99)
    await found.reset(timeout=20)
    await assert_pristine(cluster)


async def test_servers_of_others_are_never_emptied(cluster: Cluster) -> None:
    theirs = await bootstrap.attach(str(cluster.nodes[0].addresses.host), password=PASSWORD)
    client = cluster.client()
    await client.set("key", "value")
    with pytest.raises(bootstrap.UsageError, match="never emptied") as raised:
        await theirs.reset()
    assert raised.value.code == "not-ours"
    assert await client.get("key") == b"value"
    await client.aclose()
