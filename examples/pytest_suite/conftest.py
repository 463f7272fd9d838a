"""What cluster the tests get; the fixtures themselves come with `pip install valkey-bootstrap`."""

import pytest

from bootstrap import SpecFields


@pytest.fixture(scope="session")
def valkey_cluster_spec() -> SpecFields:
    # A replica takes over sooner than after the usual five seconds of silence.
    return {"nodes": 6, "replicas": 1, "settings": {"cluster-node-timeout": "2000"}}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # redis-py knows no other
