"""The API for programs without an event loop: each call is waited for, and runs in a thread with a loop of its own.

    import bootstrap

    with bootstrap.blocking.cluster(nodes=6, replicas=1) as cluster:
        client = cluster.client()          # redis.cluster.RedisCluster
        client.set("key", "value")
        client.close()

Signatures are those of the asynchronous functions, whose docstrings hold here too; observers are called in that thread.
A KeyboardInterrupt cancels what is under way, which cleans up after itself before the exception goes on. In a program
with an event loop use the asynchronous functions: these would block it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from anyio.from_thread import start_blocking_portal

from bootstrap import handle
from bootstrap.handle import Changing, Handle, plan

if TYPE_CHECKING:
    from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
    from redis.cluster import RedisCluster

    from bootstrap.events import Observer
    from bootstrap.operations.call import Answer, Which
    from bootstrap.operations.doctor import Diagnosis
    from bootstrap.operations.login import Login
    from bootstrap.operations.protection import Certificates
    from bootstrap.operations.requests import Weights
    from bootstrap.operations.scaling import Scaled
    from bootstrap.operations.status import Status
    from bootstrap.planning.addressing import Audience
    from bootstrap.planning.spec import ClusterSpec, RuntimeKind, SpecFields
    from bootstrap.runtimes.base import Record

__all__ = ["Cluster", "attach", "cluster", "clusters", "create", "delete", "form", "plan"]

T = TypeVar("T")


class Cluster(Handle):
    """A running cluster; see `bootstrap.Cluster`."""

    def __init__(self, running: handle.Cluster) -> None:
        super().__init__(running._deployment, running.plan)  # noqa: SLF001 - the other half of one handle
        self._running = running

    def client(self, audience: Audience = "host", **options: Any) -> RedisCluster:
        """A new `redis.cluster.RedisCluster`; the caller closes it. `options` go to its constructor."""
        from bootstrap.formation.client import blocking_cluster_client

        return blocking_cluster_client(**(self.connection_kwargs(audience) | options))

    def async_client(self, audience: Audience = "host", **options: Any) -> AsyncRedisCluster:
        """See `bootstrap.Cluster.client`: for a program, or a test, that has an event loop after all."""
        return self._running.client(audience, **options)

    def status(self) -> Status:
        """See `bootstrap.Cluster.status`."""
        return run(self._running.status)

    def doctor(self, *, quick: bool = False, observer: Observer | None = None) -> Diagnosis:
        """See `bootstrap.Cluster.doctor`."""
        return run(lambda: self._running.doctor(quick=quick, observer=observer))

    def wait(self, *, timeout: float = 60.0, observer: Observer | None = None) -> Status:
        """See `bootstrap.Cluster.wait`."""
        return run(lambda: self._running.wait(timeout=timeout, observer=observer))

    def logs(self, node: str | int, *, tail: int | None = None) -> str:
        """See `bootstrap.Cluster.logs`."""
        return run(lambda: self._running.logs(node, tail=tail))

    def call(self, *command: str, which: Which | Sequence[str | int] = "all") -> list[Answer]:
        """See `bootstrap.Cluster.call`."""
        return run(lambda: self._running.call(*command, which=which))

    def failover(self, node: str | int, *, timeout: float = 60.0, observer: Observer | None = None) -> Status:
        """See `bootstrap.Cluster.failover`."""
        return run(lambda: self._running.failover(node, timeout=timeout, observer=observer))

    def add_node(
        self,
        *servers: str,
        number: int = 1,
        primary: bool = False,
        replica_of: str | int | Sequence[str | int] = (),
        **how: Unpack[Changing],
    ) -> Scaled:
        """See `bootstrap.Cluster.add_node`."""
        return self._reshaped(
            lambda: self._running.add_node(
                *servers,
                number=number,
                primary=primary,
                replica_of=replica_of,
                **how,
            )
        )

    def remove_node(
        self,
        *nodes: str | int,
        fewer_replicas: bool = False,
        lose_data: bool = False,
        **how: Unpack[Changing],
    ) -> Scaled:
        """See `bootstrap.Cluster.remove_node`."""
        return self._reshaped(
            lambda: self._running.remove_node(
                *nodes,
                fewer_replicas=fewer_replicas,
                lose_data=lose_data,
                **how,
            )
        )

    def rebalance(
        self,
        weights: Weights | None = None,
        *,
        threshold: float = 2.0,
        **how: Unpack[Changing],
    ) -> Scaled:
        """See `bootstrap.Cluster.rebalance`."""
        return self._reshaped(lambda: self._running.rebalance(weights, threshold=threshold, **how))

    def reshard(
        self,
        *to: str | int,
        slots: Iterable[int] = (),
        count: int = 0,
        of: str | int | Sequence[str | int] = (),
        **how: Unpack[Changing],
    ) -> Scaled:
        """See `bootstrap.Cluster.reshard`."""
        return self._reshaped(lambda: self._running.reshard(*to, slots=slots, count=count, of=of, **how))

    def scale(
        self,
        nodes: int,
        replicas: int | None = None,
        **how: Unpack[Changing],
    ) -> Scaled:
        """See `bootstrap.Cluster.scale`."""
        return self._reshaped(lambda: self._running.scale(nodes, replicas, **how))

    def _reshaped(self, change: Callable[[], Awaitable[Scaled]]) -> Scaled:
        made = run(change)
        self._deployment, self.plan = self._running._deployment, self._running.plan  # noqa: SLF001 - see above
        return made

    def reset(self, *, timeout: float = 60.0, observer: Observer | None = None) -> None:
        """See `bootstrap.Cluster.reset`."""
        run(lambda: self._running.reset(timeout=timeout, observer=observer))

    def stop(self) -> None:
        """See `bootstrap.Cluster.stop`."""
        run(self._running.stop)

    def delete(self) -> None:
        """See `bootstrap.Cluster.delete`."""
        run(self._running.delete)


@contextmanager
def cluster(
    spec: ClusterSpec | None = None,
    /,
    *,
    keep: bool = False,
    observer: Observer | None = None,
    timeout: float = 60.0,
    login: Login | str | None = None,
    certificates: Certificates | None = None,
    **fields: Unpack[SpecFields],
) -> Iterator[Cluster]:
    """See `bootstrap.cluster`."""
    entered = handle.cluster(
        spec, keep=keep, observer=observer, timeout=timeout, login=login, certificates=certificates, **fields
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(entered) as running:
        yield Cluster(running)


def create(
    spec: ClusterSpec | None = None,
    /,
    *,
    observer: Observer | None = None,
    timeout: float = 60.0,
    retain: bool = False,
    login: Login | str | None = None,
    certificates: Certificates | None = None,
    **fields: Unpack[SpecFields],
) -> Cluster:
    """See `bootstrap.create`."""
    running = run(
        lambda: handle.create(
            spec,
            observer=observer,
            timeout=timeout,
            retain=retain,
            login=login,
            certificates=certificates,
            **fields,
        )
    )
    return Cluster(running)


def form(
    *servers: str,
    replicas: int = 0,
    password: str | None = None,
    username: str | None = None,
    ca: str | None = None,
    observer: Observer | None = None,
    timeout: float = 60.0,
) -> Cluster:
    """See `bootstrap.form`."""
    running = run(
        lambda: handle.form(
            *servers,
            replicas=replicas,
            password=password,
            username=username,
            ca=ca,
            observer=observer,
            timeout=timeout,
        )
    )
    return Cluster(running)


def attach(
    *where: str,
    password: str | None = None,
    username: str | None = None,
    ca: str | None = None,
    runtime: RuntimeKind = "auto",
    state_root: str | None = None,
) -> Cluster:
    """See `bootstrap.attach`."""
    running = run(
        lambda: handle.attach(
            *where, password=password, username=username, ca=ca, runtime=runtime, state_root=state_root
        )
    )
    return Cluster(running)


def clusters(*, runtime: RuntimeKind = "auto", state_root: str | None = None) -> Sequence[Record]:
    """See `bootstrap.clusters`."""
    return run(lambda: handle.clusters(runtime=runtime, state_root=state_root))


def delete(name: str, *, runtime: RuntimeKind = "auto", state_root: str | None = None) -> bool:
    """See `bootstrap.delete`."""
    return run(lambda: handle.delete(name, runtime=runtime, state_root=state_root))


def run(call: Callable[[], Awaitable[T]]) -> T:
    """Run a function of the asynchronous API, or anything that is made of them, and wait for it."""
    with start_blocking_portal() as portal:
        return portal.call(call)
