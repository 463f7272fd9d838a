"""Snippets for clients in Python: redis-py, valkey-py and GLIDE."""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.exports.contacts import Contact, Remap
from bootstrap.exports.text import CA_VARIABLE, PASSWORD_VARIABLE, about_files, indented, quoted


def cluster_client(module: str, name: str, *tls: str) -> Callable[[Contact], list[str]]:
    """The writer for redis-py and valkey-py, which have the same interface.

    Args:
        module: the package.
        name: the class of its cluster client.
        tls: further arguments where connections are encrypted.
    """

    def write(contact: Contact) -> list[str]:
        nodes = ", ".join(f"ClusterNode({quoted(each.host)}, {each.port})" for each in contact.addresses)
        arguments = [f"startup_nodes=[{nodes}],", "decode_responses=True,"]
        if contact.named_user:
            arguments.append(f"username={quoted(contact.named_user)},")
        if contact.user:
            arguments.append(f"password={_password(contact)},")
        if contact.tls:
            arguments += ["ssl=True,", *tls]
            if contact.own_authority:
                arguments.append(f"ssl_ca_certs={_ca_file(contact)},")
        if contact.remap:
            arguments.append("address_remap=lambda where: ADDRESSES.get(where, where),")
        standard = _standard_imports(contact, reads_ca=False)
        return [
            *about_files(contact, "#"),
            *standard,
            *([""] if standard else []),
            f"from {module}.cluster import ClusterNode, {name}",
            "",
            *_table(contact.remap),
            f"with {name}(",
            *indented(arguments),
            ") as client:",
            '    client.set("key", "value")',
            '    print(client.get("key"))',
        ]

    return write


def glide(contact: Contact) -> list[str]:
    """GLIDE, whose client is asynchronous."""
    names = ["GlideClusterClient", "GlideClusterClientConfiguration", "NodeAddress"]
    nodes = ", ".join(f"NodeAddress({quoted(each.host)}, {each.port})" for each in contact.addresses)
    arguments = [f"[{nodes}],"]
    if contact.user:
        names.append("ServerCredentials")
        user = f", {quoted(contact.named_user)}" if contact.named_user else ""
        arguments.append(f"credentials=ServerCredentials({_password(contact)}{user}),")
    if contact.tls:
        arguments.append("use_tls=True,")
        if contact.own_authority:
            names += ["AdvancedGlideClusterClientConfiguration", "TlsAdvancedConfiguration"]
            arguments += [
                "advanced_config=AdvancedGlideClusterClientConfiguration(",
                f"    tls_config=TlsAdvancedConfiguration(root_pem_cacerts=Path({_ca_file(contact)}).read_bytes())",
                "),",
            ]
    if contact.remap:
        arguments.append("address_resolver=lambda host, port: ADDRESSES.get((host, port), (host, port)),")
    return [
        "# GLIDE for Python, 2.6 or newer",
        *about_files(contact, "#"),
        "import asyncio",
        *_standard_imports(contact, reads_ca=True),
        "",
        "from glide import (",
        *(f"    {name}," for name in sorted(names)),
        ")",
        "",
        *_table(contact.remap),
        "",
        "async def main():",
        "    client = await GlideClusterClient.create(",
        "        GlideClusterClientConfiguration(",
        *indented(arguments, " " * 12),
        "        )",
        "    )",
        '    await client.set("key", "value")',
        '    print((await client.get("key")).decode())',
        "    await client.close()",
        "",
        "",
        "asyncio.run(main())",
    ]


def _standard_imports(contact: Contact, *, reads_ca: bool) -> list[str]:
    """What is used of the standard library for the login and the authorities."""
    by_variable = bool(contact.user and not contact.password_file) or (contact.own_authority and not contact.ca_file)
    by_path = bool(contact.user and contact.password_file) or (contact.own_authority and reads_ca)
    return [*(["import os"] if by_variable else []), *(["from pathlib import Path"] if by_path else [])]


def _password(contact: Contact) -> str:
    if not contact.password_file:
        return f"os.environ[{quoted(PASSWORD_VARIABLE)}]"
    return f'Path({quoted(contact.password_file)}).read_text("utf-8").split("\\n")[0]'


def _ca_file(contact: Contact) -> str:
    return quoted(contact.ca_file) if contact.ca_file else f"os.environ[{quoted(CA_VARIABLE)}]"


def _table(remap: Remap) -> list[str]:
    if not remap:
        return []
    pairs = [f"({quoted(a.host)}, {a.port}): ({quoted(b.host)}, {b.port})," for a, b in remap.items()]
    return ["ADDRESSES = {", *indented(pairs), "}", ""]
