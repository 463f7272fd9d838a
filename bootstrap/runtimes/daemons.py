"""Server processes that outlive us: started detached, known again by pid, start time and working folder."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PROCESS_FILE = "process.json"
LOG_FILE = "server.log"
KILL_SECONDS = 10.0


def spawn(server: str, config: Path, folder: Path) -> int:
    """Start a server in its own session with its output appended to its log, and nothing of ours open; the pid.

    `os.posix_spawn` rather than `subprocess`: the process is meant to outlive this one, and a `Popen` object would
    warn about that when it is collected.
    """
    log = str(folder / LOG_FILE)
    pid = os.posix_spawn(
        server,
        [server, str(config)],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in _inheritable()),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE),
    )
    started = process_start(pid)
    if started is not None:
        _write(folder / PROCESS_FILE, {"pid": pid, "started": started})
    return pid


def _inheritable() -> list[int]:
    """Open files that a server would inherit: of the socket of a web server that reloads it would keep the port."""
    found = []
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - numbers, not paths
        # One that is closed by now, such as that of this listing, is nobody's any more.
        with suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.append(int(name))
    return found


def process_start(pid: int) -> float | None:
    """When a process was started, in seconds since the epoch; None if there is none (a zombie is none)."""
    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.create_time()
    except psutil.Error:
        return None
    _reap(pid)
    return None


def running(folders: Sequence[Path]) -> dict[Path, int]:
    """The pid of the server of each node's folder, where one runs.

    The recorded pid counts only with its start time, which no other process of that number has. A server whose pid was
    never recorded (we were killed in between) is found by its working folder, which the server sets to its ``dir``.
    """
    found = {folder: pid for folder in folders if (pid := _recorded(folder)) is not None}
    missing = {str(folder): folder for folder in folders if folder not in found and folder.exists()}
    if missing:
        for process in psutil.process_iter(["pid", "cwd", "status"]):
            folder = missing.get(process.info["cwd"] or "")
            if folder is not None and process.info["status"] != psutil.STATUS_ZOMBIE and _writes_log(process, folder):
                found[folder] = process.info["pid"]
    return found


def end(pids: Sequence[int], *, kill: bool) -> tuple[int, ...]:
    """End processes and wait until they are gone; those that are still there after `KILL_SECONDS`."""
    alive = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            alive.append(process := psutil.Process(pid))
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            if not kill:
                # A paused one would hear of it only when it is resumed.
                process.send_signal(signal.SIGCONT)
    deadline = time.monotonic() + KILL_SECONDS
    while (alive := [each for each in alive if not _ended(each)]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return tuple(process.pid for process in alive)


def _ended(process: psutil.Process) -> bool:
    with suppress(ChildProcessError):
        # A child of ours is gone once it is collected.
        return os.waitpid(process.pid, os.WNOHANG)[0] != 0
    try:
        # In a container whose first process collects nobody, a zombie stays in the table for ever. It counts as ended
        # when its last thread has: until then it may hold its ports.
        zombie = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return zombie or not process.is_running()
    except psutil.NoSuchProcess:
        return True


def signal_process(pid: int, *, pause: bool) -> None:
    """Pause a process, or let it go on."""
    os.kill(pid, signal.SIGSTOP if pause else signal.SIGCONT)


def paused(pid: int) -> bool:
    """Whether a process is stopped by a signal, and goes on when it gets another one."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def _recorded(folder: Path) -> int | None:
    try:
        document = json.loads((folder / PROCESS_FILE).read_text())
        pid, started = int(document["pid"]), float(document["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    now = process_start(pid)
    if now is None:
        return None
    # Start times move when the clock is set, and with them every recorded one; the working folder does not.
    return pid if abs(now - started) < 0.5 or _works_in(pid, folder) else None


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return psutil.Process(pid).cwd() == str(folder)
    except psutil.Error:
        return False


def _writes_log(process: psutil.Process, folder: Path) -> bool:
    """Whether its standard output is the folder's log; a shell that was opened there works there, too."""
    try:
        return any(file.fd == 1 and file.path == str(folder / LOG_FILE) for file in process.open_files())
    except psutil.Error:
        return False


def _reap(pid: int) -> None:
    """Collect a child of ours that has ended, so that it does not look alive as a zombie."""
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)


def replace_private(path: Path, content: bytes) -> None:
    """The same at once: a kill leaves the old content or the new one."""
    temporary = path.with_suffix(".tmp")
    write_private(temporary, content)
    temporary.replace(path)


def _write(path: Path, document: Mapping[str, object]) -> None:
    replace_private(path, json.dumps(document).encode())


def owner(pid: int | None = None) -> dict[str, Any]:
    """A process of this machine, by default this one, as the owner of what is made: id, start time and machine."""
    pid = pid or os.getpid()
    return {"pid": pid, "started": process_start(pid), "machine": platform.node()}


def owner_gone(owner: Mapping[str, Any]) -> bool:
    """Whether a cluster's owner has ended; one on another machine cannot be asked and counts as alive."""
    if not owner or owner.get("machine", platform.node()) != platform.node():
        return False
    started = process_start(int(owner["pid"]))
    return started is None or abs(started - float(owner["started"] or 0)) > 2
