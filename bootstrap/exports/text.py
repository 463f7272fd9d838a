"""What all snippets are written with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from bootstrap.exports.contacts import Contact

PASSWORD_VARIABLE = "VALKEY_PASSWORD"  # noqa: S105 -- a variable's name
CA_VARIABLE = "VALKEY_CA_FILE"


def quoted(text: str) -> str:
    """A literal in double quotes: JSON's escapes are those of Python, JavaScript, Go and Java as well."""
    return json.dumps(text, ensure_ascii=False)


def indented(lines: Iterable[str], by: str = "    ") -> Iterator[str]:
    """The same lines, further in; empty ones stay empty."""
    return (f"{by}{line}" if line else "" for line in lines)


def about_files(contact: Contact, mark: str) -> list[str]:
    """A comment for whoever runs it where the files that it reads are not."""
    if not (contact.elsewhere and contact.files):
        return []
    what, them = ("This file is", "it") if len(contact.files) == 1 else ("These files are", "them")
    return [
        f"{mark} {what} on the machine that the cluster was made on: copy or mount {them} where this program runs,",
        f"{mark} and correct the name below if it is another one there.",
        *(f"{mark}   {file}" for file in contact.files),
    ]
