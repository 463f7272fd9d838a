"""Snippets for client libraries: what is in them, what never is, and for whom."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pytest

import bootstrap
from bootstrap import ClusterSpec, Plan, Site, UsageError
from bootstrap.exports.clients import CLIENTS, Client, snippet, snippet_lines
from bootstrap.exports.contacts import FIRST_CONTACTS, Contact, contact_of
from bootstrap.planning.addressing import Address, Audience, NodeAddresses, loopback
from bootstrap.planning.plan import build_plan

PYTHON: tuple[Client, ...] = ("redis-py", "valkey-py", "glide")
JAVASCRIPT: tuple[Client, ...] = ("ioredis", "iovalkey")
OTHERS: tuple[Client, ...] = ("go-redis", "jedis", "lettuce")
assert {*PYTHON, *JAVASCRIPT, *OTHERS} == set(get_args(Client))

HERE = (Address("127.0.0.1", 7001), Address("::1", 7002))
MAP = {Address("172.28.0.2", 6379): HERE[0], Address("fd00::2", 6379): HERE[1]}
PASSWORD_FILE = '/a "place"/password'
CA_FILE = "/a place/ca.crt"
QUOTED = {PASSWORD_FILE: '"/a \\"place\\"/password"', CA_FILE: '"/a place/ca.crt"'}

LOGIN: dict[str, Any] = {"user": "app", "password_file": PASSWORD_FILE}
TLS: dict[str, Any] = {"tls": True, "ca_file": CA_FILE}
CONTACTS = {
    "plain": Contact(HERE),
    "login": Contact(HERE, **LOGIN),
    "default-user": Contact(HERE, user="default", password_file=PASSWORD_FILE),
    "login-of-the-environment": Contact(HERE, user="app"),
    "tls": Contact(HERE, **TLS),
    "system-tls": Contact(HERE, tls=True),
    "planned-tls": Contact(HERE, user="app", tls=True, ca_file=None),
    "login-tls": Contact(HERE, **LOGIN, **TLS),
    "map": Contact(HERE, MAP),
    "all": Contact(HERE, MAP, **LOGIN, **TLS, elsewhere=True),
}

WORDS: dict[str, dict[Client, str]] = {
    # What must be there for it, and must not be there without.
    "user": dict.fromkeys(CLIENTS, '"app"'),
    "password_file": dict.fromkeys(CLIENTS, QUOTED[PASSWORD_FILE]),
    "VALKEY_PASSWORD": dict.fromkeys(CLIENTS, "VALKEY_PASSWORD"),
    "VALKEY_CA_FILE": dict.fromkeys(CLIENTS, "VALKEY_CA_FILE"),
    "ca_file": dict.fromkeys(CLIENTS, QUOTED[CA_FILE]),
    "tls": {
        "redis-py": "ssl=True", "valkey-py": "ssl_check_hostname=True", "glide": "use_tls=True",
        "ioredis": "tls: {", "iovalkey": "tls: {", "go-redis": "tls.Config{", "jedis": "SslOptions.builder()",
        "lettuce": ".withSsl(true)",
    },
    "map": {
        "redis-py": "address_remap=", "valkey-py": "address_remap=", "glide": "address_resolver=",
        "ioredis": "natMap: {", "iovalkey": "natMap: {", "go-redis": "Dialer:", "jedis": ".hostAndPortMapper(",
        "lettuce": "MappingSocketAddressResolver.create(",
    },
    "elsewhere": dict.fromkeys(CLIENTS, "copy or mount"),
}  # fmt: skip


def wanted(contact: Contact) -> dict[str, bool]:
    return {
        "user": contact.user == "app",
        "password_file": bool(contact.user and contact.password_file),
        "VALKEY_PASSWORD": bool(contact.user) and not contact.password_file,
        "VALKEY_CA_FILE": contact.tls and contact.ca_file is None,
        "ca_file": contact.tls and bool(contact.ca_file),
        "tls": contact.tls,
        "map": bool(contact.remap),
        "elsewhere": contact.elsewhere,
    }


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", CONTACTS)
def test_everything_that_is_needed_and_nothing_else(client: Client, kind: str) -> None:
    contact = CONTACTS[kind]
    text = snippet(client, contact)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert {what for what, words in WORDS.items() if words[client] in text} == {
        what for what, is_wanted in wanted(contact).items() if is_wanted
    }
    for address in (*contact.addresses, *contact.remap):
        assert str(address.port) in text
        assert address.host in text
    assert '"default"' not in text
    # One write, one read, and no connection that is left behind.
    assert len(re.findall(r'\b[sS]et\((?:ctx, )?"key", "value"', text)) == 1
    assert len(re.findall(r'\b[gG]et\((?:ctx, )?"key"\)', text)) == 1
    assert re.search(r"close\(\)|Close\(\)|disconnect\(\)|shutdown\(\)|^with |try \(var client", text, re.MULTILINE)


@pytest.mark.parametrize("client", PYTHON)
@pytest.mark.parametrize("kind", CONTACTS)
def test_python_compiles_and_imports_what_it_uses(client: Client, kind: str) -> None:
    text = snippet(client, CONTACTS[kind])
    compile(text, client, "exec")
    for name, imported in {
        "os": "import os\n",
        "Path": "from pathlib import Path\n",
        "asyncio": "import asyncio\n",
    }.items():
        assert (re.search(rf"\b{name}[.(]", text) is not None) == (imported in text), (name, text)


@pytest.mark.parametrize("client", JAVASCRIPT)
@pytest.mark.parametrize("kind", CONTACTS)
def test_javascript_reads_files_only_where_it_must(client: Client, kind: str) -> None:
    text = snippet(client, CONTACTS[kind])
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    assert ("const { readFileSync }" in text) == ("readFileSync(" in text.replace("const { readFileSync }", ""))


@pytest.mark.parametrize("kind", CONTACTS)
def test_go_imports_what_it_uses(kind: str) -> None:
    text = snippet("go-redis", CONTACTS[kind])
    imported = re.findall(r'^\t"(?:[\w.]+/)*(\w+?)(?:-redis/v9)?"$', text, re.MULTILINE)
    body = text[text.index("func main") :]
    used = set(re.findall(r"(?<![\w.\"])(context|tls|x509|fmt|net|os|strings|redis)\.[A-Z]", body))
    assert {"redis" if name in ("v9", "go") else name for name in imported} == used
    lines = re.findall(r"^\t\t(\w+:)( +)\S.*,$", body, re.MULTILINE)
    assert len({len(name) + len(gap) for name, gap in lines}) == 1  # as gofmt has it
    if CONTACTS[kind].remap and CONTACTS[kind].tls:
        assert "(&tls.Dialer{Config: encryption}).DialContext" in body


@pytest.mark.parametrize("client", ["jedis", "lettuce"])
@pytest.mark.parametrize("kind", CONTACTS)
def test_java_imports_what_it_uses(client: Client, kind: str) -> None:
    text = snippet(client, CONTACTS[kind])
    imported = re.findall(r"^import [\w.]+\.(\w+);$", text, re.MULTILINE)
    body = text[text.index("public class") :]
    used = set(re.findall(r"(?<![\w.\"])([A-Z]\w+)(?=[.( ])", re.sub(r'"[^"]*"', '""', body)))
    assert set(imported) == used - {"String", "Example", "Exception", "System"}
    assert len(imported) == len(set(imported))


@pytest.mark.skipif(shutil.which("javac") is None, reason="there is no Java compiler")
@pytest.mark.parametrize("client", ["jedis", "lettuce"])
def test_java_has_no_syntax_error(client: Client, tmp_path: Any) -> None:
    (tmp_path / "Example.java").write_text(snippet(client, CONTACTS["all"]))
    done = subprocess.run(
        ["javac", "-d", tmp_path, tmp_path / "Example.java"], capture_output=True, text=True, timeout=60, check=False
    )
    # The libraries are not there; what cannot be parsed is told before that is noticed.
    errors = [line.partition(" error: ")[2] for line in done.stderr.splitlines() if " error: " in line]
    assert errors
    assert {re.sub(r"^package \S+ does", "package does", error) for error in errors} <= {
        "cannot find symbol",
        "package does not exist",
    }


def test_a_library_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="'phpredis' is no client library") as refused:
        snippet_lines("phpredis", CONTACTS["plain"])  # type: ignore[arg-type]
    assert all(client in refused.value.hint for client in CLIENTS)


# For whom.


def planned(place: Any = "local", **fields: Any) -> Plan:
    asked = ClusterSpec(**fields)
    site = Site.assumed(asked)
    return build_plan(asked, replace(site, engine=replace(site.engine, place=place)) if site.engine else site)


def test_a_plan_for_this_machine() -> None:
    assert contact_of(planned(base_port=7000)) == Contact(
        tuple(Address("127.0.0.1", 7000 + index) for index in range(FIRST_CONTACTS)), ca_file=None
    )


def test_a_plan_for_programs_beside_the_servers() -> None:
    found = contact_of(planned(base_port=7000), "network")
    assert found.addresses == tuple(Address(f"valkey{index}", 7000 + index) for index in range(FIRST_CONTACTS))
    assert found.elsewhere


def test_a_plan_knows_who_logs_in_and_no_file() -> None:
    found = contact_of(planned(user="app", tls=True))
    assert (found.user, found.password_file, found.tls, found.ca_file) == ("app", "", True, None)
    text = bootstrap.snippet("redis-py", planned(user="app", tls=True))
    assert 'os.environ["VALKEY_PASSWORD"]' in text
    assert 'os.environ["VALKEY_CA_FILE"]' in text


@pytest.mark.parametrize("strategy", ["fixed-address", "gateway", "client-address", "same-port"])
def test_nothing_is_mapped_where_clients_here_get_through(strategy: str) -> None:
    assert contact_of(planned(announce=strategy)).remap == {}


def test_what_is_announced_beside_the_servers_alone_is_mapped_here() -> None:
    plan = planned("desktop", audience="network", base_port=7000)
    found = contact_of(plan)
    inside = [node.container.address for node in plan.nodes if node.container]
    assert found.remap == {
        Address(address, 7000 + index): Address("127.0.0.1", 7000 + index) for index, address in enumerate(inside)
    }
    assert contact_of(plan, "network").remap == {}


def test_an_audience_without_addresses_is_refused() -> None:
    with pytest.raises(UsageError, match="has no addresses for clients on the network") as refused:
        contact_of(planned(announce="client-address"), "network")
    assert refused.value.code == "no-such-audience"


@dataclass
class Node:
    addresses: NodeAddresses


@dataclass
class Running:
    name: str = "running"
    nodes: list[Node] = field(default_factory=lambda: [Node(loopback(7000 + index)) for index in range(6)])
    user: str | None = "app"
    password_file: str = PASSWORD_FILE
    tls: bool = True
    ca_file: str = CA_FILE


@pytest.mark.parametrize("audience", get_args(Audience))
def test_a_running_cluster_knows_its_files(audience: Audience) -> None:
    found = contact_of(Running(), audience)
    assert found == Contact(
        tuple(Address("127.0.0.1", 7000 + index) for index in range(FIRST_CONTACTS)), {}, **LOGIN, **TLS,
        elsewhere=audience == "network",
    )  # fmt: skip
    assert ("copy or mount" in snippet("ioredis", Running(), audience)) == (audience == "network")
    assert snippet("ioredis", found) == snippet("ioredis", Running(), audience)


def test_a_map_that_was_found_says_where_to_begin() -> None:
    assert contact_of(Running(), remap=MAP).addresses == HERE


def test_servers_of_others_may_have_a_certificate_of_a_known_authority() -> None:
    text = snippet("redis-py", Running(user=None, ca_file=""))
    assert "ssl=True" in text
    assert "ssl_ca_certs" not in text
    assert "environ" not in text
