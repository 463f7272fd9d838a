"""The same cluster for tests with an event loop, whoever runs it."""

import pytest

from bootstrap.blocking import Cluster


@pytest.mark.anyio
async def test_with_anyio(valkey_clean_cluster: Cluster) -> None:
    async with valkey_clean_cluster.async_client(decode_responses=True) as client:
        await client.set("key", "anyio")
        assert await client.get("key") == "anyio"


@pytest.mark.asyncio
async def test_with_pytest_asyncio(valkey_clean_cluster: Cluster) -> None:
    async with valkey_clean_cluster.async_client(decode_responses=True) as client:
        assert await client.get("key") is None
        await client.set("key", "asyncio")
        assert await client.get("key") == "asyncio"
