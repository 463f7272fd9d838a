"""Where servers run, behind one seam (see `bootstrap.runtimes.base`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bootstrap.errors import RuntimeUnavailable
    from bootstrap.planning.spec import ClusterSpec
    from bootstrap.runtimes.base import Record, Runtime


def runtime_for(spec: ClusterSpec, kind: str, *, owner: int | None = None) -> Runtime:
    """The runtime of a kind, ``docker`` or ``process``, for a specification.

    Args:
        spec: what is to run.
        kind: which one.
        owner: the process that what it creates belongs to; see `daemons.owner`.
    """
    if kind == "docker":
        from bootstrap.runtimes.engine.runtime import EngineRuntime

        return EngineRuntime(spec.state_root, image=spec.image, pull=spec.pull, owner=owner)
    assert kind == "process", kind
    from bootstrap.runtimes.process import ProcessRuntime

    return ProcessRuntime(spec.state_root, server=spec.server, owner=owner)


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime, and why it was taken: "" where the specification names it."""

    runtime: Runtime
    reason: str = ""


async def choose_runtime(spec: ClusterSpec, *, owner: int | None = None) -> Choice:
    """The runtime that a specification names, or the best there is.

    ``auto`` takes containers where an engine answers and processes where there is none. An engine that is there and
    does not let us in is an error: falling back would hide it.

    Args:
        spec: what is to run.
        owner: the process that what it creates belongs to; see `daemons.owner`.

    Raises:
        RuntimeUnavailable: an engine is needed or there, and cannot be used.
    """
    from bootstrap.errors import RuntimeUnavailable
    from bootstrap.planning.spec import containers_asked

    if spec.runtime != "auto":
        return Choice(runtime_for(spec, spec.runtime, owner=owner))
    processes = runtime_for(spec, "process", owner=owner)
    if spec.server is not None:
        return Choice(processes, "servers are local processes, since --server names a binary")
    asked = containers_asked(spec)
    if not asked and await processes.inventory(spec.name):
        return Choice(processes, f'"{spec.name}" exists as local processes')
    from bootstrap.runtimes.engine.runtime import EngineRuntime

    engine = EngineRuntime(spec.state_root, image=spec.image, pull=spec.pull, owner=owner)
    try:
        return Choice(engine, f"servers run in containers: {await engine.describe()} answers")
    except RuntimeUnavailable as error:
        if asked or error.code != "no-engine":
            raise
        return Choice(processes, f"servers are local processes: {error.message}")


@dataclass(frozen=True, slots=True)
class Found:
    """A cluster of ours, and the runtime that keeps it."""

    record: Record
    runtime: Runtime


@dataclass(frozen=True, slots=True)
class Inventory:
    """All clusters of ours, the runtimes that were asked, and why others could not be."""

    found: Sequence[Found]
    asked: Sequence[Runtime]
    unasked: Sequence[RuntimeUnavailable] = ()


async def everywhere(kind: str = "auto", *, state_root: str | None = None, name: str | None = None) -> Inventory:
    """The clusters of ours of every runtime, or of one.

    Args:
        kind: ``docker``, ``process``, or ``auto`` for both; no engine at all is then no error.
        state_root: see `bootstrap.ClusterSpec`.
        name: only clusters of that name.

    Raises:
        RuntimeUnavailable: the one runtime that was asked for cannot be used.
        Conflict: a record of that name cannot be read.
    """
    from bootstrap.errors import RuntimeUnavailable
    from bootstrap.planning.spec import ClusterSpec

    spec = ClusterSpec(state_root=state_root)
    found: list[Found] = []
    asked: list[Runtime] = []
    unasked: list[RuntimeUnavailable] = []
    for each in ("docker", "process") if kind == "auto" else (kind,):
        runtime = runtime_for(spec, each)
        try:
            found += [Found(record, runtime) for record in await runtime.inventory(name)]
            asked.append(runtime)
        except RuntimeUnavailable as error:
            if kind != "auto":
                raise
            if error.code != "no-engine":
                unasked.append(error)
    return Inventory(sorted(found, key=lambda each: each.record.name), asked, unasked)
