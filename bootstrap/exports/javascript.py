"""Snippets for clients in JavaScript: ioredis and iovalkey."""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.exports.contacts import Contact
from bootstrap.exports.text import CA_VARIABLE, PASSWORD_VARIABLE, about_files, indented, quoted


def cluster_client(module: str) -> Callable[[Contact], list[str]]:
    """The writer for ioredis and iovalkey, which have the same interface."""

    def write(contact: Contact) -> list[str]:
        nodes = (f"{{ host: {quoted(each.host)}, port: {each.port} }}" for each in contact.addresses)
        reads = bool(contact.files) or contact.own_authority
        options = [*_each_connection(contact), *_addresses(contact)]
        return [
            *about_files(contact, "//"),
            *(['const { readFileSync } = require("node:fs");'] if reads else []),
            f"const {{ Cluster }} = require({quoted(module)});",
            "",
            f"const nodes = [{', '.join(nodes)}];",
            *(["const client = new Cluster(nodes, {", *indented(options, "  "), "});"] if options else []),
            *([] if options else ["const client = new Cluster(nodes);"]),
            "",
            "async function main() {",
            '  await client.set("key", "value");',
            '  console.log(await client.get("key"));',
            "}",
            "",
            "main()",
            "  .catch((error) => {",
            "    console.error(error);",
            "    process.exitCode = 1;",
            "  })",
            "  .finally(() => client.disconnect());",
        ]

    return write


def _each_connection(contact: Contact) -> list[str]:
    options = []
    if contact.named_user:
        options.append(f"username: {quoted(contact.named_user)},")
    if contact.user:
        read = f'readFileSync({quoted(contact.password_file)}, "utf8").split(/\\r?\\n/)[0]'
        options.append(f"password: {read if contact.password_file else f'process.env.{PASSWORD_VARIABLE}'},")
    if contact.tls:
        file = quoted(contact.ca_file) if contact.ca_file else f"process.env.{CA_VARIABLE}"
        options.append(f"tls: {{ ca: readFileSync({file}) }}," if contact.own_authority else "tls: {},")
    return ["redisOptions: {", *indented(options, "  "), "},"] if options else []


def _addresses(contact: Contact) -> list[str]:
    if not contact.remap:
        return []
    pairs = (
        f"{quoted(f'{a.host}:{a.port}')}: {{ host: {quoted(b.host)}, port: {b.port} }},"
        for a, b in contact.remap.items()
    )
    return ["natMap: {", *indented(pairs, "  "), "},"]
