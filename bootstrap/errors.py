"""Every error the package raises on purpose.

::

    BootstrapError                exit 1   something this package did not foresee
    ├── UsageError                     2   the request cannot be carried out as it is worded
    │   └── SpecError                  2   a ClusterSpec with one or more problems, all listed
    ├── RuntimeUnavailable             3   no engine, no image, no server binary, no place for state
    ├── Conflict                       4   a name, port, folder, container or node that is not ours to take
    │   └── Taken                      4   something that the plan chose was taken meanwhile
    │       └── PortTaken              4   a port of the block
    ├── NodeFailed                     5   a server died, refused a command or could not be reached
    └── NotConverged (TimeoutError)    6   the deadline passed before every node agreed

One value per failure: ``code`` is stable and meant for programs, the message for people, ``hint`` names what to do
next, ``nodes`` says by node what was seen. Exit codes are those of the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


class BootstrapError(Exception):
    """What happened, to which nodes, and what to do about it.

    Args:
        message: one line, no full stop.
        code: a stable identifier in kebab case; each class has a default.
        hint: what to do next, as a command or a flag where there is one.
        nodes: node name -> what was seen there; may have several lines (the last lines of a log).
    """

    exit_code: ClassVar[int] = 1
    default_code: ClassVar[str] = "unexpected"

    def __init__(self, message: str, *, code: str = "", hint: str = "", nodes: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.hint = hint
        self.nodes = dict(nodes or {})

    def as_dict(self) -> dict[str, object]:
        """The JSON form: ``code, message, hint, exit_code, nodes``."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "exit_code": self.exit_code,
            "nodes": self.nodes,
        }


class UsageError(BootstrapError):
    """The request cannot be carried out as it is worded."""

    exit_code = 2
    default_code = "usage"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a specification: the field, what is wrong with it, and what would work."""

    field: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class SpecError(UsageError):
    """A specification with problems; all of them are in ``problems``, not only the first."""

    default_code = "invalid-spec"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        hints = [problem.hint for problem in self.problems if problem.hint]
        super().__init__("; ".join(map(str, self.problems)), hint="; ".join(dict.fromkeys(hints)))


class RuntimeUnavailable(BootstrapError):
    """Servers cannot be started here: no engine, no server binary, no place for their state."""

    exit_code = 3
    default_code = "runtime-unavailable"


class Conflict(BootstrapError):
    """A name, a port, a folder or a node that is not ours to take."""

    exit_code = 4
    default_code = "conflict"


class Taken(Conflict):
    """Something that a plan chose was taken before it could be: planning anew may choose better."""

    default_code = "taken"


class PortTaken(Taken):
    """A port of the block is held by somebody else; ``ports`` maps each to its holder."""

    default_code = "port-taken"

    def __init__(self, message: str, *, ports: Mapping[int, str], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.ports = dict(ports)


class NodeFailed(BootstrapError):
    """A server died, refused a command or could not be reached."""

    exit_code = 5
    default_code = "node-failed"


class NotConverged(BootstrapError, TimeoutError):
    """The deadline passed before every node told the same healthy story; ``nodes`` says what each one lacked."""

    exit_code = 6
    default_code = "not-converged"
