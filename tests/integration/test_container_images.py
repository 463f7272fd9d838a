"""Images: those that cannot be had, those without a server, and those that a registry has."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import anyio
import docker
import pytest

from bootstrap.errors import RuntimeUnavailable
from bootstrap.events import Event, Reporter
from bootstrap.operations.create import CreateOptions, create
from bootstrap.operations.deployment import Access
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes.base import Record
from bootstrap.runtimes.engine import images
from bootstrap.runtimes.engine.runtime import EngineRuntime
from bootstrap.testing import FakeRuntime, FakeServers

from .containers import Containers, make, remove
from .faults import refused
from .registries import Registry, forget, make_image, push_new, registry

pytestmark = [pytest.mark.servers, pytest.mark.docker]

SOME = ("--nodes", 3, "--replicas", 0)
FEW_SECONDS = 10


# Images that cannot be had.


@pytest.mark.parametrize(
    ("pull", "words", "advice"),
    [
        ("missing", "could not be pulled: ", "`docker load`"),
        ("always", "could not be pulled: ", "`docker load`"),
        ("never", "is not here, and --pull never forbids to pull it", "leave out --pull never"),
    ],
)
def test_an_image_that_does_not_exist(containers: Containers, pull: str, words: str, advice: str) -> None:
    # Nothing listens there, whatever registries this machine reaches.
    image = "127.0.0.1:1/nothing/valkey:9.1"
    began = time.monotonic()
    told = refused(containers, 3, *SOME, "--image", image, "--pull", pull)
    assert time.monotonic() - began < FEW_SECONDS
    assert image in told
    assert words in told
    assert "(no-image)" in told
    assert advice in told.partition("hint: ")[2]


@pytest.mark.parametrize("image", ["Valkey/Valkey", "valkey:", "valkey@sha256:12", "a//b", "valkey:9.1:9.1"])
def test_names_that_no_image_can_have(containers: Containers, image: str) -> None:
    told = refused(containers, 2, *SOME, "--image", image, "--pull", "missing")
    assert f"{image} is not the name of an image" in told
    assert "valkey/valkey:9.1" in told.partition("hint: ")[2]


# Images without a server that works.


@contextmanager
def an_image(containers: Containers, archive: bytes, *changes: str) -> Iterator[str]:
    """An image that is removed at the end of the block."""
    image = f"{containers.name}-image:1"
    make_image(containers.engine, image, archive, *changes)
    try:
        yield image
    finally:
        forget(containers.engine, image)


def archive_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content), 0o755
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "claimed", [(), ("ENV VALKEY_VERSION=9.1.0",), ("ENV REDIS_VERSION=7.2.1",)], ids=["asked", "valkey", "redis"]
)
def test_an_image_without_a_server(containers: Containers, claimed: tuple[str, ...]) -> None:
    # What an image claims is believed until its server is to start.
    with an_image(containers, archive_of("file", b"text"), *claimed) as image:
        told = refused(containers, 3, *SOME, "--image", image)
    assert f"the image {image} has neither valkey-server nor redis-server on its PATH (no-server-in-image)" in told
    assert "--image valkey/valkey:9.1" in told.partition("hint: ")[2]


def test_an_image_whose_server_does_not_run(containers: Containers) -> None:
    with an_image(containers, archive_of("bin/valkey-server", b"no program")) as image:
        told = refused(containers, 3, *SOME, "--image", image)
    assert f"the server of the image {image} does not tell its version: " in told
    assert "exec format error" in told
    assert "(no-server-in-image)" in told


@pytest.mark.parametrize(
    ("claim", "server"), [("VALKEY_VERSION=6.2.0", "valkey 6.2.0"), ("REDIS_VERSION=6.2.7", "redis 6.2.7")]
)
def test_an_image_whose_server_is_too_old(containers: Containers, claim: str, server: str) -> None:
    with an_image(containers, archive_of("file", b"text"), f"ENV {claim}") as image:
        told = refused(containers, 3, *SOME, "--image", image)
    assert f"the server of {image} is {server}, and 7.0 is the oldest that works (server-too-old)" in told
    assert "--image valkey/valkey:9.1" in told.partition("hint: ")[2]


def test_a_version_that_is_a_word_is_no_version(containers: Containers) -> None:
    # Images of the unstable branch say so in the place of a number: their server is asked.
    source = containers.engine.images.get(containers.command.environment["VALKEY_BOOTSTRAP_IMAGE"])
    container = containers.engine.containers.create(source)
    try:
        container.commit(f"{containers.name}-image", "1", changes="ENV VALKEY_VERSION=unstable")
    finally:
        container.remove()
    try:
        server = containers.json(*SOME, "--dry-run", "--survey", "--image", f"{containers.name}-image:1")["server"]
    finally:
        forget(containers.engine, f"{containers.name}-image:1")
    assert (server["flavor"], server["version"][:4]) == ("valkey", "9.1.")


# Images that are pulled.


@pytest.fixture(scope="module")
def own_registry(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with one image, which nothing else has a layer of."""
    with registry(tmp_path_factory.mktemp("registry")) as found:
        push_new(engine, found.image())
        yield found


@pytest.fixture
def pulled(engine: docker.DockerClient, own_registry: Registry, tmp_path: Path) -> Iterator[Containers]:
    """A command for containers of the registry's image, which is not here yet."""
    made = make(
        engine, tmp_path / "state", VALKEY_BOOTSTRAP_IMAGE=own_registry.image(), VALKEY_BOOTSTRAP_PULL="missing"
    )
    forget(engine, own_registry.image())
    yield made
    remove(made)
    forget(engine, own_registry.image())


def pull_events(stderr: str) -> list[dict[str, object]]:
    return [event for event in map(json.loads, stderr.splitlines()) if event.get("phase") == "pull"]


def test_a_pull_is_told_while_it_gets_on(pulled: Containers, own_registry: Registry) -> None:
    done = pulled(*SOME, "--progress", "json")
    assert done.returncode == 0, done.stderr
    events = pull_events(done.stderr)
    assert [event["event"] for event in (events[0], events[-1])] == ["phase.started", "phase.finished"]
    assert [events[0]["title"], events[-1]["title"]] == [
        f"Pulling {own_registry.image()}",
        f"Pulled {own_registry.image()}",
    ]
    progress = [event for event in events if event["event"] == "phase.progressed"]
    assert progress
    assert (progress[-1]["done"], progress[-1]["total"]) == (1, 1)
    assert str(progress[-1]["reason"]).endswith(" MB")
    assert {str(each.attrs["Config"]["Image"]) for each in pulled.containers()} == {own_registry.image()}

    # It is here now, and not pulled again unless it is asked for.
    assert pull_events(pulled(*SOME, "--progress", "json").stderr) == []
    told = pulled(*SOME, "--pull", "always").stderr
    assert f"Pulled {own_registry.image()}" in told
    pulled.ok("delete")
    pulled.assert_nothing_left()


def test_a_name_that_the_registry_does_not_have(pulled: Containers, own_registry: Registry) -> None:
    for image in (own_registry.image("other"), own_registry.image(tag="0.1")):
        told = refused(pulled, 3, *SOME, "--image", image)
        assert f"{image} could not be pulled: manifest for {image} not found" in told
        assert f"check the name {image}" in told.partition("hint: ")[2]


def read_until_quiet(stream: IO[str]) -> None:
    """Read what comes, until nothing has come for a while."""
    while select.select([stream], [], [], 0.5)[0]:
        assert os.read(stream.fileno(), 65536)


@pytest.mark.parametrize("after", [0, 2_000_000], ids=["before the first word", "amid a layer"])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_pull_that_stalls_is_interrupted_at_once(
    pulled: Containers, own_registry: Registry, after: int, signum: signal.Signals
) -> None:
    with (
        own_registry.stalling(after) as (slow, stalled),
        pulled.popen(*SOME, "--image", slow.image(), "--progress", "json") as process,
    ):
        assert process.stderr is not None
        try:
            stalled()
            read_until_quiet(process.stderr)
            began = time.monotonic()
            process.send_signal(signum)
            rest = process.stderr.read()
            assert process.wait(30) == 128 + signum, rest
        finally:
            process.kill()
        assert time.monotonic() - began < FEW_SECONDS
    assert "Traceback" not in rest
    pulled.assert_nothing_left()
    assert pulled.engine.images.list(slow.image()) == []


async def test_a_pull_that_stalls_is_given_up(
    engine: docker.DockerClient, own_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "SILENT_SECONDS", 0.5)
    told: list[Event] = []
    with own_registry.stalling(2_000_000) as (slow, _):
        runtime = EngineRuntime(image=slow.image(), pull="always")
        with pytest.raises(RuntimeUnavailable, match=r"could not be pulled: nothing came for 0\.5 s") as caught:
            await runtime.fetch(None, Reporter("x", told.append))
    assert caught.value.code == "no-image"
    assert f"`docker pull {slow.image()}`" in caught.value.hint
    assert told[0].name == "phase.started"


async def test_the_deadline_begins_after_the_pull() -> None:
    class Slow(FakeRuntime):
        async def fetch(self, record: Record | None, reporter: Reporter) -> None:
            await anyio.sleep(2)

    servers = FakeServers()
    made = await create(
        ClusterSpec(), Access(servers.connector), runtime=Slow(servers), options=CreateOptions(timeout=2)
    )
    assert made.made
