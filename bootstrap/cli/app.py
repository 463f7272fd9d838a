"""The verbs."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli import options, render, running, style
from bootstrap.cli.options import Look
from bootstrap.errors import BootstrapError, UsageError

if TYPE_CHECKING:
    from bootstrap.cli.progress import Progress
    from bootstrap.operations.deployment import Access, Deployment
    from bootstrap.planning.spec import ClusterSpec

PROGRAM = "valkey-bootstrap"


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
    """A reader of stdout that goes away has had enough; that is no failure."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at exit, and must not complain then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _Exit(0) from None


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:  # noqa: ARG001 - click's signature
    if asked:
        import bootstrap

        _print([f"{PROGRAM} {bootstrap.__version__}"])
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
      valkey-bootstrap delete                            remove it again

    Flags without a verb mean `create`. NODE is a name, an index, the beginning of a node id, or HOST:PORT.

    Exit codes: 0 done, 1 unexpected, 2 usage or impossible topology, 3 no engine or server binary, 4 conflict, 5 a node
    failed, 6 not ready in time, 7 not healthy, 130 and 143 interrupted.
    """  # noqa: D301 - click's mark for a block that is not to be wrapped is a control character


def run(argv: Sequence[str] | None) -> int:
    """Run a command line; every way out is an exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        cli.main(args, prog_name=PROGRAM, standalone_mode=False)
    except (BootstrapError, click.ClickException) as error:
        return running.report(error if isinstance(error, BootstrapError) else _usage(error), _early_look(args))
    except (running.Interrupted, _Exit) as ending:
        return ending.code
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Exception:  # noqa: BLE001 - the last resort of a program: a bug is shown whole, as a bug
        sys.stderr.write(f"{traceback.format_exc()}\n")
        sys.stderr.write(f"error: this is a bug in {PROGRAM}, please report it with the lines above (unexpected)\n")
        return 1
    return 0


class _Exit(Exception):
    """A verb that ends well with another code than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def _early_look(argv: Sequence[str]) -> Look:
    """How errors are to be shown, even those in the arguments themselves."""

    def given(flag: str) -> str | None:
        pairs = zip(argv, [*argv[1:], ""], strict=True)
        return next((arg.partition("=")[2] or following for arg, following in pairs if arg.split("=")[0] == flag), None)

    progress = given("--progress") or os.environ.get(f"{options.PREFIX}_PROGRESS") or "auto"
    verbose = sum(arg in ("-v", "-vv", "--verbose") for arg in argv)
    color = given("--color") or os.environ.get(f"{options.PREFIX}_COLOR") or "auto"
    return Look(progress=progress, color=color, verbose=verbose)


def _usage(error: click.ClickException) -> UsageError:
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path} --help`" if context is not None else ""
    return UsageError(error.format_message().rstrip("."), hint=hint)


def _look(flags: dict[str, Any]) -> Look:
    look = Look(
        **{name: flags.pop(name) for name in ("output", "progress", "color", "quiet", "verbose") if name in flags}
    )
    if look.verbose > 1:
        from bootstrap.cli.log import configure

        configure(sys.stderr)
    return look


def _print(lines: Any) -> None:
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@cli.command(short_help="Create a cluster and prove it ready.")
@options.spec_options
@options.timeout_option
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing; -v adds every command.")
@click.option("--survey", is_flag=True, help="With --dry-run: look at this machine instead of assuming.")
@click.option("--retain", is_flag=True, help="Keep what was made when it fails or is interrupted.")
@options.look_options("text", "json", "env")
def create(dry_run: bool, survey: bool, retain: bool, timeout: float, **flags: Any) -> None:
    """Create a cluster and prove it ready; run again, it finishes, starts or verifies it."""
    look = _look(flags)
    spec = options.read_spec(flags, flags.pop("config"))
    if survey and not dry_run:
        raise UsageError("--survey goes with --dry-run", hint="add --dry-run")
    if dry_run:
        _dry_run(spec, look, survey=survey)
        return
    from bootstrap.operations.create import Created, CreateOptions
    from bootstrap.operations.create import create as run_create
    from bootstrap.operations.status import read_status

    async def work() -> tuple[Created, Any]:
        made = await run_create(spec, _access(), observer=observer, options=CreateOptions(timeout, retain))
        return made, await read_status(made.deployment)

    observer = _progress(look)
    hint = f"remove it with `{style.program()} delete --name {spec.name}`"
    made, status = _run(work, observer, hint)
    _show_created(made, status, look, flags.get("state_root"))


def _dry_run(spec: ClusterSpec, look: Look, *, survey: bool) -> None:
    from bootstrap.planning.plan import build_plan
    from bootstrap.planning.site import Site

    site, kept = Site.assumed(), None
    if survey:
        site, kept = _surveyed(spec, look)
    plan = build_plan(spec, site, kept_base=kept)
    _show_plan(plan, look)


def _show_plan(plan: Any, look: Look) -> None:
    commands = []
    if look.verbose:
        from bootstrap.cli.commands import all_commands

        commands = all_commands(plan)
    if look.output == "json":
        _print([render.as_json(plan.as_dict() | ({"commands": commands} if commands else {}))])
    elif look.output == "env":
        _print(render.environment_text(plan.name, plan.nodes))
    elif look.quiet:
        _print([render.hosts_line(plan.nodes)])
    else:
        lines = [f"{each['node']}: {each['command']}" for each in commands]
        _print(render.plan_text(plan, style.stdout(look.color), lines))


def _surveyed(spec: ClusterSpec, look: Look) -> tuple[Any, int | None]:
    from bootstrap.operations.create import refuse_differences
    from bootstrap.runtimes import runtime_for

    async def work() -> tuple[Any, int | None]:
        runtime = runtime_for(spec.runtime, state_root=spec.state_root, server=spec.server)
        record = next(iter(await runtime.inventory(spec.name)), None)
        if record is not None:
            refuse_differences(spec, record)
        return await runtime.survey(record), record.base_port if record else None

    found: tuple[Any, int | None] = _run(work, _progress(look))
    return found


def _show_created(made: Any, status: Any, look: Look, state_root: str | None) -> None:
    from bootstrap.planning.text import plural

    nodes = made.deployment.nodes
    state = "ready" if made.changed else "healthy, nothing was changed"
    where = (
        f'Cluster "{made.plan.name}"' if made.deployment.runtime else f"The cluster of {plural(len(nodes), 'server')}"
    )
    if not look.quiet and look.progress not in ("json", "quiet"):
        style.stderr(look.color).write(f"{where} is {state} ({made.seconds:.1f}s)\n")
    if look.output == "json":
        outcome = {"created": made.made, "changed": made.changed, "seconds": round(made.seconds, 3)}
        _print([render.as_json(status.as_dict() | outcome)])
    elif look.output == "env":
        _print(render.environment_text(made.plan.name, nodes))
    elif look.quiet:
        _print([render.hosts_line(nodes)])
    else:
        _print(render.created_text(status, program=style.program(), state_root=state_root))


@cli.command(short_help="Form a cluster of servers that you run.")
@click.argument("servers", nargs=-1, required=True, metavar="HOST:PORT[@MACHINE[/ZONE]]...")
@click.option(
    "--replicas",
    type=click.IntRange(min=0),
    default=0,
    metavar="R",
    help="Replicas of each primary.  [default: 0]",
)
@options.login_options
@options.timeout_option
@click.option("--dry-run", is_flag=True, help="Print the plan and ask no server; -v adds every command.")
@options.look_options("text", "json", "env")
def form(
    servers: tuple[str, ...], replicas: int, password_file: Any, timeout: float, dry_run: bool, **flags: Any
) -> None:
    """Form a cluster of servers that you run, as `valkey-cli --cluster create` does, and prove it.

    Servers must be empty and in cluster mode. @MACHINE/ZONE declares where a server is, so that replicas are placed
    apart from their primaries; without it each address counts as a machine.
    """
    look = _look(flags)
    from bootstrap.operations.create import Created
    from bootstrap.operations.form import form as run_form
    from bootstrap.operations.form import parse_targets, plan_form
    from bootstrap.operations.status import read_status

    targets = parse_targets(servers)
    if dry_run:
        _show_plan(plan_form(targets, replicas), look)
        return
    observer = _progress(look)

    async def work() -> tuple[Created, Any]:
        made = await run_form(targets, replicas, _access(password_file), observer=observer, timeout=timeout)
        return made, await read_status(made.deployment)

    made, status = _run(work, observer, "run the same command again to carry on")
    _show_created(made, status, look, None)


@cli.command(short_help="Ask every node of a cluster.")
@options.name_option
@click.option("--exit-code", is_flag=True, help="Exit 7 when it is not healthy.")
@options.state_root_option
@options.look_options("text", "json")
def status(name: str | None, exit_code: bool, state_root: str | None, **flags: Any) -> None:
    """Ask every node of a cluster; nothing is changed."""
    look = _look(flags)
    from bootstrap.operations.status import Status, read_status

    async def work() -> Status:
        return await read_status(await _deployment(name, state_root))

    found = _run(work, _progress(look))
    if look.output == "json":
        _print([render.as_json(found.as_dict())])
    elif look.quiet:
        _print([",".join(str(node.addresses.host) for node in found.nodes)])
    else:
        _print(render.status_text(found, style.stdout(look.color)))
    if exit_code and not found.healthy:
        raise _Exit(7)


@cli.command("list", short_help="List the clusters.")
@options.state_root_option
@options.look_options("text", "json")
def list_clusters(state_root: str | None, **flags: Any) -> None:
    """List the clusters, running and stopped."""
    look = _look(flags)
    from bootstrap.handle import clusters

    records = _run(lambda: clusters(state_root=state_root), _progress(look))
    if look.output == "json":
        _print([render.as_json({"format_version": 1, "clusters": [render.record_dict(record) for record in records]})])
    elif look.quiet:
        _print([record.name for record in records])
    elif records:
        _print(render.records_text(records))
    else:
        style.stderr(look.color).write("There is no cluster")


@cli.command(short_help="Wait until a cluster is healthy.")
@click.argument("servers", nargs=-1, metavar="[HOST:PORT]...")
@options.name_option
@click.option("--nodes", type=click.IntRange(min=1), metavar="N", help="How many nodes it must have.")
@options.login_options
@options.timeout_option
@options.state_root_option
@options.look_options("text", "json")
def wait(
    servers: tuple[str, ...],
    name: str | None,
    nodes: int | None,
    password_file: Any,
    timeout: float,
    state_root: str | None,
    **flags: Any,
) -> None:
    """Wait until every node agrees on one healthy cluster; nothing is changed.

    The cluster is one of ours by --name, or any by the addresses of some of its nodes.
    """
    look = _look(flags)
    if servers and name:
        raise UsageError("--name and addresses exclude each other", hint="leave one of them out")
    from bootstrap.events import Reporter
    from bootstrap.handle import find_deployment
    from bootstrap.operations.discover import discover
    from bootstrap.operations.form import parse_targets
    from bootstrap.operations.status import Status
    from bootstrap.operations.wait import wait_healthy

    seeds = [target.address for target in parse_targets(servers)]

    async def work() -> Status:
        access = _access(password_file)

        async def find() -> Deployment:
            return (
                await discover(seeds, access) if seeds else await find_deployment(name, access, state_root=state_root)
            )

        return await wait_healthy(find, Reporter(name or ",".join(servers), observer), nodes=nodes, timeout=timeout)

    observer = _progress(look)
    found = _run(work, observer)
    if look.output == "json":
        _print([render.as_json(found.as_dict())])
    elif look.quiet:
        _print([",".join(str(node.addresses.host) for node in found.nodes)])
    else:
        _print([f'Cluster "{found.name}" is healthy: {len(found.nodes)} nodes'])


@cli.command(short_help="Print the nodes' logs.")
@click.argument("node", required=False)
@options.name_option
@click.option("--follow", "-f", is_flag=True, help="Go on with what is written from now on.")
@click.option("--tail", type=click.IntRange(min=0), metavar="N", help="Only the last lines.")
@click.option(
    "--export",
    "export",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write every node's log to a folder.",
)
@options.state_root_option
@options.look_options("text")
def logs(
    node: str | None,
    name: str | None,
    follow: bool,
    tail: int | None,
    export: str | None,
    state_root: str | None,
    **flags: Any,
) -> None:
    """Print the log of a node, or of all nodes with their names in front."""
    look = _look(flags)
    from bootstrap.cli.logs import show_logs

    async def work() -> None:
        await show_logs(await _deployment(name, state_root), node, follow=follow, tail=tail, export=export)

    try:
        _run(work, _progress(look))
    except running.Interrupted as interrupted:
        # Following a log has no other end.
        if not (follow and interrupted.code == 130):
            raise


@cli.command(short_help="Remove a cluster.")
@options.name_option
@click.option("--all", "all_", is_flag=True, help="Every cluster.")
@click.option("--orphans", is_flag=True, help="Clusters whose owner, a program that embeds this one, is gone.")
@options.state_root_option
@options.look_options("text", "json")
def delete(name: str | None, all_: bool, orphans: bool, state_root: str | None, **flags: Any) -> None:
    """Remove a cluster: its servers, their data and their logs. It does not ask."""
    look = _look(flags)
    if sum((name is not None and not _from_environment("name"), all_, orphans)) > 1:
        raise UsageError("--name, --all and --orphans exclude each other", hint="give one of them")
    from bootstrap.handle import find_record
    from bootstrap.operations.delete import delete as remove
    from bootstrap.runtimes import runtime_for

    async def work() -> list[str]:
        runtime = runtime_for("auto", state_root=state_root)
        if all_ or orphans:
            names = [record.name for record in await runtime.inventory() if all_ or record.orphan]
        else:
            names = [name or (await find_record(runtime, None)).name]
        return [each for each in names if await remove(runtime, each)]

    removed = _run(work, _progress(look))
    told = style.stderr(look.color)
    if look.output == "json":
        _print([render.as_json({"format_version": 1, "deleted": removed})])
    elif not look.quiet:
        for each in removed:
            told.write(f'Deleted cluster "{each}"')
        if not removed:
            told.write(f'There is no cluster "{name}": nothing to delete' if name else "There is nothing to delete")


def _from_environment(parameter: str) -> bool:
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.ENVIRONMENT


def _progress(look: Look) -> Progress:
    from bootstrap.cli.progress import choose

    return choose(look)


def _run(work: Any, progress: Progress, leave_hint: str = "") -> Any:
    try:
        return running.run_async(work, progress, leave_hint=leave_hint)
    finally:
        progress.close()


def _access(password_file: Any = None) -> Access:
    from bootstrap.handle import access_with

    return access_with(options.read_password(password_file))


async def _deployment(name: str | None, state_root: str | None) -> Deployment:
    from bootstrap.handle import find_deployment

    return await find_deployment(name, _access(), state_root=state_root)
