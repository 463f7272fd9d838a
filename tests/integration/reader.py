"""Somebody who tries what is written."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bootstrap import blocking

from .conftest import Command, find_server

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"


@dataclass(frozen=True, slots=True)
class Reader:
    """A reader, in a folder and with a home of his own, and without an engine."""

    folder: Path

    @property
    def state(self) -> Path:
        """Where his clusters are."""
        return self.folder / "state" / "valkey-bootstrap"

    def env(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """His environment, and more: the package and its command are installed."""
        clean = {name: text for name, text in os.environ.items() if not name.startswith(("VALKEY_", "PYTEST_"))}
        own = {
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / "state"),
            "TMPDIR": str(self.folder),
            "DOCKER_HOST": f"unix://{self.folder}/no-engine",
            "PYTHONPATH": str(PROJECT),
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "NO_COLOR": "1",
        }
        return {**clean, **own, **(more or {})}

    def run(
        self, *argv: str | Path, cwd: Path | None = None, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            argv, cwd=cwd or self.folder, env=self.env(more), capture_output=True, text=True, timeout=120, check=False
        )

    def copy(self, example: str) -> Path:
        """An example by itself, without what is around it here."""
        return Path(shutil.copytree(EXAMPLES / example, self.folder / example))


@contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """A reader, who must be left with nothing."""
    made = Reader(folder)
    command = folder / "bin" / "valkey-bootstrap"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m bootstrap "$@"\n')
    command.chmod(0o755)
    find_server("valkey-9.1")
    yield made
    left = blocking.clusters(runtime="process", state_root=str(made.state))
    for record in left:
        blocking.delete(record.name, runtime="process", state_root=str(made.state))
    assert [record.name for record in left] == []
    Command(made.state).assert_nothing_left()
