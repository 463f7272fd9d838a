"""What is begun is ended, whoever cancels: a scope of anyio, or asyncio itself."""

from __future__ import annotations

import asyncio
import threading

import anyio
import pytest

from bootstrap.concurrency import in_thread, to_the_end


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_task_waits_for_its_thread(times: int) -> None:
    began, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go.wait(5)
        done.set()

    task = asyncio.create_task(in_thread(work))
    while not began.is_set():
        await anyio.sleep(0.001)
    for _ in range(times):
        task.cancel()
        await anyio.sleep(0.01)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()


async def test_the_end_of_the_time_is_told_as_asyncio_tells_it() -> None:
    ended = []

    async def work() -> None:
        await anyio.sleep(0.1)
        ended.append(True)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await to_the_end(work)
    assert ended == [True]


async def test_a_cancelled_scope_gets_the_result() -> None:
    async def work() -> int:
        await anyio.sleep(0.05)
        return 1

    found = []
    with anyio.move_on_after(0.01) as scope:
        found.append(await to_the_end(work))
        await anyio.sleep(5)
    assert scope.cancelled_caught
    assert found == [1]


async def test_an_error_is_raised_as_itself() -> None:
    async def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await to_the_end(work)
