"""The images that containers are made of: pulled, asked for their server, and asked what a container sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import anyio.from_thread
from docker import APIClient
from docker.errors import APIError, ImageNotFound

from bootstrap.errors import RuntimeUnavailable
from bootstrap.events import PhaseReporter
from bootstrap.judging.views import parse_version
from bootstrap.planning.site import OLDEST, ServerInfo, server_of_tag
from bootstrap.planning.spec import DEFAULT_IMAGE, Pull
from bootstrap.runtimes.binaries import read_version
from bootstrap.runtimes.engine.archives import host_in, unpack_one
from bootstrap.runtimes.engine.failures import (
    API_SECONDS,
    engine_errors,
    lacks_program,
    no_image,
    no_server,
    pull_error,
)

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
            raise no_image(image, f"the image {image} is not here, and --pull never forbids to pull it")
        return missing

    def _inspect(self, image: str) -> dict[str, Any] | None:
        with engine_errors(f"look at the image {image}"):
            try:
                found: dict[str, Any] = self._api.inspect_image(image)  # type: ignore[no-untyped-call]
            except ImageNotFound:
                return None
            return found

    def pull(self, image: str, phase: PhaseReporter) -> None:
        """Pull an image, its layers told as progress; called in a thread of anyio's."""
        repository, tag = _split(image)
        layers: dict[str, tuple[int, int]] = {}
        with engine_errors(f"pull {image}", mapped=partial(pull_error, image)):
            for told in self._api.pull(repository, tag=tag, stream=True, decode=True):
                # A thread is not interrupted by a cancellation: it asks.
                anyio.from_thread.check_cancelled()
                if "error" in told:
                    raise no_image(image, f"{image} could not be pulled: {told['error']}")
                if _note_layer(told, layers):
                    done = sum(1 for at, of in layers.values() if of and at >= of)
                    megabytes = sum(at for at, _ in layers.values()) / 1e6
                    phase.total = len(layers)
                    anyio.from_thread.run_sync(phase.progress, done, f"{megabytes:.0f} MB")

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
            # Official images tell it; any other is asked.
            if version := environment.get(f"{flavor.upper()}_VERSION"):
                server = ServerInfo(flavor, parse_version(version), image, "of the image")
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
                found = read_version(self._api.logs(container).decode(errors="replace"))
                if found is not None:
                    return ServerInfo(*found, image, "of the image")
        raise no_server(image)

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
