"""What the soak does to servers while a command is at work on them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from .judge import Refused, Wire
from .scenarios import PHASES, Fault
from .told import Told
from .worlds import World


@dataclass(slots=True)
class Done:
    """A fault that was done, from when to when by the monotonic clock."""

    fault: Fault
    began: float
    ended: float = math.inf
    mended: bool = False
    """The next command mends it."""

    def meets(self, begin: float, end: float) -> bool:
        """Whether it was in force at some time between."""
        return self.began < end and self.ended > begin


class Mishaps:
    """Does faults, each in a thread of its own, while commands of one world are at work."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self.done: list[Done] = []

    def arm(self, faults: Sequence[Fault], told: Told, interrupt: Callable[[], object]) -> None:
        """Do them when their moments come; what has none before the command ends is not done.

        Args:
            faults: for one command.
            told: what it tells.
            interrupt: kills the command.
        """
        for done in self.done:
            if done.mended:
                done.ended = min(done.ended, told.began)
        for fault in faults:
            work = {
                "interrupt": lambda _: interrupt(),
                "pause": self._pause,
                "sleep": self._sleep,
                "kill": self._kill,
                "swallow": self._swallow,
            }[fault.kind]
            if fault.kind == "swallow":
                self._world.swallow(fault.node)
            thread = threading.Thread(target=self._run, args=(fault, told, work), daemon=True)
            self._threads.append(thread)
            thread.start()

    def settle(self) -> None:
        """Wait until nothing is under way."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self._threads.clear()

    def await_end(self) -> None:
        """Wait until nothing is under way, and raise what went wrong."""
        self.settle()
        for failure in self._failures:
            raise failure

    def during(self, begin: float, end: float) -> list[Fault]:
        """Faults of nodes that were in force between."""
        return [done.fault for done in self.done if done.fault.kind != "interrupt" and done.meets(begin, end)]

    def _run(self, fault: Fault, told: Told, work: Callable[[Done], object]) -> None:
        try:
            if fault.kind == "swallow":
                self.done.append(done := Done(fault, told.began))
                self._swallow_until(done, told)
                return
            phases = PHASES[PHASES.index(fault.phase) :]
            moment = told.await_phase(phases)
            if moment is None or told.ended.wait(max(0.0, moment + fault.delay - time.monotonic())):
                return
            self.done.append(done := Done(fault, time.monotonic()))
            work(done)
        except BaseException as failure:  # noqa: BLE001 - raised again where the run is
            self._failures.append(failure)

    def _swallow_until(self, done: Done, told: Told) -> None:
        if told.await_phase(PHASES[PHASES.index("meet") :]) is not None:
            told.ended.wait(done.fault.seconds)
        self._swallow(done)

    def _swallow(self, done: Done) -> None:
        self._world.let_pass(done.fault.node)
        done.ended = time.monotonic()

    def _pause(self, done: Done) -> None:
        process = self._process(done)
        if process is not None:
            # It may be removed meanwhile.
            with suppress(psutil.NoSuchProcess):
                process.suspend()
                time.sleep(done.fault.seconds)
                process.resume()
        done.ended = time.monotonic()

    def _sleep(self, done: Done) -> None:
        if self._process(done) is not None:
            with suppress(OSError, Refused), Wire(self._world.port(done.fault.node), done.fault.seconds + 20) as wire:
                wire.ask("DEBUG", "SLEEP", done.fault.seconds)
        done.ended = time.monotonic()

    def _kill(self, done: Done) -> None:
        if self._process(done) is None or self._world.kill(done.fault.node, done.fault.seconds):
            done.ended = time.monotonic()
        else:
            done.mended = True

    def _process(self, done: Done) -> psutil.Process | None:
        """The server's process; it may be about to be started."""
        end = time.monotonic() + 2
        while (process := self._world.process(done.fault.node)) is None and time.monotonic() < end:
            time.sleep(0.05)
        return process
