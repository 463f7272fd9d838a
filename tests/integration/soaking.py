"""One run of the soak: servers, a command, faults meanwhile, and a judge afterwards."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .judge import Case, Refused, Wire, judge
from .mishaps import Mishaps
from .scenarios import Fault, Scenario
from .told import Told
from .worlds import TIMEOUT, Created, Given, World

HARD_LIMIT = TIMEOUT + 35
"""Beyond its deadline a command may gather evidence (5 s), restore settings (10 s) and remove what it made (15 s)."""

LATER = 1.0
"""Seconds after which a cluster is judged again: what settles by itself has, and what is wrong for ever shows."""

LAST_LOOK = 0.1
"""How late an event may be read, in seconds."""

TROUBLE = re.compile(rb"configEpoch collision", re.IGNORECASE)
TROUBLE_LATER = re.compile(rb"Ignore stale message|configEpoch collision", re.IGNORECASE)
"""In a server's log ever, and after the cluster was called ready."""


class Wrong(Exception):
    """A verdict that is not so, or none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended that was right.

    Args:
        verdicts: of its commands, in turn: ``ready``, ``interrupted``, or the code of the error.
        done: the faults that were done.
        seconds: that the last command took.
    """

    verdicts: tuple[str, ...]
    done: tuple[Fault, ...]
    seconds: float


def soak(scenario: Scenario, folder: Path) -> Outcome:
    """Carry out a run in an empty folder, which holds the evidence afterwards; nothing of it runs any more.

    Raises:
        Wrong: a verdict was wrong.
    """
    with closing(Given(scenario, folder) if scenario.forms else Created(scenario, folder)) as world:
        run = _Run(scenario, world, folder)
        try:
            return run.carry_out()
        except BaseException:
            # Nothing is to be started again when all servers have been ended.
            run.mishaps.settle()
            run.keep_views()
            raise


def insist(case: Case, logs: Sequence[Path], judge: Callable[[Case], Sequence[str]] = judge) -> None:
    """Insist that what was called ready is so: now, and a little later.

    Args:
        case: what is judged.
        logs: of its servers.
        judge: who judges.

    Raises:
        Wrong: it is not.
    """
    sizes = {log: log.stat().st_size for log in logs}
    if len(sizes) != len(case.seats):
        raise Wrong(f"{len(sizes)} logs of {len(case.seats)} servers")
    if wrong := judge(case):
        raise Wrong("called ready, and is not:\n" + "\n".join(wrong))
    time.sleep(LATER)
    if wrong := judge(case):
        raise Wrong(f"called ready, and is not {LATER:g} s later:\n" + "\n".join(wrong))
    for log, size in sizes.items():
        text = log.read_bytes()
        told = [line for line in text.splitlines() if TROUBLE.search(line)]
        told += [line for line in text[size:].splitlines() if TROUBLE_LATER.search(line)]
        if told:
            raise Wrong(f"{log} tells of trouble: {told[:5]}")


class _Run:
    def __init__(self, scenario: Scenario, world: World, folder: Path) -> None:
        self.scenario, self.world, self.folder = scenario, world, folder
        self.mishaps = Mishaps(world)
        self.verdicts: list[str] = []
        self.commands = 0

    def carry_out(self) -> Outcome:
        self._age()
        rounds: list[Sequence[Fault]] = [*self.scenario.faults]
        while True:
            faults, rounds = (rounds[0] if rounds else ()), rounds[1:]
            told = self._command(faults)
            verdict = self._verdict(told)
            self.verdicts.append(verdict)
            if verdict == "interrupted":
                continue
            self.mishaps.await_end()
            if verdict != "ready" and self._made_here(told):
                self.world.command.assert_nothing_left()
            if verdict == "ready":
                if not self._disturbed(told):
                    break
                # Something was done after its last look: the same command again mends it, or finds it well.
                rounds = []
        insist(self.world.case(), self.world.logs())
        self.world.clear()
        done = tuple(done.fault for done in self.mishaps.done)
        return Outcome(tuple(self.verdicts), done, told.finished - told.began)

    def _age(self) -> None:
        """Whatever comes before the command that is judged."""
        match self.scenario.start:
            case "create-late":
                slots = Fault("interrupt", -1, "slots", 0.0, 0.0)
                self._command((slots,))
            case "create-stopped":
                assert isinstance(self.world, Created)
                if (verdict := self._verdict(self._command(()))) != "ready":
                    raise Wrong(f"the first creation ended with {verdict}")
                self.world.kill_all()
            case "create" | "form":
                return
            case "form-late":
                pass
        self.mishaps.done.clear()
        time.sleep(self.scenario.age)

    def _command(self, faults: Sequence[Fault]) -> Told:
        """Run the command to its end, whatever that is."""
        told = Told()
        self.commands += 1
        with (
            (self.folder / f"command-{self.commands}.out").open("w") as out,
            subprocess.Popen(
                self.world.argv(), env=self.world.command.env(), text=True, stdout=out, stderr=subprocess.PIPE
            ) as process,
        ):
            assert process.stderr is not None
            self.mishaps.arm(faults, told, process.kill)
            reader = threading.Thread(target=told.read, args=(process.stderr,), daemon=True)
            reader.start()
            try:
                reader.join(HARD_LIMIT)
                hangs = reader.is_alive()
            finally:
                process.kill()
                reader.join()
        lines = [f"{at - told.began:.3f} {event}\n" for at, event in told.events]
        (self.folder / f"command-{self.commands}.err").write_text("".join([*lines, *told.other]))
        if hangs:
            raise Wrong(f"the command had not ended after {HARD_LIMIT} s")
        told.code = process.returncode
        return told

    def _made_here(self, told: Told) -> bool:
        """Whether the command began with nothing, so that it has to leave nothing when it fails."""
        return not self.scenario.forms and not self.scenario.retain and told.when("plan.made", exists=False) is not None

    def _verdict(self, told: Told) -> str:
        error, ready = told.error, told.when("cluster.ready")
        if told.other:
            raise Wrong(f"the command told what is no event: {''.join(told.other)[-2000:]}")
        if told.code == -signal.SIGKILL:
            return "interrupted"
        if (told.code == 0) != (ready is not None) or (told.code == 0) != (error is None):
            raise Wrong(f"the command ended with {told.code}, ready {ready}, error {error}")
        if error is None:
            return "ready"
        self._check_blame(error["message"], error["nodes"], error["code"], told)
        return str(error["code"])

    def _check_blame(self, message: str, nodes: Iterable[str], code: str, told: Told) -> None:
        """An error has to name a node to which something was done, and no other one before."""
        victims = {fault.node for fault in self.mishaps.during(told.began, told.finished)}
        if not victims:
            raise Wrong(f"an error without a cause ({code}): {message}")
        named = self._named(message)
        listed = self._named("\n".join(nodes))
        if not victims & (named or listed):
            raise Wrong(f"an error that blames {sorted(named or listed)} instead of {sorted(victims)}: {message}")
        if code not in ("not-converged", "another-cluster") and listed - victims:
            raise Wrong(f"an error that blames {sorted(listed - victims)} beside {sorted(victims)}: {message}")

    def _named(self, text: str) -> set[int]:
        return {
            index
            for index in range(self.scenario.nodes)
            if any(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text) for name in self.world.names(index))
        }

    def _disturbed(self, told: Told) -> bool:
        """Whether a fault was in force, or its traces were fresh, when the command looked for the last time."""
        looked = told.when("phase.finished", phase="proof") or told.finished
        return bool(self.mishaps.during(looked - LAST_LOOK, float("inf")))

    def keep_views(self) -> None:
        """Write down how every node sees the cluster."""
        parts = []
        for index in range(self.scenario.nodes):
            try:
                with Wire(self.world.port(index), 2) as wire:
                    said = "\n".join(wire.ask("CLUSTER", word) for word in ("INFO", "NODES"))
            except (OSError, Refused) as error:
                said = str(error)
            parts.append(f"{self.world.names(index)}\n{said}\n")
        (self.folder / "views.txt").write_text("\n".join(parts))
