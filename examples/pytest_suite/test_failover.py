"""A primary goes, and its replica takes over; the test after this one gets a whole cluster again."""

import time

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from bootstrap.blocking import Cluster


def test_a_replica_takes_over_with_the_data(valkey_clean_cluster: Cluster, valkey_cluster_client: RedisCluster) -> None:
    valkey_cluster_client.set("key", "before")
    node = valkey_cluster_client.get_node_from_key("key")
    assert node is not None
    (lost,) = (each.name for each in valkey_clean_cluster.nodes if each.addresses.host.port == node.port)
    (heir,) = (each.index for each in valkey_clean_cluster.status().nodes if each.primary == lost)

    # Without retries: a server that has shut down is not to be asked again.
    with redis.Redis(host=node.host, port=node.port, retry=Retry(NoBackoff(), 0)) as primary:
        assert primary.wait(1, 5000) == 1, "the replica has it"
        primary.shutdown(nosave=True)
    deadline = time.monotonic() + 30
    while valkey_clean_cluster.status().nodes[heir].role != "primary":
        assert time.monotonic() < deadline, "nobody took over"

    assert valkey_cluster_client.get("key") == b"before"
    assert valkey_cluster_client.set("key", "after")
