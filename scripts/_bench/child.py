"""A command as a child process, with the time of its end and what it used."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
_ERROR = re.compile(r"^error:|\[ERR\]")
LOOK_SECONDS = 0.005
"""How often it is looked whether the command has ended, and how much memory it has."""


class Child:
    """A running command; its output goes to files.

    ``began`` is when it was spawned and ``ended`` when it was over (`time.monotonic`; None: it runs). ``began_at`` is
    the former in seconds since the epoch, and ``created`` the same by the system's word, to be compared with that of
    other processes. When it is over, ``code`` is its exit code, negative for a signal, and ``cpu_seconds`` are what it
    used, its children included.

    ``peak_kib`` is the most memory that it had. Where there is no ``/proc`` it is that of its resource usage, which is
    never less than what the process had that spawned it (``exec_mmap`` in Linux's exec.c keeps the mark of before).

    Args:
        arguments: the command line.
        environment: all of its environment.
        folder: where its output goes: ``stdout`` and ``stderr``.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self.stdout, self.stderr = folder / "stdout", folder / "stderr"
        self.ended: float | None = None
        self.code: int | None = None
        self.cpu_seconds = 0.0
        self.peak_kib = 0
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.began_at = time.time()
            self.began = time.monotonic()
            self._process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment
            )
        self.created = psutil.Process(self._process.pid).create_time()
        self._status = Path(f"/proc/{self._process.pid}/status")
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._waiter.start()

    def join(self, seconds: float) -> None:
        """Wait until it has ended, at most so long."""
        self._waiter.join(seconds)

    def stop(self) -> None:
        """Kill it if it still runs, and collect it."""
        if self.ended is None:
            self._process.kill()
        self._waiter.join()

    def complaint(self) -> str:
        """The first line of what it printed that tells an error, else the last one; "" if it printed nothing."""
        texts = [file.read_text(errors="replace").strip() for file in (self.stdout, self.stderr)]
        lines = [line for text in texts for line in text.splitlines()]
        return next((line for line in lines if _ERROR.search(line)), lines[-1] if lines else "")

    def _wait(self) -> None:
        while True:
            self._note_peak()
            pid, status, used = os.wait4(self._process.pid, os.WNOHANG)
            if pid:
                break
            time.sleep(LOOK_SECONDS)
        ended = time.monotonic()
        self.cpu_seconds = round(used.ru_utime + used.ru_stime, 3)
        self.peak_kib = self.peak_kib or used.ru_maxrss // (1024 if sys.platform == "darwin" else 1)
        # It has been collected here, and Popen must not try that again.
        self.code = self._process.returncode = os.waitstatus_to_exitcode(status)
        self.ended = ended

    def _note_peak(self) -> None:
        try:
            found = _PEAK.search(self._status.read_text())
        except OSError:
            return
        if found:
            self.peak_kib = max(self.peak_kib, int(found[1]))
