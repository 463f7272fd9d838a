"""Many things at once: nodes asked side by side, blocking calls in threads of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from bootstrap.errors import BootstrapError

T = TypeVar("T")
P = ParamSpec("P")

THREADS = 16
_limiter: ContextVar[tuple[object, anyio.CapacityLimiter] | None] = ContextVar("valkey_bootstrap_limiter", default=None)


async def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call off the event loop, in at most `THREADS` threads that the host program does not share."""
    async with _own_limiter():
        # Not abandoned on cancellation: a spawn or a removal that goes on behind our back could not be cleaned up.
        return await to_the_end(
            lambda: anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=anyio.CapacityLimiter(1))
        )


async def in_asking_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """The same for a call that asks `anyio.from_thread.check_cancelled` now and then, and leaves nothing behind."""
    async with _own_limiter():
        return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs), limiter=anyio.CapacityLimiter(1))


async def to_the_end(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Wait for a call, however this task is cancelled meanwhile; asyncio's own cancellation is raised afterwards.

    Shielding is anyio's, and means nothing to `asyncio.Task.cancel`, which is what `asyncio.timeout` and Ctrl-C under
    `asyncio.run` call: so the work is a task of its own.
    """
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        work = asyncio.ensure_future(call())
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled from (None if work.cancelled() else work.exception())
    return work.result()


def _own_limiter() -> anyio.CapacityLimiter:
    # A limiter belongs to the event loop it was made in.
    token = anyio.lowlevel.current_token()
    held = _limiter.get()
    if held is None or held[0] != token:
        held = (token, anyio.CapacityLimiter(THREADS))
        _limiter.set(held)
    return held[1]


async def each(
    names: Iterable[str], call: Callable[[str], Awaitable[T]]
) -> tuple[dict[str, T], dict[str, BootstrapError]]:
    """Call for every name side by side; give the results and the errors by name, in the order of the names.

    Errors of this package are collected, so that all nodes are heard; any other exception is a bug and ends the rest.
    """
    results: dict[str, T] = {}
    errors: dict[str, BootstrapError] = {}

    async def one(name: str) -> None:
        try:
            results[name] = await call(name)
        except BootstrapError as error:
            errors[name] = error

    order = list(names)
    await together(partial(one, name) for name in order)
    return ({n: results[n] for n in order if n in results}, {n: errors[n] for n in order if n in errors})


async def together(tasks: Iterable[Callable[[], Coroutine[Any, Any, object]]]) -> None:
    """Run calls side by side until all are done; the first exception ends the rest and is raised as itself."""
    try:
        async with anyio.create_task_group() as group:
            for task in tasks:
                group.start_soon(task)
    except BaseExceptionGroup as failed:
        # Exception groups never leave this package: a caller catches BootstrapError or a cancellation.
        raise first_of(failed) from None


def first_of(failed: BaseExceptionGroup) -> BaseException:
    """The first exception of a group, however deep."""
    first = failed.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
