"""The verbs that work on a cluster that is in use: call and failover."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from bootstrap.cli import options, render, style
from bootstrap.cli.shared import Exit, choose_progress, print_lines, run_work, take_look, take_which
from bootstrap.errors import NodeFailed, UsageError
from bootstrap.planning.plan import FORMAT_VERSION

if TYPE_CHECKING:
    from bootstrap.operations.call import Answer


@click.command(
    short_help="Run a command on all nodes at once.",
    context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False},
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] COMMAND [ARG]...")
@options.name_option
@options.address_option
@click.option("--primaries", is_flag=True, help="Only on primaries.")
@click.option("--replicas", is_flag=True, help="Only on replicas.")
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only on this node; repeatable.")
@options.login_options
@options.where_options
@options.look_options("text", "json")
def call(command: tuple[str, ...], primaries: bool, replicas: bool, nodes: tuple[str, ...], **flags: Any) -> None:
    """Run a command on all nodes side by side, and print what each of them answered.

    Exit code 5 when a node refused it or could not be asked.
    """
    look, which = take_look(flags), take_which(flags)
    if sum((primaries, replicas, bool(nodes))) > 1:
        raise UsageError("--primaries, --replicas and --node exclude each other", hint="give one of them")
    from bootstrap.operations.call import call as run_call

    async def work() -> tuple[str, list[Answer]]:
        deployment = await which.find()
        chosen = "primaries" if primaries else "replicas" if replicas else nodes or "all"
        return deployment.name, await run_call(deployment, command, chosen)

    name, answers = run_work(work, choose_progress(look))
    if look.output == "json":
        told = {"format_version": FORMAT_VERSION, "name": name, "command": list(command)}
        print_lines([render.as_json(told | {"nodes": [answer.as_dict() for answer in answers]})])
    else:
        print_lines(_answers(answers, style.stdout(look.color)))
    if any(answer.error for answer in answers):
        raise Exit(NodeFailed.exit_code)


def _answers(answers: Sequence[Answer], told: style.Style) -> Iterator[str]:
    texts = [list(reply_lines(answer.reply)) if not answer.error else [_error(answer, told)] for answer in answers]
    width = max((len(answer.node) for answer in answers), default=0)
    alone = all(len(text) == 1 for text in texts)
    for answer, text in zip(answers, texts, strict=True):
        front = f"{told.paint(f'{answer.node:<{width}}', bold=True)}  {answer.role or 'unknown':<7}"
        if alone:
            yield f"{front}  {text[0]}"
        else:
            yield front.rstrip()
            yield from (f"    {line}" for line in text)


def _error(answer: Answer, told: style.Style) -> str:
    return f"{told.paint('error:', fg='red')} {answer.error}"


def reply_lines(reply: object) -> Iterator[str]:
    """A reply as people read it; lists are numbered."""
    if reply is None:
        yield "(nil)"
    elif isinstance(reply, list):
        if not reply:
            yield "(empty)"
        for number, each in enumerate(reply, 1):
            front = f"{number}) "
            for index, line in enumerate(reply_lines(each)):
                yield f"{' ' * len(front) if index else front}{line}"
    else:
        yield from str(reply).splitlines() or [""]


@click.command(short_help="Let a replica take over from its primary.")
@click.argument("node", metavar="NODE")
@options.name_option
@options.address_option
@options.login_options
@options.timeout_option
@options.where_options
@options.look_options("text", "json")
def failover(node: str, timeout: float, **flags: Any) -> None:
    """Let a replica take over gracefully, and wait until every node agrees that it has; nothing is lost.

    NODE is the replica that is to lead, or a primary, whose best replica takes over.
    """
    look, which = take_look(flags), take_which(flags)
    observer = choose_progress(look)
    from bootstrap.events import Reporter
    from bootstrap.operations.failover import failover as run_failover
    from bootstrap.operations.status import Status

    async def work() -> Status:
        deployment = await which.find()
        return await run_failover(deployment, node, Reporter(deployment.name, observer), timeout=timeout)

    found = run_work(work, observer)
    if look.output == "json":
        print_lines([render.as_json(found.as_dict())])
    elif look.quiet:
        print_lines([render.hosts_line(found.nodes)])
    else:
        print_lines(render.status_text(found, style.stdout(look.color)))
