"""What of a cluster only its user may read: files in a folder of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bootstrap.runtimes import daemons
from bootstrap.runtimes.base import Secrets
from bootstrap.runtimes.claims import make_root, state_error

FOLDER = "secrets"


def keep_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files that only their owner can read, into a folder that only he can enter.

    Raises:
        RuntimeUnavailable: they cannot be written.
    """
    make_root(folder.parent)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for name, content in files.items():
            # At once whole: a command that is killed leaves the old one, or the new one.
            daemons.write_private(folder / f".{name}", content)
            (folder / f".{name}").replace(folder / name)
    except OSError as error:
        raise state_error(folder, error) from error


def kept_files(folder: Path) -> Secrets:
    """What a folder holds; nothing where there is none, or it is somebody else's.

    Raises:
        RuntimeUnavailable: it cannot be read.
    """
    try:
        files = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Secrets()
    except OSError as error:
        raise state_error(folder, error) from error
    return Secrets(str(folder), files)


def drop_files(folder: Path) -> None:
    """Remove them; and the folder around, if that held nothing else."""
    if folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            folder.parent.rmdir()
