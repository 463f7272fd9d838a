"""A suite that uses every fixture of the plugin: type checkers read it, nobody runs it."""

from __future__ import annotations

from typing import Any, assert_type

import pytest
import redis
import redis.asyncio

import bootstrap
from bootstrap import blocking
from pytest_valkey_bootstrap import ClusterFactory


@pytest.fixture(scope="session")
def valkey_cluster_spec() -> bootstrap.SpecFields:
    return {"nodes": 6, "replicas": 1}


@pytest.fixture(scope="session")
def valkey_cluster_login() -> str:
    return "secret"


def test_fixtures(
    valkey_cluster: blocking.Cluster,
    valkey_clean_cluster: blocking.Cluster,
    valkey_cluster_client: redis.RedisCluster,
    valkey_cluster_factory: ClusterFactory,
) -> None:
    assert_type(valkey_cluster.connection_kwargs(), dict[str, Any])
    _ = assert_type(valkey_clean_cluster.async_client(), redis.asyncio.RedisCluster)
    valkey_cluster_client.set("key", "value")
    assert_type(valkey_cluster_factory(), blocking.Cluster)
    assert_type(valkey_cluster_factory(bootstrap.ClusterSpec(), nodes=3, replicas=0), blocking.Cluster)
    valkey_cluster_factory(node=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
