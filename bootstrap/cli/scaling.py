"""The verbs that change the shape of a running cluster: add-node, remove-node, rebalance, reshard and scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bootstrap.cli import options, render, style
from bootstrap.cli.running import Interrupted
from bootstrap.cli.shared import choose_progress, print_lines, run_work, take_look, take_which
from bootstrap.errors import UsageError
from bootstrap.planning.slots import SLOTS, SlotRange, expand, format_ranges, merge
from bootstrap.planning.text import plural

if TYPE_CHECKING:
    from bootstrap.operations.requests import Ref, Request
    from bootstrap.operations.scaling import Scaled

_CARRY_ON = "run the same command again: it carries on"

F = TypeVar("F", bound=Callable[..., Any])


def _verb_options(function: F) -> F:
    """What these verbs have in common."""
    for option in reversed(
        (
            click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing."),
            options.name_option,
            options.address_option,
            options.login_options,
            options.timeout_option,
            click.option(
                "--slots-at-once",
                type=click.IntRange(1, SLOTS),
                metavar="N",
                help="Slots of a primary that are on their way at once.  [default: by the size of its data]",
            ),
            options.where_options,
            options.look_options("text", "json"),
        )
    ):
        function = option(function)
    return function


@click.command("add-node", short_help="Add nodes to a cluster.")
@click.argument("new", nargs=-1, metavar="[HOST:PORT[@MACHINE[/ZONE]]]...")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="How many servers to start.  [default: 1]")
@click.option("--primary", is_flag=True, help="As primaries, with their share of the slots.")
@click.option("--replica-of", multiple=True, metavar="NODE", help="As replicas of this primary; repeatable, in turn.")
@_verb_options
def add_node(new: tuple[str, ...], count: int | None, primary: bool, replica_of: tuple[str, ...], **flags: Any) -> None:
    """Add nodes: replicas where they are missed most, unless told otherwise.

    Servers are started where the cluster's run. Of a cluster that somebody else runs (--address) give servers that run
    already, empty and in cluster mode. Functions and users of the cluster are copied to them.
    """
    from bootstrap.operations.form import parse_targets
    from bootstrap.operations.requests import AddNodes

    if new and count is not None:
        raise UsageError("--count goes with servers that are started here", hint="leave it out")
    _run(AddNodes(len(new) or count or 1, primary, replica_of, parse_targets(new)), flags)


@click.command("remove-node", short_help="Remove nodes from a cluster.")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@click.option("--fewer-replicas", is_flag=True, help="Even where that leaves a primary with fewer than asked for.")
@click.option("--lose-data", is_flag=True, help="Even where a node that does not answer has the only copy of its keys.")
@_verb_options
def remove_node(nodes: tuple[str, ...], fewer_replicas: bool, lose_data: bool, **flags: Any) -> None:
    """Remove nodes: primaries hand over their slots first, and their replicas go where they are missed most.

    Servers of ours are removed with their data. Those of others are left running, reset.
    """
    from bootstrap.operations.requests import RemoveNodes

    _run(RemoveNodes(nodes, fewer_replicas, lose_data), flags)


@click.command(short_help="Give every primary its share of the slots.")
@click.option(
    "--weight", "weights", multiple=True, metavar="NODE=N",
    help="A primary's weight, where it is not 1; 0 empties it. Repeatable.",
)  # fmt: skip
@click.option(
    "--threshold", type=click.FloatRange(0, 100), default=2.0, show_default=True, metavar="PERCENT",
    help="Do nothing where no primary is off its share by more.",
)  # fmt: skip
@_verb_options
def rebalance(weights: tuple[str, ...], threshold: float, **flags: Any) -> None:
    """Give every primary its share of the slots, moving as few as possible; clients read and write meanwhile."""
    from bootstrap.operations.requests import Rebalance

    found = dict(map(_weight, weights))
    if len(found) < len(weights):
        raise UsageError("a weight is given twice", hint="give each node once")
    _run(Rebalance(found, Fraction(str(threshold))), flags)


@click.command(short_help="Move slots to other primaries.")
@click.option("--to", "targets", multiple=True, required=True, metavar="NODE", help="Who gets them; repeatable.")
@click.option("--from", "sources", multiple=True, metavar="NODE", help="Who gives; repeatable.  [default: all others]")
@click.option("--count", type=click.IntRange(1, SLOTS), metavar="N", help="How many.")
@click.option("--slots", metavar="A-B,C", help="Which ones.")
@_verb_options
def reshard(
    targets: tuple[str, ...], sources: tuple[str, ...], count: int | None, slots: str | None, **flags: Any
) -> None:
    """Move slots to other primaries: so many of them, or these very ones; clients read and write meanwhile."""
    from bootstrap.operations.requests import Reshard

    _run(Reshard(targets, _ranges(slots) if slots is not None else (), count or 0, sources), flags)


@click.command(short_help="Give a cluster another size.")
@click.option("--nodes", type=click.IntRange(min=1), required=True, metavar="N", help="How many nodes in all.")
@click.option(
    "--replicas", type=click.IntRange(min=0), metavar="N",
    help="Replicas of each primary.  [default: as many as now]",
)  # fmt: skip
@_verb_options
def scale(nodes: int, replicas: int | None, **flags: Any) -> None:
    """Give a cluster another size: start and remove servers, move slots, attach replicas, and prove the whole.

    Nodes are added and removed at the end of their numbering. A command that was interrupted is carried on by the same
    command.
    """
    from bootstrap.operations.requests import Scale

    _run(Scale(nodes, replicas), flags)


def _run(request: Request, flags: dict[str, Any]) -> None:
    dry_run, timeout, at_once = flags.pop("dry_run"), flags.pop("timeout"), flags.pop("slots_at_once")
    look, which = take_look(flags), take_which(flags)
    observer = choose_progress(look)
    from bootstrap.events import Reporter
    from bootstrap.operations.scaling import reshape

    async def work() -> Scaled:
        deployment = await which.find()
        reporter = Reporter(deployment.name, observer)
        return await reshape(deployment, request, reporter, timeout=timeout, dry_run=dry_run, slots_at_once=at_once)

    try:
        made = run_work(work, observer, _CARRY_ON)
    except Interrupted:
        if look.talks:
            style.stderr(look.color).write(f"Interrupted; {_CARRY_ON}")
        raise
    told = style.stdout(look.color)
    if look.talks and not dry_run:
        style.stderr(look.color).write(_ending(made))
    if look.output == "json":
        print_lines([render.as_json(made.as_dict())])
    elif dry_run:
        print_lines(scaled_text(made, told))
    elif look.quiet:
        print_lines([render.hosts_line(made.deployment.nodes)])
    elif made.status is not None:
        print_lines(render.status_text(made.status, told))


def _ending(made: Scaled) -> str:
    what = "is what it is to be: nothing was changed" if not made.changed else f"has {_shape(made)}"
    return f'Cluster "{made.deployment.name}" {what} ({made.seconds:.1f}s)\n'


def _shape(made: Scaled) -> str:
    assert made.status is not None, "a change ends with a look"
    primaries = sum(node.role == "primary" for node in made.status.nodes)
    nodes = len(made.status.nodes)
    return (
        f"{plural(nodes, 'node')}: {plural(primaries, 'primary', 'primaries')}, {plural(nodes - primaries, 'replica')}"
    )


def scaled_text(made: Scaled, told: style.Style) -> Iterator[str]:
    """What would change, for people."""
    colors = {"+": "green", "~": "yellow", "-": "red"}
    rows = [(each.node, each.address, each.text) for each in made.changes]
    for change, line in zip(made.changes, style.columns(rows, headed=False) if rows else (), strict=True):
        yield f"  {told.paint(change.sign, fg=colors[change.sign])} {line}"
    if made.moves:
        yield ""
        yield "slots to move:"
        rows = [(f"{m.source} -> {m.target}", str(m.count), format_ranges(m.slots)) for m in made.moves]
        yield from (f"    {line}" for line in style.columns(rows, headed=False))
    if made.changes or made.moves:
        yield ""
    counts = {sign: sum(each.sign == sign for each in made.changes) for sign in colors}
    slots = sum(move.count for move in made.moves)
    yield (
        f"Plan: {counts['+']} to add, {counts['~']} to change, {counts['-']} to remove, "
        f"{plural(slots, 'slot')} to move. Nothing was changed."
    )


def _weight(text: str) -> tuple[Ref, Fraction]:
    node, _, number = text.rpartition("=")
    try:
        found = Fraction(number)
    except (ValueError, ZeroDivisionError):
        found = Fraction(-1)
    if not node or found < 0:
        raise UsageError(f"--weight {text!r} is not NODE=N", code="bad-weight", hint="such as valkey0=2")
    return node, found


def _ranges(text: str) -> tuple[SlotRange, ...]:
    pairs = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            pair = int(first), int(last or first)
        except ValueError:
            pair = (1, 0)
        if not 0 <= pair[0] <= pair[1] < SLOTS:
            raise UsageError(f"--slots {text!r}: {part!r} is no range", code="bad-slots", hint="such as 0-99,500")
        pairs.append(pair)
    return merge(expand(pairs))
