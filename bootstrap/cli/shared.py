"""What every verb does alike: take its look, run its work, print its lines."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bootstrap.cli import options, running
from bootstrap.cli.options import Look
from bootstrap.errors import UsageError
from bootstrap.planning.spec import is_name

if TYPE_CHECKING:
    from bootstrap.cli.progress import Progress
    from bootstrap.formation.base import Credentials
    from bootstrap.operations.deployment import Access, Deployment

T = TypeVar("T")

PROGRAM = "valkey-bootstrap"


class Exit(Exception):
    """A verb that ends well with another code than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def take_look(flags: dict[str, Any]) -> Look:
    """Take the flags of `options.look_options` out of a verb's flags."""
    look = Look(
        **{name: flags.pop(name) for name in ("output", "progress", "color", "quiet", "verbose") if name in flags}
    )
    if look.verbose > 1:
        from bootstrap.cli.log import configure

        configure(sys.stderr)
    return look


def take_which(flags: dict[str, Any]) -> Which:
    """Take out of a verb's flags what says which cluster it is for."""
    servers: tuple[str, ...] = flags.pop("servers", ())
    name = flags.pop("name")
    # A name that only the environment has gives way to what was said.
    name = None if servers and from_environment("name") else name
    if len(servers) == 1 and name is None and is_name(servers[0]):
        name, servers = servers[0], ()
    credentials = options.take_credentials(flags)
    return Which(name, flags.pop("runtime"), flags.pop("state_root"), servers, credentials)


def from_environment(parameter: str) -> bool:
    """Whether a flag's value is the environment's."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.ENVIRONMENT


def print_lines(lines: Iterable[str]) -> None:
    """The result, on stdout."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def choose_progress(look: Look) -> Progress:
    """The observer that was asked for."""
    from bootstrap.cli.progress import choose

    return choose(look)


def run_work(work: Callable[[], Awaitable[T]], progress: Progress, leave_hint: str = "") -> T:
    """Run a verb's work, and leave the terminal as it was found."""
    try:
        return running.run_async(work, running.Interruption(progress, leave_hint))
    finally:
        progress.close()


def access(credentials: Credentials | None = None) -> Access:
    """How nodes are reached from here."""
    from bootstrap.handle import access_with

    found = access_with()
    return found.with_login(credentials) if credentials else found


@dataclass(frozen=True, slots=True)
class Which:
    """The cluster that a verb is for: ours by name, the only one of ours, or any by addresses of its nodes.

    Raises:
        UsageError: a name and addresses, or something that is no address.
    """

    name: str | None
    runtime: str
    state_root: str | None
    servers: tuple[str, ...] = ()
    credentials: Credentials | None = None

    def __post_init__(self) -> None:
        if self.servers and self.name:
            raise UsageError("--name excludes another name and addresses", hint="leave one of them out")

    async def find(self, *, every_seed: bool = False) -> Deployment:
        """Its deployment, looked up anew at each call; see `discover`."""
        from bootstrap.handle import find
        from bootstrap.operations.discover import discover
        from bootstrap.operations.form import parse_targets
        from bootstrap.operations.login import open_deployment

        ways = access(self.credentials)
        if not self.servers:
            found = await find(self.name, self.runtime, state_root=self.state_root)
            return await open_deployment(found.record, found.runtime, ways)
        seeds = [target.address for target in parse_targets(self.servers)]
        return await discover(seeds, ways, every_seed=every_seed)
