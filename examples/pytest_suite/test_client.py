"""Every test finds the cluster empty, whatever the one before it left."""

import pytest
from redis.cluster import RedisCluster


@pytest.mark.parametrize("name", ["ada", "grace"])
def test_sign_up(valkey_cluster_client: RedisCluster, name: str) -> None:
    assert valkey_cluster_client.sadd("users", name) == 1
    assert valkey_cluster_client.smembers("users") == {name.encode()}


def test_keys_are_spread_over_all_primaries(valkey_cluster_client: RedisCluster) -> None:
    for number in range(100):
        valkey_cluster_client.set(f"key{number}", number)
    sizes = [valkey_cluster_client.dbsize(target_nodes=node) for node in valkey_cluster_client.get_primaries()]
    assert len(sizes) == 3
    assert sum(sizes) == 100
    assert min(sizes) > 10
