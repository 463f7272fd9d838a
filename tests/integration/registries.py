"""A registry of a test's own on this machine, and an image that only it has."""

from __future__ import annotations

import io
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker
from docker.errors import ImageNotFound

from .conftest import free_block, lacking, until
from .containers import image_of

_CONFIG = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
_PROXY = Path(__file__).with_name("stalling_proxy.py")
FILLER = 6_000_000
"""Bytes that no other image has, and that no registry can compress."""


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry at 127.0.0.1, and the way into the network that it is on.

    Args:
        port: where it listens.
        inside: what a program of that network is started with.
    """

    port: int
    inside: Sequence[str] = ()

    def image(self, name: str = "valkey", tag: str = "9.1") -> str:
        """The name of an image of it."""
        return f"127.0.0.1:{self.port}/x/{name}:{tag}"

    @contextmanager
    def stalling(self, after: int) -> Iterator[tuple[Registry, Callable[[], None]]]:
        """The same registry, whose answers end after so many bytes each; the other one waits until one has."""
        port = free_block(1)
        argv = [*self.inside, sys.executable, str(_PROXY), str(port), str(self.port), str(after)]
        with running(argv, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            told = process.stdout
            assert told.readline() == b"ready\n"

            def wait() -> None:
                assert told.readline() == b"stalled\n"

            yield Registry(port, self.inside), wait


@contextmanager
def registry(folder: Path, inside: Sequence[str] = ()) -> Iterator[Registry]:
    """An empty registry; Debian calls its package docker-registry."""
    program = shutil.which("docker-registry")
    if program is None:
        lacking("docker", "there is no docker-registry")
    assert program is not None
    port = free_block(1)
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(folder=folder / "registry", port=port))
    with (
        (folder / "registry.log").open("wb") as log,
        running([*inside, program, "serve", str(config)], stdout=log, stderr=log),
    ):
        until(lambda: _answers(port, inside))
        yield Registry(port, inside)


def _answers(port: int, inside: Sequence[str]) -> bool:
    if inside:
        source = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
        return (
            subprocess.run([*inside, sys.executable, "-c", source], stderr=subprocess.DEVNULL, check=False).returncode
            == 0
        )
    with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def running(argv: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program that is killed at the end of the block."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def push_new(engine: docker.DockerClient, image: str) -> None:
    """Make an image of Valkey 9.1 that is like no other, push it, and forget it."""
    source = engine.images.get(image_of("valkey-9.1"))
    container = engine.containers.create(source)
    archive = io.BytesIO(b"".join(cast("Iterable[bytes]", container.export())))
    container.remove()
    with tarfile.open(fileobj=archive, mode="a") as tar:
        entry = tarfile.TarInfo("filler")
        entry.size = FILLER
        tar.addfile(entry, io.BytesIO(secrets.token_bytes(FILLER)))
    make_image(engine, image, archive.getvalue(), *(f"ENV {each}" for each in source.attrs["Config"]["Env"]))
    try:
        told = list(engine.api.push(image, stream=True, decode=True))
        assert not [line for line in told if "error" in line], told
    finally:
        forget(engine, image)


def make_image(engine: docker.DockerClient, image: str, archive: bytes, *changes: str) -> None:
    """An image of one layer, changed in the words of a Dockerfile."""
    repository, _, tag = image.rpartition(":")
    told = engine.api.import_image_from_data(archive, repository=repository, tag=tag, changes=list(changes))
    assert "error" not in json.loads(told.splitlines()[-1]), told


def forget(engine: docker.DockerClient, image: str) -> None:
    """Remove an image, if it is there."""
    with suppress(ImageNotFound):
        engine.images.remove(image)
