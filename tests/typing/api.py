"""A program that uses the whole API: type checkers read it, nobody runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Literal, assert_type

import redis
import redis.asyncio

import bootstrap
from bootstrap import blocking


def observe(event: bootstrap.Event) -> None:
    assert_type(event.name, str)
    assert_type(event.at, float)
    assert_type(event.fields, Mapping[str, Any])


FIELDS: bootstrap.SpecFields = {"nodes": 6, "replicas": 1, "base_port": "auto", "settings": {"save": ""}}


def constants(cluster: bootstrap.Cluster | blocking.Cluster) -> None:
    assert_type(cluster.name, str)
    assert_type(cluster.plan, bootstrap.Plan | None)
    assert_type(cluster.nodes, tuple[bootstrap.Node, ...])
    assert_type(cluster.node("valkey0"), bootstrap.Node)
    assert_type(cluster.node(0).addresses.host, bootstrap.Address)
    assert_type(cluster.endpoints(), tuple[bootstrap.Address, ...])
    assert_type(cluster.endpoints("network")[0].port, int)
    assert_type(cluster.connection_kwargs(), dict[str, Any])
    assert_type(cluster.snippet("glide", "network"), str)


def words(status: bootstrap.Status, diagnosis: bootstrap.Diagnosis) -> None:
    assert_type(status.healthy, bool)
    assert_type(status.nodes, tuple[bootstrap.NodeStatus, ...])
    assert_type(status.nodes[0].primary, str | None)
    assert_type(status.as_dict(), dict[str, Any])
    assert_type(diagnosis.healthy, bool)
    assert_type(diagnosis.findings, tuple[bootstrap.Finding, ...])
    assert_type(diagnosis.remap, Mapping[bootstrap.Address, bootstrap.Address])


def reshaped(made: bootstrap.Scaled) -> None:
    assert_type(made.changed, bool)
    assert_type(made.seconds, float)
    assert_type(made.status, bootstrap.Status | None)
    assert_type(made.deployment.nodes, tuple[bootstrap.Node, ...])
    assert_type(made.changes, tuple[bootstrap.Change, ...])
    assert_type(made.changes[0].sign, Literal["+", "~", "-"])
    assert_type(made.changes[0].text, str)
    assert_type(made.moves, tuple[bootstrap.SlotMove, ...])
    assert_type(made.moves[0].slots, tuple[tuple[int, int], ...])
    assert_type(made.moves[0].count, int)
    assert_type(made.as_dict(), dict[str, Any])


WEIGHTS_BY_NAME = {"valkey0": 2.0}
WEIGHTS_BY_INDEX = {0: 2, 1: 1}
WEIGHTS: dict[str | int, float] = {"valkey0": 2, 1: 0.5}


HOW: bootstrap.Changing = {"dry_run": True, "timeout": 1, "slots_at_once": 100, "observer": None}


async def asynchronous(spec: bootstrap.ClusterSpec) -> None:
    timeline = bootstrap.Timeline()
    login = bootstrap.Login(generate=True)
    certificates = bootstrap.Certificates(ca="", certificate="", key="")
    async with bootstrap.cluster(spec, keep=True, timeout=1, login=login, certificates=certificates) as kept:
        assert_type(kept, bootstrap.Cluster)
    async with bootstrap.cluster(nodes=3, replicas=0, login="secret", observer=timeline) as cluster:
        assert_type(cluster, bootstrap.Cluster)
        constants(cluster)
        client = cluster.client("host", decode_responses=True)
        _ = assert_type(client, redis.asyncio.RedisCluster)
        status = await cluster.status()
        assert_type(await cluster.wait(timeout=1, observer=observe), bootstrap.Status)
        words(status, await cluster.doctor(quick=True))
        assert_type(await cluster.logs(0, tail=1), str)
        assert_type(await cluster.call("PING", which="primaries"), list[bootstrap.Answer])
        assert_type(await cluster.failover(0, timeout=1), bootstrap.Status)
        assert_type(await cluster.add_node(number=2, replica_of=[0, "valkey1"], dry_run=True), bootstrap.Scaled)
        assert_type(await cluster.add_node("127.0.0.1:7007", primary=True, observer=observe), bootstrap.Scaled)
        assert_type(await cluster.remove_node(4, "valkey5", fewer_replicas=True, lose_data=True), bootstrap.Scaled)
        assert_type(await cluster.rebalance(WEIGHTS_BY_NAME, threshold=0), bootstrap.Scaled)
        assert_type(await cluster.rebalance(WEIGHTS_BY_INDEX, timeout=1), bootstrap.Scaled)
        assert_type(await cluster.reshard("valkey1", slots=range(100)), bootstrap.Scaled)
        reshaped(await cluster.scale(6, 1, timeout=1, observer=timeline))
        await cluster.reset(timeout=1)
        await cluster.stop()
        await cluster.delete()
    assert_type(await bootstrap.create(spec, retain=True, nodes=3), bootstrap.Cluster)
    assert_type(await bootstrap.create(**FIELDS), bootstrap.Cluster)
    assert_type(await bootstrap.form("127.0.0.1:7001", replicas=1, password="secret"), bootstrap.Cluster)
    assert_type(await bootstrap.attach("name", runtime="docker"), bootstrap.Cluster)
    assert_type(await bootstrap.clusters(state_root="/state"), Sequence[bootstrap.Record])
    assert_type(await bootstrap.delete("name"), bool)
    assert_type(timeline.phases, list[bootstrap.Phase])


def waited_for(spec: bootstrap.ClusterSpec) -> None:
    with blocking.cluster(nodes=3, replicas=0, observer=observe) as cluster:
        assert_type(cluster, blocking.Cluster)
        constants(cluster)
        assert_type(cluster.client(), redis.RedisCluster)
        _ = assert_type(cluster.async_client(), redis.asyncio.RedisCluster)
        words(cluster.wait(timeout=1), cluster.doctor())
        assert_type(cluster.status(), bootstrap.Status)
        assert_type(cluster.logs("valkey0"), str)
        assert_type(cluster.call("CONFIG", "GET", "port", which=[0, "valkey1"])[0].error, str)
        assert_type(cluster.failover("valkey1"), bootstrap.Status)
        assert_type(cluster.add_node(), bootstrap.Scaled)
        assert_type(cluster.remove_node(cluster.nodes[-1].name, dry_run=True), bootstrap.Scaled)
        assert_type(cluster.rebalance(), bootstrap.Scaled)
        assert_type(cluster.rebalance(WEIGHTS, **HOW), bootstrap.Scaled)
        assert_type(cluster.reshard(0, 1, count=100, of=(2, "valkey3")), bootstrap.Scaled)
        reshaped(cluster.scale(nodes=9, replicas=2))
        cluster.reset()
        cluster.stop()
        cluster.delete()
    assert_type(blocking.create(spec, **FIELDS), blocking.Cluster)
    assert_type(blocking.form("127.0.0.1:7001"), blocking.Cluster)
    assert_type(bootstrap.blocking.attach("127.0.0.1:7001", "127.0.0.1:7002"), blocking.Cluster)
    assert_type(blocking.clusters(runtime="process"), Sequence[bootstrap.Record])
    assert_type(blocking.delete("name"), bool)


def pure() -> None:
    plan = bootstrap.plan(bootstrap.ClusterSpec(nodes=6), name="shop")
    assert_type(plan, bootstrap.Plan)
    assert_type(plan.nodes, tuple[bootstrap.PlannedNode, ...])
    assert_type(plan.as_dict(), dict[str, Any])
    assert_type(bootstrap.plan(site=bootstrap.Site.assumed(bootstrap.ClusterSpec())), bootstrap.Plan)
    assert_type(bootstrap.snippet("redis-py", plan, "network"), str)
    assert_type(bootstrap.snippet("ioredis", bootstrap.Contact(addresses=(plan.nodes[0].addresses.host,))), str)
    assert_type(bootstrap.__version__, str)


async def refused() -> None:
    """What is wrong is told before it runs; each line is an error, and were it none, its comment would be."""
    await bootstrap.create(node=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bootstrap.create(nodes="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bootstrap.create(runtime="podman")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bootstrap.snippet("telnet", bootstrap.plan())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def raise_as_timeout(error: TimeoutError) -> None:
    raise error


def failed(error: bootstrap.BootstrapError) -> None:
    assert_type(error.code, str)
    assert_type(error.message, str)
    assert_type(error.hint, str)
    assert_type(error.nodes, dict[str, str])
    assert_type(error.exit_code, int)
    match error:
        case bootstrap.SpecError():
            assert_type(error.problems, tuple[bootstrap.Problem, ...])
        case bootstrap.PortTaken():
            assert_type(error.ports, dict[int, str])
        case bootstrap.Taken():
            assert_type(error, bootstrap.Taken)
        case bootstrap.NotConverged():
            raise_as_timeout(error)
        case bootstrap.RuntimeUnavailable() | bootstrap.Conflict() | bootstrap.NodeFailed() | bootstrap.UsageError():
            assert_type(error.as_dict(), dict[str, object])
        case _:
            pass


ASYNC_BLOCK: AbstractAsyncContextManager[bootstrap.Cluster] = bootstrap.cluster()
BLOCK: AbstractContextManager[blocking.Cluster] = blocking.cluster()
OBSERVER: bootstrap.Observer = bootstrap.Timeline()
