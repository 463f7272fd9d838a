"""Clusters in containers: what they are, and who reaches them."""

from __future__ import annotations

import pytest

from .containers import Containers, python_inside

pytestmark = [pytest.mark.servers, pytest.mark.docker]

KEYS = 10_000
WRITE_AND_READ = """
import json
from redis.cluster import RedisCluster
client = RedisCluster(host={host!r}, port={port}, decode_responses=True)
for number in range({keys}):
    client.set(f"key:{{number}}", number)
print(json.dumps(sum(client.get(f"key:{{number}}") == str(number) for number in range({keys}))))
"""


def test_a_client_in_a_container_reaches_every_node(containers: Containers) -> None:
    containers.ok("--nodes", 6)
    host, _, port = containers.nodes()[0]["addresses"]["network"].rpartition(":")
    source = WRITE_AND_READ.format(host=host, port=port, keys=100)
    assert python_inside(containers, source, network=containers.network_name) == 100
    containers.ok("delete")
    containers.assert_nothing_left()
