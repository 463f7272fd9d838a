"""The verbs that make clusters: create and form."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli import options, render, style
from bootstrap.cli.options import Look
from bootstrap.cli.shared import access, choose_progress, print_lines, run_work, take_look
from bootstrap.errors import UsageError

if TYPE_CHECKING:
    from bootstrap.operations.create import Created
    from bootstrap.planning.plan import Plan
    from bootstrap.planning.spec import ClusterSpec


@click.command(short_help="Create a cluster and prove it ready.")
@options.spec_options()
@options.timeout_option
@click.option("--dry-run", is_flag=True, help="Print the plan and do nothing; -v adds every command.")
@click.option("--survey", is_flag=True, help="With --dry-run: look at this machine instead of assuming.")
@click.option("--retain", is_flag=True, help="Keep what was made when it fails or is interrupted.")
@options.look_options("text", "json", "env")
def create(dry_run: bool, survey: bool, retain: bool, timeout: float, **flags: Any) -> None:
    """Create a cluster and prove it ready; run again, it finishes, starts or verifies it."""
    look, login, certificates = take_look(flags), options.take_login(flags), options.take_certificates(flags)
    spec = options.read_spec(flags, flags.pop("config"))
    if survey and not dry_run:
        raise UsageError("--survey goes with --dry-run", hint="add --dry-run")
    if dry_run:
        from bootstrap.operations.login import with_user

        _dry_run(with_user(spec, login), look, survey=survey)
        return
    from bootstrap.handle import access_with
    from bootstrap.operations.create import CreateOptions
    from bootstrap.operations.create import create as run_create

    async def work() -> Created:
        return await run_create(spec, access_with(), observer=observer, options=how)

    how = CreateOptions(timeout, retain, login=login, certificates=certificates)
    observer = choose_progress(look)
    hint = f"remove it with `valkey-bootstrap delete --name {spec.name}`"
    made = run_work(work, observer, style.in_this_program(hint, flags.get("state_root")))
    _show_created(made, look, flags.get("state_root"))


def _dry_run(spec: ClusterSpec, look: Look, *, survey: bool) -> None:
    if survey:
        _show_plan(_surveyed_plan(spec, look), look)
        return
    from bootstrap.planning.plan import build_plan
    from bootstrap.planning.site import Site

    _show_plan(build_plan(spec, Site.assumed(spec)), look)


def _surveyed_plan(spec: ClusterSpec, look: Look) -> Plan:
    from bootstrap.operations.create import plan_here
    from bootstrap.runtimes import choose_runtime

    async def work() -> Plan:
        choice = await choose_runtime(spec)
        plan, _ = await plan_here(spec, choice.runtime)
        return replace(plan, notes=(*filter(None, (choice.reason,)), *plan.notes))

    return run_work(work, choose_progress(look))


def _show_plan(plan: Plan, look: Look) -> None:
    commands = []
    if look.verbose:
        from bootstrap.cli.commands import all_commands

        commands = all_commands(plan)
    if look.output == "json":
        print_lines([render.as_json(plan.as_dict() | ({"commands": commands} if commands else {}))])
    elif look.output == "env":
        print_lines(render.environment_text(render.environment(plan.name, plan.nodes)))
    elif look.quiet:
        print_lines([render.hosts_line(plan.nodes)])
    else:
        lines = [f"{each['node']}: {each['command']}" for each in commands]
        print_lines(render.plan_text(plan, style.stdout(look.color), lines))


def tell_ready(made: Created, look: Look, ending: str = "") -> None:
    """The line that a cluster is ready, on stderr, and with -v where the time went."""
    from bootstrap.planning.text import plural

    state = "ready" if made.changed else "healthy, nothing was changed"
    nodes = plural(len(made.deployment.nodes), "server")
    which = f'Cluster "{made.plan.name}"' if made.deployment.runtime else f"The cluster of {nodes}"
    told = style.stderr(look.color)
    told.write(f"{which} is {state} ({made.seconds:.1f}s){ending}")
    if look.verbose:
        told.write("\n".join([*render.timeline_lines(made.timeline, made.seconds), ""]))


def variables_of(made: Created) -> dict[str, str]:
    """The environment variables that lead clients to a cluster."""
    return render.environment(made.plan.name, made.deployment.nodes, made.deployment)


def _show_created(made: Created, look: Look, state_root: str | None) -> None:
    from bootstrap.operations.status import make_status

    status = make_status(made.deployment, made.views)
    nodes = made.deployment.nodes
    if look.talks:
        tell_ready(made, look, "\n")
    if look.output == "json":
        outcome = {
            "created": made.made,
            "changed": made.changed,
            "seconds": round(made.seconds, 3),
            "floor": made.timeline.floor,
            "phases": [phase.as_dict() for phase in made.timeline.phases],
        }
        print_lines([render.as_json(status.as_dict() | outcome)])
    elif look.output == "env":
        print_lines(render.environment_text(variables_of(made)))
    elif look.quiet:
        print_lines([render.hosts_line(nodes)])
    else:
        found_without = made.plan.network is not None and made.deployment.user is None and not made.deployment.tls
        where = f" --state-root {shlex.quote(state_root)}" if state_root and not found_without else ""
        print_lines(render.created_text(status, made.plan, made.deployment, program=style.program(), where=where))


@click.command(short_help="Form a cluster of servers that you run.")
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
def form(servers: tuple[str, ...], replicas: int, timeout: float, dry_run: bool, **flags: Any) -> None:
    """Form a cluster of servers that you run, as `valkey-cli --cluster create` does, and prove it.

    Servers must be empty and in cluster mode. @MACHINE/ZONE declares where a server is, so that replicas are placed
    apart from their primaries; without it each address counts as a machine.
    """
    look, login = take_look(flags), options.take_credentials(flags)
    from bootstrap.operations.form import form as run_form
    from bootstrap.operations.form import parse_targets, plan_form

    targets = parse_targets(servers)
    if dry_run:
        _show_plan(plan_form(targets, replicas), look)
        return
    observer = choose_progress(look)

    async def work() -> Created:
        return await run_form(targets, replicas, access(login), observer=observer, timeout=timeout)

    _show_created(run_work(work, observer, "run the same command again to carry on"), look, None)
