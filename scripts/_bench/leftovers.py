"""What is left of a cluster that should be gone, by the means of the system and of the engine, not of the product."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import psutil

from bootstrap.runtimes.claims import default_root
from bootstrap.runtimes.engine.labels import CLUSTER
from scripts._bench.cold import Kind

BUS = 10000
SETTLE_SECONDS = 1.0
"""How long something may still be on its way out: what was found is looked for once more."""


class Leftovers:
    """Looks for what is left of clusters.

    Args:
        root: the state root of local processes; everything in it is a leftover.
        kinds: which runtimes were used.
    """

    def __init__(self, root: Path, kinds: Iterable[Kind]) -> None:
        self._root = root
        self._engine = None
        if "docker" in kinds:
            import docker

            self._engine = docker.APIClient(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._engine is not None:
            self._engine.close()

    def of(self, name: str, ports: Iterable[int]) -> list[str]:
        """Of one cluster, with the data ports that it had; what is there both now and a moment later."""
        if not (found := set(self._look(name, ports := list(ports)))):
            return []
        time.sleep(SETTLE_SECONDS)
        return sorted(found & set(self._look(name, ports)))

    def anything(self) -> list[str]:
        """Below the whole state root."""
        return sorted({*self._processes(self._root), *_entries(self._root, "")})

    def _look(self, name: str, ports: Iterable[int]) -> Iterator[str]:
        yield from self._processes(self._root / name)
        yield from _entries(self._root, name)
        # Locks and passwords of clusters in containers are kept in the user's own folder.
        yield from _entries(default_root(), name)
        yield from (f"port {port}" for each in ports for port in (each, each + BUS) if _bound(port))
        yield from self._objects(name)

    def _processes(self, folder: Path) -> Iterator[str]:
        for process in psutil.process_iter(["cwd"]):
            where = Path(process.info["cwd"] or "/")
            if where == folder or folder in where.parents:
                yield f"process {process.pid} in {where.name}"

    def _objects(self, name: str) -> Iterator[str]:
        if self._engine is None:
            return
        mine = {"label": f"{CLUSTER}={name}"}
        yield from (f"container {each['Names'][0]}" for each in self._engine.containers(all=True, filters=mine))
        networks = [*self._engine.networks(filters=mine), *self._engine.networks(names=[f"{name}-net"])]
        yield from (f"network {each['Name']}" for each in networks)
        volumes = [*(self._engine.volumes(filters=mine)["Volumes"] or ()), *self._locks(name)]
        yield from (f"volume {each['Name']}" for each in volumes)

    def _locks(self, name: str) -> list[dict[str, str]]:
        assert self._engine is not None
        found = self._engine.volumes(filters={"label": "valkey-bootstrap.claim"})["Volumes"] or ()
        return [each for each in found if name in each["Name"]]


def _entries(folder: Path, name: str) -> Iterator[str]:
    """Files and folders with a cluster's name in theirs: its folder, its lock, what was to become its folder."""
    if folder.is_dir():
        yield from (f"file {each.name}" for each in folder.iterdir() if name in each.name)


def _bound(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False
