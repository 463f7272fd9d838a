"""How long a reset takes: with nothing broken, and after a primary was killed, beside the servers' own failover."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bootstrap import ClusterSpec, blocking
from scripts._bench.cold import Kind
from scripts._bench.failures import Failure
from scripts._bench.formation import LIMIT
from scripts._bench.link import Link
from scripts._bench.results import spread

EXTRA = 2.0
"""Seconds that a reset may take beyond the servers' own failover."""
LOOK_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn. Seconds; those after a kill count from the moment it was asked for.

    Args:
        idle: a reset with nothing broken.
        own: until a replica led in the primary's place, and all others said ok; nobody helped.
        after: until the reset that came then was done.
        at_once: until a reset right after the kill was done.
    """

    idle: float
    own: float
    after: float
    at_once: float

    @property
    def floor(self) -> float:
        """What a reset is measured against."""
        return self.own + EXTRA


def measure_reset(cluster: blocking.Cluster) -> Turn:
    """All of it on one cluster, which is as it was made before and afterwards."""
    _reset(cluster)
    began = time.monotonic()
    cluster.reset()
    idle = time.monotonic() - began

    began = time.monotonic()
    _kill_first(cluster)
    _await_successor(cluster)
    own = time.monotonic() - began
    cluster.reset(timeout=LIMIT)
    after = time.monotonic() - began
    _insist(cluster)

    began = time.monotonic()
    _kill_first(cluster)
    cluster.reset(timeout=LIMIT)
    at_once = time.monotonic() - began
    _insist(cluster)
    return Turn(idle, own, after, at_once)


def _reset(cluster: blocking.Cluster) -> None:
    cluster.reset(timeout=LIMIT)
    # Servers that have just been told something still tell each other of it.
    time.sleep(1)


def _kill_first(cluster: blocking.Cluster) -> None:
    runtime = cluster._deployment.runtime  # noqa: SLF001 - what kills is not for users
    assert runtime is not None
    blocking.run(lambda: runtime.control(cluster.name, cluster.nodes[0].name, "kill"))


def _await_successor(cluster: blocking.Cluster) -> None:
    """Until another node leads in the first one's place, and all that are left say ok."""
    assert cluster.plan is not None
    heirs = {node.name for node in cluster.plan.replicas if node.primary == cluster.nodes[0].name}
    links = {node.name: Link(node.addresses.control, within=5) for node in cluster.nodes[1:]}
    end = time.monotonic() + LIMIT
    try:
        while True:
            said = {name: link.ask("CLUSTER INFO", "INFO replication") for name, link in links.items()}
            leads = any(b"role:master" in said[name]["INFO replication"] for name in heirs)
            if leads and all(b"cluster_state:ok" in each["CLUSTER INFO"] for each in said.values()):
                return
            if time.monotonic() > end:
                raise Failure("the servers did not fail over", "see their logs")
            time.sleep(LOOK_SECONDS)
    finally:
        for link in links.values():
            link.close()


def _insist(cluster: blocking.Cluster) -> None:
    status = cluster.status()
    assert cluster.plan is not None
    if not status.healthy or status.agreement.layout != cluster.plan.layout:
        raise Failure(f"not as it was made: {status.agreement.doubts}", "run it again")


def run_resets(specs: Sequence[tuple[Kind, ClusterSpec]], runs: int, tell: Callable[[str], None]) -> list[str]:
    """The lines of the table, all in seconds; one cluster for all turns of a runtime."""
    titles = ("idle", "own failover", "then reset", "reset at once", "then/(own+2 s)", "at once/(own+2 s)")
    lines = [f"{'runtime':8} {' '.join(f'{title:20}' for title in titles)}".rstrip()]
    for kind, spec in specs:
        with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
            chosen = replace(spec, name=f"bench-{secrets.token_hex(3)}x", state_root=f"{folder}/state")
            with blocking.cluster(chosen) as cluster:
                found = []
                for number in range(runs):
                    found.append(turn := measure_reset(cluster))
                    tell(
                        f"{kind:8} {number + 1}/{runs}  idle {turn.idle:.3f} s, own failover {turn.own:.2f} s, then"
                        f" reset {turn.after:.2f} s, reset at once {turn.at_once:.2f} s"
                    )
        columns = ([getattr(turn, name) for turn in found] for name in ("idle", "own", "after", "at_once"))
        shown = " ".join(f"{spread(column)!s:20}" for column in columns)
        ratios = [spread(getattr(turn, name) / turn.floor for turn in found) for name in ("after", "at_once")]
        lines.append(f"{kind:8} {shown} {ratios[0]!s:20} {ratios[1]}")
    return lines
