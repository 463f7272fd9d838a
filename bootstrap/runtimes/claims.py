"""A lock on a cluster's name: a file lock of the operating system, so that a command that is killed lets go of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from bootstrap.concurrency import in_thread, to_the_end
from bootstrap.errors import Conflict, RuntimeUnavailable

ROOT_HINT = "choose another folder with --state-root"


@asynccontextmanager
async def claimed(root: Path, file: str, name: str) -> AsyncIterator[None]:
    """Hold a name for the block; the file and a folder that was made for it are gone again afterwards.

    Args:
        root: the folder of the lock files.
        file: the lock file's name.
        name: the cluster, for the message.

    Raises:
        Conflict: another command holds it.
        RuntimeUnavailable: the folder cannot be written.
    """
    # A call that is cancelled while it waits for a thread has no result, and may hold the lock all the same.
    held: list[tuple[FileLock, bool]] = []
    try:
        await in_thread(lambda: held.append(_acquire(root, file, name)))
        yield
    finally:
        for lock, made in held:
            await to_the_end(partial(in_thread, _release, lock, root, made=made))


def _acquire(root: Path, file: str, name: str) -> tuple[FileLock, bool]:
    made = make_root(root)
    lock = FileLock(root / file, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise Conflict(
            f'another command is at work on "{name}"', code="busy", hint="wait for it, or choose another --name"
        ) from None
    except OSError as error:
        raise state_error(root, error) from error
    return lock, made


def _release(lock: FileLock, root: Path, *, made: bool) -> None:
    # Removed while it is still held: whoever waits for the old file sees that it is gone and opens a new one.
    Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    if made:
        # A folder that was made for nothing goes again; one that holds something refuses.
        with suppress(OSError):
            root.rmdir()


def make_root(root: Path) -> bool:
    """Make the folder, readable by its owner alone; whether it had to be made.

    Raises:
        RuntimeUnavailable: it cannot be made.
    """
    try:
        if root.is_dir():
            return False
        root.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if root.is_dir():
            return False
        raise RuntimeUnavailable(
            f"cannot keep state in {root}: it is not a folder", code="state-root", hint=ROOT_HINT
        ) from None
    except OSError as error:
        raise state_error(root, error) from error
    return True


def state_error(path: Path, error: OSError) -> RuntimeUnavailable:
    """What an error of the file system means for a folder that holds state."""
    reason = (error.strerror or str(error)).lower()
    return RuntimeUnavailable(
        f"cannot keep state in {error.filename or path}: {reason}", code="state-root", hint=ROOT_HINT
    )


def default_root() -> Path:
    """The user's state folder, such as ``~/.local/state/valkey-bootstrap``."""
    import platformdirs

    return Path(platformdirs.user_state_dir("valkey-bootstrap", appauthor=False))
