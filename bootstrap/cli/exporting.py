"""The verb that shows how a program uses a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import click

from bootstrap.cli import options, render
from bootstrap.cli.shared import choose_progress, print_lines, run_work, take_look, take_which
from bootstrap.exports.clients import CLIENTS, snippet
from bootstrap.planning.addressing import Audience
from bootstrap.planning.plan import FORMAT_VERSION

if TYPE_CHECKING:
    from bootstrap.exports.clients import Client


@click.command(short_help="Print a program that uses a cluster.")
@click.argument("servers", nargs=-1, metavar="[NAME | HOST:PORT...]")
@options.name_option
@click.option(
    "--client", type=click.Choice(CLIENTS), default="redis-py", help="The client library.  [default: redis-py]"
)
@click.option(
    "--audience",
    type=click.Choice(get_args(Audience)),
    default="host",
    help="Where it runs: on this machine, or beside the servers.  [default: host]",
)
@options.login_options
@options.where_options
@options.look_options("text", "json")
def export(client: Client, audience: Audience, **flags: Any) -> None:
    """Print a program that writes and reads a key through a client library; nothing is changed.

    It has what the cluster needs: addresses, an address map, the login and whom to trust. Passwords are read from their
    file, and never printed.

    The cluster is one of ours by its name, running or stopped, or any by the addresses of some of its nodes.
    """
    look, which = take_look(flags), take_which(flags)
    deployment = run_work(which.find, choose_progress(look))
    text = snippet(client, deployment, audience)
    if look.output == "json":
        told = {"format_version": FORMAT_VERSION, "name": deployment.name, "client": client, "audience": audience}
        print_lines([render.as_json(told | {"snippet": text})])
    else:
        print_lines(text.splitlines())
