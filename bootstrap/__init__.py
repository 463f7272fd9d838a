"""Start Valkey clusters that are proven ready, without valkey-cli.

    import anyio, bootstrap

    async def main():
        async with bootstrap.cluster(nodes=6, replicas=1) as cluster:
            client = cluster.client()          # redis.asyncio.RedisCluster
            await client.set("key", "value")
            await client.aclose()

    anyio.run(main)

The functions need asyncio (anyio's asyncio backend), since redis-py's async client does. Nothing here prints, exits,
installs signal handlers or configures logging; events go to an observer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bootstrap import blocking
    from bootstrap.errors import (
        BootstrapError,
        Conflict,
        NodeFailed,
        NotConverged,
        PortTaken,
        Problem,
        RuntimeUnavailable,
        SpecError,
        Taken,
        UsageError,
    )
    from bootstrap.events import Event, Observer, Phase, Timeline
    from bootstrap.exports.clients import snippet
    from bootstrap.exports.contacts import Contact
    from bootstrap.handle import Changing, Cluster, attach, cluster, clusters, create, delete, form, plan
    from bootstrap.judging.evidence import Finding
    from bootstrap.operations.call import Answer
    from bootstrap.operations.deployment import Node
    from bootstrap.operations.doctor import Diagnosis
    from bootstrap.operations.login import Login
    from bootstrap.operations.protection import Certificates
    from bootstrap.operations.scaling import Scaled
    from bootstrap.operations.status import NodeStatus, Status
    from bootstrap.planning.addressing import Address
    from bootstrap.planning.moves import SlotMove
    from bootstrap.planning.plan import Plan, PlannedNode
    from bootstrap.planning.scaling import Change
    from bootstrap.planning.site import Site
    from bootstrap.planning.spec import ClusterSpec, SpecFields
    from bootstrap.runtimes.base import Record

    __version__: str

_HOMES = {
    "bootstrap.errors": (
        "BootstrapError Conflict NodeFailed NotConverged PortTaken Problem RuntimeUnavailable SpecError Taken "
        "UsageError"
    ),
    "bootstrap.events": "Event Observer Phase Timeline",
    "bootstrap.exports.clients": "snippet",
    "bootstrap.exports.contacts": "Contact",
    "bootstrap.handle": "Changing Cluster attach cluster clusters create delete form plan",
    "bootstrap.judging.evidence": "Finding",
    "bootstrap.operations.call": "Answer",
    "bootstrap.operations.deployment": "Node",
    "bootstrap.operations.doctor": "Diagnosis",
    "bootstrap.operations.login": "Login",
    "bootstrap.operations.protection": "Certificates",
    "bootstrap.operations.scaling": "Scaled",
    "bootstrap.operations.status": "NodeStatus Status",
    "bootstrap.planning.addressing": "Address",
    "bootstrap.planning.moves": "SlotMove",
    "bootstrap.planning.plan": "Plan PlannedNode",
    "bootstrap.planning.scaling": "Change",
    "bootstrap.planning.site": "Site",
    "bootstrap.planning.spec": "ClusterSpec SpecFields",
    "bootstrap.runtimes.base": "Record",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - in the order of a first reading
    "cluster", "create", "attach", "delete", "clusters", "form", "plan", "snippet",
    "Cluster", "ClusterSpec", "SpecFields", "Login", "Certificates",
    "Site", "Plan", "PlannedNode", "Node", "Address", "Record", "Contact",
    "Status", "NodeStatus", "Answer", "Changing", "Scaled", "Change", "SlotMove", "Diagnosis", "Finding",
    "Event", "Observer", "Phase", "Timeline",
    "BootstrapError", "UsageError", "SpecError", "Problem", "RuntimeUnavailable", "Conflict", "Taken",
    "PortTaken", "NodeFailed", "NotConverged", "blocking", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> object:
    # Names are loaded when they are first used: importing the package costs nearly nothing.
    import importlib
    import importlib.metadata

    if name == "__version__":
        try:
            return importlib.metadata.version("valkey-bootstrap")
        except importlib.metadata.PackageNotFoundError:
            return "0+not.installed"
    if name == "blocking":
        return importlib.import_module("bootstrap.blocking")
    if (home := _HOME.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(__all__) | set(globals()))
