"""The command: its group of verbs, and every way out as an exit code."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import click

from bootstrap.cli import commanding, creating, doctoring, exporting, managing, operating, options, running, scaling
from bootstrap.cli.options import Look
from bootstrap.cli.shared import PROGRAM, Exit, print_lines
from bootstrap.errors import BootstrapError, UsageError


class Verbs(click.Group):
    """Bare flags mean `create`; nothing at all means `--help`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the verb in where it was left out."""
        if not args:
            args = ["--help"]
        elif args[0].startswith("-") and args[0] not in ("--help", "-h", "--version"):
            args = ["create", *args]
        return super().parse_args(ctx, args)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse, which prints what `--help` prints."""
        with _until_enough():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with _until_enough():
            return super().invoke(ctx)


@contextmanager
def _until_enough() -> Iterator[None]:
    """A reader of stdout that goes away has had enough; that is no failure. One of stderr ends the work half done."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        code = 0 if _unread(sys.stdout.fileno()) else 1
        # Python flushes once more at exit, and must not complain then.
        for stream in (sys.stdout, sys.stderr):
            if _unread(stream.fileno()):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise Exit(code) from None


def _unread(descriptor: int) -> bool:
    """Whether nobody reads a pipe or a socket any more."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:  # noqa: ARG001 - click's signature
    if asked:
        import bootstrap

        print_lines([f"{PROGRAM} {bootstrap.__version__}"])
        context.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, help="Show the version and exit.", callback=_version
)
def cli() -> None:
    """Take a machine from nothing to a Valkey cluster that is proven ready, without valkey-cli.

    \b
      valkey-bootstrap --nodes 6 --replicas 1            create a cluster
      valkey-bootstrap --nodes 6 --replicas 1 --dry-run  show what that would do
      valkey-bootstrap status                            ask every node
      valkey-bootstrap scale --nodes 9                   add nodes, and spread the slots
      valkey-bootstrap doctor                            find out what is wrong, and how to mend it
      valkey-bootstrap delete                            remove it again
      valkey-bootstrap run -- pytest                     a cluster for one command

    Flags without a verb mean `create`. NODE is a name, an index, the beginning of a node id, or HOST:PORT.

    Exit codes: 0 done, 1 unexpected, 2 usage or impossible topology, 3 no engine or server binary, 4 conflict, 5 a node
    failed, 6 not ready in time, 7 not healthy, 130 and 143 interrupted.
    """  # noqa: D301 - click's mark for a block that is not to be wrapped is a control character


for _verb in (
    creating.create,
    creating.form,
    commanding.run,
    managing.list_clusters,
    managing.status,
    managing.wait,
    managing.logs,
    operating.call,
    operating.failover,
    scaling.scale,
    scaling.add_node,
    scaling.remove_node,
    scaling.rebalance,
    scaling.reshard,
    exporting.export,
    managing.delete,
    doctoring.doctor,
):
    cli.add_command(_verb)


def run(argv: Sequence[str] | None) -> int:
    """Run a command line; every way out is an exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        cli.main(args, prog_name=PROGRAM, standalone_mode=False)
    except (BootstrapError, click.ClickException) as error:
        return running.report(error if isinstance(error, BootstrapError) else _usage(error), _early_look(args))
    except (running.Interrupted, Exit) as ending:
        return ending.code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Exception:  # noqa: BLE001 - the last resort of a program: a bug is shown whole, as a bug
        sys.stderr.write(f"{traceback.format_exc()}\n")
        sys.stderr.write(f"error: this is a bug in {PROGRAM}, please report it with the lines above (unexpected)\n")
        return 1
    return 0


def _early_look(argv: Sequence[str]) -> Look:
    """How errors are to be shown, even those in the arguments themselves."""
    argv = _ours(argv)

    def given(flag: str) -> str | None:
        pairs = zip(argv, [*argv[1:], ""], strict=True)
        return next((arg.partition("=")[2] or following for arg, following in pairs if arg.split("=")[0] == flag), None)

    progress = given("--progress") or os.environ.get(f"{options.PREFIX}_PROGRESS") or "auto"
    verbose = sum(arg in ("-v", "-vv", "--verbose") for arg in argv)
    color = given("--color") or os.environ.get(f"{options.PREFIX}_COLOR") or "auto"
    return Look(progress=progress, color=color, verbose=verbose, state_root=given("--state-root"))


def _ours(argv: Sequence[str]) -> Sequence[str]:
    """The words before `--`, and of `run` those before its command, which has flags of its own."""
    ours = list(takewhile(lambda word: word != "--", argv))
    if ours[:1] != [commanding.run.name]:
        return ours
    taken = [each for each in commanding.run.params if isinstance(each, click.Option)]
    valued = {flag for each in taken if not (each.is_flag or each.count) for flag in each.opts}
    at = 1
    while at < len(ours) and ours[at].startswith("-"):
        at += 2 if ours[at] in valued else 1
    return ours[:at]


def _usage(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path} --help`" if context is not None else ""
    return UsageError(error.format_message().rstrip("."), hint=hint)
