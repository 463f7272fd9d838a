"""The tar archives in which an engine takes and gives files."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

SERVER_UID = 999
"""The user that servers run as: the one that official images make for it."""


def pack(folder: str, files: Mapping[str, bytes]) -> bytes:
    """An archive with a folder that is open to the server alone, and files in it that only it can read.

    Args:
        folder: its path; those above it are made, too.
        files: name -> content.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        *above, _ = PurePosixPath(folder).parts
        for depth in range(len(above)):
            entry = tarfile.TarInfo("/".join(above[: depth + 1]))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        top = tarfile.TarInfo(folder)
        top.type, top.mode = tarfile.DIRTYPE, 0o700
        top.uid = top.gid = SERVER_UID
        archive.addfile(top)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode = len(content), 0o400
            entry.uid = entry.gid = SERVER_UID
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def unpack_one(chunks: Iterable[bytes]) -> bytes:
    """The content of an archive with one file.

    Raises:
        ValueError: it holds none.
    """
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for entry in archive:
            if (file := archive.extractfile(entry)) is not None:
                return file.read()
    raise ValueError("the archive holds no file")


def host_in(hosts: str, name: str) -> str | None:
    """The first address of a name in the text of an ``/etc/hosts``."""
    for line in hosts.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        if name in names:
            return address
    return None
