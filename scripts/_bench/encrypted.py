"""What encryption costs: the whole command with TLS and without, in turn."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts._bench import machine
from scripts._bench.child import Child
from scripts._bench.failures import Failure
from scripts._bench.formation import LIMIT, environment, product
from scripts._bench.results import spread


def measure(nodes: int, server: str, *, tls: bool) -> float:
    """Seconds until a cluster of local processes was proven, and the command ended.

    Raises:
        Failure: it did not make one.
    """
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        which = ["--runtime", "process", "--state-root", f"{folder}/state", "--name", f"bench-{os.getpid()}"]
        asked = [
            "--nodes",
            str(nodes),
            "--replicas",
            "1",
            "--server",
            server,
            "--base-port",
            "auto",
            "--output",
            "json",
        ]
        child = Child([*product("create"), *which, *asked, *(["--tls"] if tls else [])], environment(), Path(folder))
        try:
            child.join(LIMIT)
            if child.code != 0 or child.ended is None:
                raise Failure(f"the command made no cluster: {child.complaint()}", "give a server with TLS by --server")
            if json.loads(child.stdout.read_text())["health"] != "ok":
                raise Failure("the cluster is not healthy", "run it by itself")
            return child.ended - child.began
        finally:
            child.stop()
            subprocess.run([*product("delete", "--quiet"), *which], env=environment(), capture_output=True, check=False)


def run_encrypted(sizes: Sequence[int], runs: int, server: str, tell: Callable[[str], None]) -> list[str]:
    """The lines of the table: seconds, and the ratio of each pair of runs."""
    lines = [f"{'nodes':6} {'plain':20} {'TLS':20} TLS/plain"]
    for nodes in sizes:
        machine.allow_files(nodes)
        pairs = []
        for turn in range(runs):
            machine.await_room(nodes, tell)
            plain, encrypted = (measure(nodes, server, tls=tls) for tls in (False, True))
            pairs.append((plain, encrypted))
            tell(f"{nodes} nodes {turn + 1}/{runs}  plain {plain:.2f} s, TLS {encrypted:.2f} s")
        shown = " ".join(f"{spread(column)!s:20}" for column in zip(*pairs, strict=True))
        lines.append(f"{nodes:<6} {shown} {spread(encrypted / plain for plain, encrypted in pairs)}")
    return lines
