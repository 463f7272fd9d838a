"""The images that containers are made of: pulled, asked for their server, and asked what a container sees."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import anyio.from_thread
from docker import APIClient
from docker.errors import APIError, ImageNotFound

from bootstrap.errors import BootstrapError, RuntimeUnavailable
from bootstrap.events import PhaseReporter
from bootstrap.judging.views import parse_version
from bootstrap.planning.site import OLDEST, ServerInfo, server_of_tag
from bootstrap.planning.spec import DEFAULT_IMAGE, Pull
from bootstrap.runtimes.binaries import read_version
from bootstrap.runtimes.engine.archives import host_in, unpack_one
from bootstrap.runtimes.engine.failures import (
    API_SECONDS,
    bad_name,
    engine_errors,
    lacks_program,
    no_image,
    no_server,
    not_pulled,
    pull_error,
    silent_pull,
)

SILENT_SECONDS = 60.0
"""How long a pull may tell nothing; one that gets on tells something several times a second."""

_POLL_SECONDS = 0.1
_PROBE = "host-gateway.valkey-bootstrap"
_FLAVORS: tuple[Literal["valkey"], Literal["redis"]] = ("valkey", "redis")


class Images:
    """The engine's images; all of it blocks.

    Args:
        api: gives the connection to the engine.
    """

    def __init__(self, api: Callable[[], APIClient]) -> None:
        self._client = api

    @property
    def _api(self) -> APIClient:
        return self._client()

    def must_pull(self, image: str, pull: Pull) -> bool:
        """Whether the image is to be pulled; raises `RuntimeUnavailable` where it is needed and forbidden."""
        if pull == "always":
            return True
        missing = self._inspect(image) is None
        if missing and pull == "never":
            raise no_image(
                f"the image {image} is not here, and --pull never forbids to pull it",
                f"pull it first: `docker pull {image}`, or leave out --pull never",
            )
        return missing

    def _inspect(self, image: str) -> dict[str, Any] | None:
        with engine_errors(f"look at the image {image}", mapped=partial(bad_name, image)):
            try:
                found: dict[str, Any] = self._api.inspect_image(image)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return None
            return found

    def pull(self, image: str, phase: PhaseReporter) -> None:
        """Pull an image, its layers told as progress; called in a thread of anyio's."""
        layers: dict[str, tuple[int, int]] = {}
        for told in _while_wanted(image, partial(self._pulled, image)):
            if "error" in told:
                raise not_pulled(image, told["error"])
            if _note_layer(told, layers):
                done = sum(1 for at, of in layers.values() if of and at >= of)
                megabytes = sum(at for at, _ in layers.values()) / 1e6
                phase.total = len(layers)
                anyio.from_thread.run_sync(phase.progress, done, f"{megabytes:.0f} MB")

    def _pulled(self, image: str) -> Iterator[dict[str, Any]]:
        repository, tag = _split(image)
        yield from self._api.pull(repository, tag=tag, stream=True, decode=True)

    def server(self, image: str) -> tuple[ServerInfo, tuple[str, ...]]:
        """The server of an image, and what had to be assumed about it."""
        found = self._inspect(image)
        if found is None:
            assumed = server_of_tag(image) or ServerInfo("valkey", (9, 1, 0), image)
            return assumed, (f"the image {image} is not here yet; its server is {assumed}",)
        return self._server_of(image, found), ()

    def _server_of(self, image: str, inspected: Mapping[str, Any]) -> ServerInfo:
        environment = dict(text.split("=", 1) for text in inspected["Config"].get("Env") or () if "=" in text)
        server = None
        for flavor in _FLAVORS:
            # Official images tell it, as a number or a word such as "unstable"; any other is asked.
            version = parse_version(environment.get(f"{flavor.upper()}_VERSION", ""))
            if any(version):
                server = ServerInfo(flavor, version, image, "of the image")
                break
        server = server or self._ask(image)
        if server.version < OLDEST:
            raise RuntimeUnavailable(
                f"the server of {image} is {server}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that works",
                code="server-too-old",
                hint=f"use --image {DEFAULT_IMAGE}",
            )
        return server

    def _ask(self, image: str) -> ServerInfo:
        said = ""
        for flavor in _FLAVORS:
            with (
                engine_errors(f"ask {image} for its server"),
                self._passing_container(image, entrypoint=[f"{flavor}-server"], command=["--version"]) as container,
            ):
                try:
                    self._api.start(container)
                except APIError as error:
                    if lacks_program(error):
                        continue
                    raise
                self._api.wait(container, timeout=API_SECONDS)
                said = self._api.logs(container).decode(errors="replace").strip()
                if (found := read_version(said)) is not None:
                    return ServerInfo(*found, image, "of the image")
        raise no_server(image, said)

    @contextmanager
    def _passing_container(self, image: str, **options: Any) -> Iterator[str]:
        """A container that is gone at the end of the block."""
        container: str = self._api.create_container(image, **options)["Id"]
        try:
            yield container
        finally:
            self._api.remove_container(container, force=True, v=True)

    def host_gateway(self, server: ServerInfo) -> str:
        """What ``host-gateway`` is for this engine's containers: it writes that into their ``/etc/hosts``."""
        host_config = self._api.create_host_config(extra_hosts={_PROBE: "host-gateway"})
        with (
            engine_errors("ask for the host gateway"),
            # It needs not run, but to have been started.
            self._passing_container(
                server.path, entrypoint=[server.program], command=["--version"], host_config=host_config
            ) as container,
        ):
            self._api.start(container)
            chunks, _ = self._api.get_archive(container, "/etc/hosts")
            address = host_in(unpack_one(chunks).decode(errors="replace"), _PROBE)
        if address is None:
            raise RuntimeUnavailable(
                "containers of this engine cannot reach this machine by a name",
                code="no-host-gateway",
                hint="use Docker 20.10 or newer, or leave out --announce-host",
            )
        return address


def _split(image: str) -> tuple[str, str | None]:
    """Repository and tag; a name without a tag means ``latest``, one with a digest has none."""
    if "@" in image:
        return image, None
    head, _, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return (f"{head}/{name}" if head else name), tag or "latest"


def _while_wanted(image: str, lines: Callable[[], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """What the engine tells of a pull, until it ends, the work is cancelled, or nothing comes any more.

    The SDK waits for the next line of a pull without end, and nothing interrupts a thread that waits. So another one
    does, which is left behind if need be: the engine gives up the pull when this process is gone.
    """
    heard: queue.SimpleQueue[dict[str, Any] | BootstrapError | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            with engine_errors(f"pull {image}", mapped=partial(pull_error, image)):
                for line in lines():
                    heard.put(line)
        except BootstrapError as error:
            heard.put(error)
        finally:
            heard.put(None)

    threading.Thread(target=read, name=f"pull of {image}", daemon=True).start()
    silent_since = time.monotonic()
    while True:
        anyio.from_thread.check_cancelled()
        try:
            found = heard.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            if time.monotonic() - silent_since > SILENT_SECONDS:
                raise silent_pull(image, SILENT_SECONDS) from None
            continue
        silent_since = time.monotonic()
        if found is None:
            return
        if isinstance(found, BootstrapError):
            raise found
        yield found


def _note_layer(told: Mapping[str, Any], layers: dict[str, tuple[int, int]]) -> bool:
    """Keep what a line of a pull tells about a layer: bytes that are here, bytes that it has."""
    detail, layer = told.get("progressDetail") or {}, str(told.get("id", ""))
    status = told.get("status")
    if status in ("Pull complete", "Already exists"):
        size = max(1, layers.get(layer, (0, 1))[1])
        layers[layer] = (size, size)
    elif status == "Pulling fs layer":
        layers.setdefault(layer, (0, 0))
    elif status == "Downloading" and detail.get("total"):
        # Not yet complete, even when all bytes are here: it is still to be unpacked.
        layers[layer] = (min(int(detail["current"]), int(detail["total"]) - 1), int(detail["total"]))
    else:
        return False
    return True
