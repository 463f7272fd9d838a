"""The verb that runs a command beside a cluster of its own: run."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli import creating, options, running, style
from bootstrap.cli.options import Look
from bootstrap.cli.shared import Exit, choose_progress, take_look
from bootstrap.errors import BootstrapError, NotConverged, UsageError

if TYPE_CHECKING:
    from anyio.abc import Process

    from bootstrap.events import Event
    from bootstrap.operations.create import Created

DELETE_SECONDS = 60.0
"""How long a deletion may take: as long as a creation by default."""

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
OF_TERMINALS = (signal.SIGINT, signal.SIGQUIT)
"""Those that a terminal sends to all processes in front of it."""


class CannotRun(UsageError):
    """The command is there, and cannot be executed; the exit codes are those of a shell."""

    exit_code = 126
    default_code = "command-not-executable"


class NoSuchCommand(UsageError):
    """There is no such command."""

    exit_code = 127
    default_code = "command-not-found"


@click.command(
    "run",
    short_help="Run a command with a cluster of its own.",
    # Flags are ours up to the command's name; after it they are the command's.
    context_settings={"allow_interspersed_args": False},
)
@options.spec_options(name="a random one", base_port="auto")
@options.timeout_option
@options.look_options()
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG]...")
def run(command: tuple[str, ...], timeout: float, **flags: Any) -> None:
    """Create a cluster, run a command with its addresses in the environment, and remove the cluster.

    The command gets stdin, stdout, and the signals that come while it runs. A cluster of that name that was there
    before is used, and stays.

    The exit code is the command's, or 128 and the number of the signal that ended it; 126 and 127 if it cannot be run.
    """
    look, login, certificates = take_look(flags), options.take_login(flags), options.take_certificates(flags)
    look = replace(look, state_root=flags.get("state_root"))
    child = Child(command)
    from bootstrap.handle import access_with, embedded_spec
    from bootstrap.operations.create import CreateOptions
    from bootstrap.operations.create import create as run_create

    embedded = embedded_spec(None, {})
    defaults = {"name": embedded.name, "base_port": embedded.base_port}
    spec = options.read_spec(flags, flags.pop("config"), defaults)
    how = CreateOptions(timeout, owner=os.getpid(), login=login, certificates=certificates)
    progress = choose_progress(look)
    hint = style.in_this_program(f"remove it with `valkey-bootstrap delete --name {spec.name}`", look.state_root)
    # What our caller ignores stays ignored, by the command, too: after nohup a hangup is nobody's business.
    ignored = {each for each in PASSED_ON[2:] if signal.getsignal(each) is signal.SIG_IGN}
    interruption = running.Interruption(progress, hint, [each for each in PASSED_ON if each not in ignored])

    def observer(event: Event) -> None:
        with _whoever_reads():
            progress(event)

    async def work() -> int:
        made = await run_create(spec, access_with(), observer=observer, options=how)
        with _whoever_reads():
            progress.close()
        return await _Run(made, child, interruption, look).run()

    try:
        code = running.run_async(work, interruption)
    finally:
        with _whoever_reads():
            progress.close()
    if code:
        raise Exit(code)


@dataclass(frozen=True, slots=True)
class _Run:
    """The command's time with a cluster that is ready."""

    made: Created
    child: Child
    interruption: running.Interruption
    look: Look

    async def run(self) -> int:
        """Run the command, and remove what was created for it; the exit code."""
        failure: BootstrapError | None = None
        try:
            code = await self._command()
        finally:
            # A failure is told here, since the command may have one of its own.
            if failure := await self._remove():
                with _whoever_reads():
                    running.report(failure, self.look)
        return code or (failure.exit_code if failure else 0)

    async def _command(self) -> int:
        import anyio.lowlevel

        with self.interruption.given_to(self.child.signal):
            # A signal that came before this line is cancelling the work already; any other is the command's.
            await anyio.lowlevel.checkpoint()
            self.interruption.first_calls(self._tell_removal)
            with _whoever_reads():
                if self.look.talks:
                    creating.tell_ready(self.made, self.look, f": running {self.child}")
            variables = creating.variables_of(self.made)
            # Those of another cluster, in which we run, would mislead where this one has nothing to say.
            outer = {name: value for name, value in os.environ.items() if name not in variables}
            return await self.child.run({**outer, **{name: value for name, value in variables.items() if value}})

    async def _remove(self) -> BootstrapError | None:
        """Remove the cluster, if it was created here; what went wrong."""
        import anyio

        from bootstrap.operations.delete import delete

        name, runtime = self.made.plan.name, self.made.deployment.runtime
        if not self.made.made or runtime is None:
            self._tell(f'Kept cluster "{name}": it was there before')
            return None
        try:
            with anyio.fail_after(DELETE_SECONDS, shield=True):
                existed = await delete(runtime, name)
        except BootstrapError as error:
            return error
        except TimeoutError:
            return NotConverged(
                f'the cluster "{name}" was not deleted within {DELETE_SECONDS:.0f} s',
                code="left-behind",
                hint=f"delete it: `valkey-bootstrap delete --name {name}`",
            )
        self._tell(f'Deleted cluster "{name}"' if existed else f'There is no cluster "{name}": nothing to delete')
        return None

    def _tell(self, text: str) -> None:
        if self.look.talks:
            with _whoever_reads():
                style.stderr(self.look.color).write(text)

    def _tell_removal(self) -> None:
        self._tell(f'Removing cluster "{self.made.plan.name}" (Ctrl-C leaves it)')


@contextmanager
def _whoever_reads() -> Iterator[None]:
    """Write on stderr, even if nobody reads it any more: the command runs all the same, and its exit code counts."""
    try:
        yield
    except OSError:
        # Python flushes once more at exit, and its exit code would be another one.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Child:
    """The command as a process, with our standard streams and in our process group.

    Raises:
        UsageError: there is none, or it cannot be run.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        _check(argv)
        self._argv = argv
        self._process: Process | None = None
        self._early: list[int] = []

    def __str__(self) -> str:
        return textwrap.shorten(shlex.join(self._argv), 100, placeholder=" ...")

    def signal(self, signum: int) -> None:
        """Pass a signal on, from within a signal handler; one that comes before the command waits for it."""
        if self._process is None:
            self._early.append(signum)
        elif self._process.returncode is None and not _has_it(self._process.pid, signum):
            self._send(self._process.pid, signum)

    async def run(self, environment: Mapping[str, str]) -> int:
        """Run it to its end, whatever it leaves running; its exit code as a shell gives it.

        Raises:
            CannotRun: it is no program.
        """
        import anyio

        try:
            self._process = await anyio.open_process(self._argv, stdin=None, stdout=None, stderr=None, env=environment)
        except OSError as error:
            raise _refused(self._argv[0], error) from error
        while self._early:
            self._send(self._process.pid, self._early.pop(0))
        code = await self._process.wait()
        return 128 - code if code < 0 else code

    @staticmethod
    def _send(pid: int, signum: int) -> None:
        # Not by a method of the process: asyncio's asks for the exit code first, and then its watcher has none. What
        # has just ended, or runs as another user, is not ours to signal.
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signum)


def _has_it(pid: int, signum: int) -> bool:
    """Whether a terminal sent this signal, and so to the command as well; a second one would be a second Ctrl-C."""
    if signum not in OF_TERMINALS:
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp() == os.getpgid(pid)
    except OSError:
        return False
    finally:
        os.close(terminal)


def _check(argv: Sequence[str]) -> None:
    if not argv:
        raise UsageError("there is no command to run", hint="put it at the end: `valkey-bootstrap run -- pytest`")
    program = argv[0]
    if shutil.which(program):
        return
    found = program if "/" in program and Path(program).exists() else shutil.which(program, os.F_OK)
    if found is None:
        where = "" if "/" in program else " on the PATH"
        raise NoSuchCommand(f"there is no command `{program}`{where}", hint="give its path, or install it")
    if Path(found).is_dir():
        raise CannotRun(f"`{found}` is a folder", hint="name a program in it")
    raise CannotRun(f"`{found}` is not executable", hint=f"make it so with `chmod +x {found}`, or run its interpreter")


def _refused(program: str, error: OSError) -> CannotRun:
    hints = {
        errno.ENOEXEC: "let a script begin with its interpreter, such as `#!/bin/sh`",
        errno.ENOENT: "see whether the interpreter that its first line names is there",
    }
    return CannotRun(
        f"`{program}` cannot be executed: {error.strerror}",
        hint=hints.get(error.errno or 0, "run it by hand to see why"),
    )
