"""Runs a verb: the event loop, interruptions, and every error as one message with an exit code."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

from bootstrap.cli.options import SPEC_FLAGS, Look
from bootstrap.cli.progress import JsonProgress, Progress
from bootstrap.cli.style import Style, in_this_program, stderr
from bootstrap.errors import BootstrapError, Problem, SpecError
from bootstrap.planning.text import listing

T = TypeVar("T")


class Interrupted(BaseException):
    """A signal ended the work, and what it had made was cleaned up; `code` is 128 and the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.code = 128 + signum


def run_async(work: Callable[[], Awaitable[T]], interruption: Interruption) -> T:
    """Run to the end, or to the first signal, which cancels the work and lets it clean up.

    Raises:
        Interrupted: a signal came.
    """
    import anyio

    async def main() -> T:
        with anyio.CancelScope() as scope:
            interruption.first_calls(scope.cancel)
            return await work()
        raise Interrupted(interruption.signum)

    # Handlers of the process rather than of the event loop: the loop takes its own away before it has closed, and a
    # second signal just then would end in a traceback.
    before = {signum: signal.signal(signum, interruption) for signum in interruption.signals}
    try:
        return anyio.run(main)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Interruption:
    """The signal handler: cancels at the first signal, ends the process at the second.

    Args:
        progress: closed at a second signal, before the process ends at once.
        leave_hint: what a second signal prints: how to remove what is left.
        signals: which ones.
    """

    def __init__(
        self,
        progress: Progress,
        leave_hint: str = "",
        signals: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM),
    ) -> None:
        self.signum = 0
        self.signals = tuple(signals)
        self._progress, self._leave_hint = progress, leave_hint
        self._first: Callable[[], object] = lambda: None
        self._taker: Callable[[int], object] | None = None

    def first_calls(self, function: Callable[[], object]) -> None:
        """What the first signal calls, from within the event loop; at once, if it has come."""
        import asyncio

        loop = asyncio.get_running_loop()
        self._first = lambda: loop.call_soon_threadsafe(function)
        if self.signum:
            function()

    @contextmanager
    def given_to(self, taker: Callable[[int], object]) -> Iterator[None]:
        """Give the signals to somebody else for the block, from within the handler: they interrupt nothing here."""
        self._taker = taker
        try:
            yield
        finally:
            self._taker = None

    def __call__(self, signum: int, _frame: object) -> None:
        """Take a signal."""
        if self._taker is not None:
            self._taker(signum)
            return
        if self.signum:
            left = f"\nLeft as it is{'; ' + self._leave_hint if self._leave_hint else ''}\n"
            # The signal may have come in the middle of a line that is being written: then the stream refuses another.
            with suppress(RuntimeError, OSError):
                self._progress.close()
            with suppress(OSError):
                os.write(2, left.encode(errors="replace"))
            os._exit(128 + signum)
        self.signum = signum
        self._first()


def report(error: BootstrapError, look: Look) -> int:
    """Print an error: what happened, what each node said, what to do; its exit code."""
    style = stderr(look.color)
    if look.progress == "json":
        JsonProgress(style).error(error)
        return error.exit_code
    for line in error_lines(error, style, look.state_root):
        style.write(line)
    if look.verbose:
        style.write()
        style.write("".join(traceback.format_exception(error)).rstrip())
    return error.exit_code


def error_lines(error: BootstrapError, style: Style, state_root: str | None = None) -> list[str]:
    """The text of an error."""
    problems = error.problems if isinstance(error, SpecError) else ()
    message = error.message
    if len(problems) == 1:
        message = _problem(problems[0])
    elif problems:
        message = f"{len(problems)} problems with what was asked for"
    lines = [f"{style.paint('error:', fg='red', bold=True)} {message} ({error.code})"]
    if len(problems) > 1:
        lines += ["", *(f"  {_problem(problem)}" for problem in problems)]
    elif error.nodes and not (len(error.nodes) == 1 and next(iter(error.nodes.values())) in message):
        lines += ["", *_nodes(error.nodes)]
    if hints := [problem.hint for problem in problems if problem.hint] or ([error.hint] if error.hint else []):
        lines += [
            "",
            *(
                f"{style.paint('hint:', fg='cyan')} {in_this_program(hint, state_root)}"
                for hint in dict.fromkeys(hints)
            ),
        ]
    return lines


def _nodes(nodes: Mapping[str, str]) -> Iterator[str]:
    """What each node said; nodes that said the same are told together, a log stands below its node."""
    alike: dict[str, list[str]] = {}
    for node, text in nodes.items():
        alike.setdefault(text, []).append(node)
    for text, names in alike.items():
        first, *rest = text.splitlines() or [""]
        if rest:
            yield f"  {listing(names, 8)}:"
            yield from (f"    {line}".rstrip() for line in (first, *rest) if line.strip())
        else:
            yield f"  {listing(names, 8)}: {first}"


def _problem(problem: Problem) -> str:
    return f"{SPEC_FLAGS.get(problem.field, problem.field)}: {problem.message}"
