"""Everything that is wrong with a specification is told at once, field by field, with what would work."""

from __future__ import annotations

from typing import Any

import pytest

from bootstrap.errors import SpecError
from bootstrap.planning.plan import build_plan, render_config
from bootstrap.planning.site import Site
from bootstrap.planning.spec import (
    DANGEROUS_SETTINGS,
    DEFAULT_IMAGE,
    MAX_ANNOUNCED,
    RESERVED_SETTINGS,
    ClusterSpec,
    containers_asked,
    memory_bytes,
    node_name,
    parse_spec,
    replica_counts,
)


def wrong(**fields: Any) -> dict[str, str]:
    """Field -> what is wrong with it; every problem names what would work."""
    problems = ClusterSpec(**fields).problems()
    assert all(problem.hint for problem in problems)
    return {problem.field: problem.message for problem in problems}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": "a", "nodes": 1, "replicas": 0},
        {"nodes": 1000, "base_port": 54536},
        {"nodes": 1000, "replicas": 999, "base_port": 1},
        {"base_port": "auto", "min_primaries": 3},
        {"runtime": "process", "server": "/usr/bin/valkey-server", "pull": "never"},
        {"runtime": "docker", "image": DEFAULT_IMAGE, "pull": "always"},
        {"image": "localhost:5000/team/valkey:9.1-alpine"},
        {"image": "valkey/valkey@sha256:" + "0" * 64},
        {"announce": "fixed-address", "publish": False},
        {"announce": "gateway", "memory": "16m"},
        {"announce": "host-name", "announce_host": "myhost.local"},
        {"announce_host": "a" * MAX_ANNOUNCED},
        {"announce_host": "host-1.example.com"},
        {"announce_host": "192.168.1.5"},  # for an engine of another machine
        {"announce": "client-address", "ephemeral": True, "memory": "1g"},
        {"zones": ("eu-1a", "eu-1b"), "settings": {"maxmemory": "10mb", "save": ""}},
    ],
    ids=str,
)
def test_nothing_is_wrong(fields: dict[str, Any]) -> None:
    assert wrong(**fields) == {}
    ClusterSpec(**fields).check()


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": ""}, "name", "is not a name"),
        ({"name": "Valkey"}, "name", "'Valkey' is not a name"),
        ({"name": "-a"}, "name", "is not a name"),
        ({"name": "a" * 41}, "name", "is not a name"),
        ({"name": None}, "name", "None is not a name"),
        ({"nodes": 0}, "nodes", "0 is less than 1"),
        ({"nodes": 1001}, "nodes", "1001 is more than 1000"),
        ({"nodes": True}, "nodes", "True is not a whole number"),
        ({"nodes": "6"}, "nodes", "'6' is not a whole number"),
        ({"nodes": 3, "replicas": 3}, "nodes", "3 cannot give one primary 3 replicas: that takes 4 nodes"),
        ({"nodes": "6", "base_port": 7000, "min_primaries": 9}, "nodes", "is not a whole number"),
        ({"replicas": -1}, "replicas", "-1 is less than 0"),
        ({"replicas": 1000}, "replicas", "1000 is more than 999"),
        ({"min_primaries": 0}, "min_primaries", "0 is less than 1"),
        ({"min_primaries": "3"}, "min_primaries", "'3' is not a whole number"),
        ({"min_primaries": 4}, "nodes", "6 nodes with 1 replica each make 3 primaries, and 4 are demanded"),
        ({"extra_replica_of": ("0",)}, "extra_replica_of", "6 nodes leave no extra replica"),
        ({"nodes": 7, "extra_replica_of": ("valkey3",)}, "extra_replica_of", "'valkey3' is not a primary"),
        ({"extra_replica_of": "valkey0"}, "extra_replica_of", "is not a list of names"),
        ({"runtime": "podman"}, "runtime", "'podman' is not one of auto, docker, process"),
        ({"base_port": 0}, "base_port", "0 leaves no room"),
        ({"base_port": 55531}, "base_port", "55531 leaves no room for 6 data ports"),
        ({"base_port": "6379"}, "base_port", "'6379' is not a port"),
        ({"base_port": True}, "base_port", "True is not a port"),
        # Containers.
        ({"image": ""}, "image", "'' is not the name of an image"),
        ({"image": "-rm"}, "image", "'-rm' is not the name of an image"),
        ({"image": "a b"}, "image", "'a b' is not the name of an image"),
        ({"image": "a" * 256}, "image", "is not the name of an image"),
        ({"image": 7}, "image", "7 is not the name of an image"),
        ({"pull": "sometimes"}, "pull", "'sometimes' is not one of missing, always, never"),
        ({"announce": "nat"}, "announce", "'nat' is not one of auto, fixed-address, gateway, host-name"),
        ({"announce": "host-name"}, "announce", "host-name needs the name to announce"),
        ({"announce_host": ""}, "announce_host", "'' is not a host name"),
        ({"announce_host": "a b"}, "announce_host", "'a b' is not a host name"),
        ({"announce_host": "-a.b"}, "announce_host", "'-a.b' is not a host name"),
        ({"announce_host": "a..b"}, "announce_host", "'a..b' is not a host name"),
        ({"announce_host": "::1"}, "announce_host", "'::1' is not a host name"),
        ({"announce_host": 7}, "announce_host", "7 is not a host name"),
        ({"announce_host": "a" * 46}, "announce_host", "has 46 characters, and servers announce at most 45"),
        ({"announce_host": "localhost"}, "announce_host", "localhost leads each container to itself"),
        ({"announce_host": "LocalHost"}, "announce_host", "LocalHost leads each container to itself"),
        ({"announce_host": "127.0.0.1"}, "announce_host", "127.0.0.1 leads each container to itself, or nowhere"),
        ({"announce_host": "0.0.0.0"}, "announce_host", "0.0.0.0 leads each container to itself, or nowhere"),
        ({"announce_host": "7"}, "announce_host", "7 leads each container to itself, or nowhere"),
        ({"announce": "gateway", "announce_host": "a"}, "announce_host", "gateway announces no name"),
        ({"expose": "127.0.0.1"}, "expose", "is no address of this machine on its local network"),
        ({"expose": "name"}, "expose", "is no address of this machine on its local network"),
        ({"expose": "192.168.1.5", "announce": "gateway"}, "expose", "it says what is announced"),
        ({"expose": "192.168.1.5", "publish": False}, "expose", "it publishes what --no-publish forbids"),
        ({"tls": "x"}, "tls", "neither true nor false"),
        ({"user": "a b"}, "user", "is not the name of a user"),
        ({"announce_host": "a", "publish": False}, "publish", "a name leads to ports that must be published"),
        ({"publish": "no"}, "publish", "'no' is neither true nor false"),
        ({"ephemeral": 1}, "ephemeral", "1 is neither true nor false"),
        ({"memory": "lots"}, "memory", "'lots' is no limit for a server"),
        ({"memory": "15m"}, "memory", "'15m' is no limit for a server"),
        ({"memory": "1t"}, "memory", "'1t' is no limit for a server"),
        ({"memory": ""}, "memory", "'' is no limit for a server"),
        ({"memory": 268435456}, "memory", "268435456 is no limit for a server"),
        # What does not go together.
        ({"runtime": "process", "image": "x"}, "runtime", "process does not go with image"),
        ({"runtime": "process", "announce": "gateway"}, "runtime", "process does not go with announce"),
        ({"runtime": "process", "announce_host": "a"}, "runtime", "process does not go with announce-host"),
        ({"runtime": "process", "publish": False}, "runtime", "process does not go with no-publish"),
        ({"runtime": "process", "ephemeral": True}, "runtime", "process does not go with ephemeral"),
        ({"runtime": "process", "memory": "1g"}, "runtime", "process does not go with memory"),
        ({"server": "x", "image": "y"}, "server", "a server binary does not go with image"),
        ({"server": "x", "memory": "1g"}, "server", "a server binary does not go with memory"),
        ({"server": "x", "runtime": "docker"}, "server", "containers run an image, not a server binary"),
        # Zones and settings.
        ({"zones": "a"}, "zones", "'a' is not a list of names"),
        ({"zones": ("a", "a b")}, "zones", "'a b' is not a zone's name"),
        ({"zones": ("a", "a")}, "zones", "the same zone is named twice"),
        ({"settings": "save"}, "settings", "'save' is not a table of settings"),
        ({"settings": {"Save It": "1"}}, "settings", "'Save It' is not the name of a server setting"),
        ({"settings": {"save": 1}}, "settings", "the value of save must be text of one line"),
        ({"settings": {"save": "1\nport 1"}}, "settings", "the value of save must be text of one line"),
        ({"settings": {"cluster-announce-ip": "x"}}, "settings", "cluster-announce-ip is reserved"),
        ({"settings": {"port": "1"}}, "settings", "port is reserved: it is decided by the plan; use --base-port"),
        ({"settings": {"requirepass": "x"}}, "settings", "requirepass is reserved"),
    ],
    ids=str,
)
def test_one_thing_is_wrong(fields: dict[str, Any], field: str, words: str) -> None:
    found = wrong(**fields)
    assert list(found) == [field]
    assert words in found[field]


@pytest.mark.parametrize(
    ("fields", "hint"),
    [
        ({"nodes": 3, "replicas": 3}, "counts that work: 4 (1 primary), 8 (2 primaries), 12 (3 primaries)"),
        ({"nodes": 7, "extra_replica_of": ("x",)}, "primaries are valkey0 to valkey2"),
        ({"min_primaries": 5}, "use 10 nodes or more"),
        ({"base_port": 60000}, "use 1 to 55530"),
        ({"extra_replica_of": ("0",)}, "use 7 nodes"),
    ],
    ids=str,
)
def test_what_would_work_is_told(fields: dict[str, Any], hint: str) -> None:
    (problem,) = ClusterSpec(**fields).problems()
    assert problem.hint == hint


@pytest.mark.parametrize(
    "setting",
    [
        *("bind", "port", "tls-port", "cluster-enabled", "cluster-config-file", "cluster-port", "dir", "logfile"),
        *("daemonize", "supervised", "pidfile", "include", "protected-mode", "availability-zone", "rename-command"),
        *(f"cluster-announce-{each}" for each in ("ip", "port", "bus-port", "tls-port", "hostname")),
        *(f"cluster-announce-{each}" for each in ("human-nodename", "client-ipv4", "client-ipv6", "client-port")),
        *("cluster-preferred-endpoint-type", "replica-announce-ip", "replica-announce-port"),
        *("slave-announce-ip", "slave-announce-port", "replicaof", "slaveof"),
        *("requirepass", "masterauth", "masteruser", "primaryauth", "primaryuser", "user", "aclfile"),
    ],
)
def test_settings_that_would_break_what_is_planned_are_refused(setting: str) -> None:
    assert f"{setting} is reserved" in wrong(settings={setting: "x"})["settings"]


def test_everything_that_is_wrong_is_told_at_once() -> None:
    fields: dict[str, Any] = {
        "name": "No", "nodes": 0, "image": "", "pull": "x", "announce_host": "localhost", "publish": False,
        "memory": "1", "server": "x", "zones": ("a", "a"), "settings": {"port": "1"},
    }  # fmt: skip
    assert list(wrong(**fields)) == [
        "name", "nodes", "pull", "image", "memory", "announce_host", "publish", "server", "zones", "settings",
    ]  # fmt: skip
    with pytest.raises(SpecError) as caught:
        ClusterSpec(**fields).check()
    assert len(caught.value.problems) == 10
    assert caught.value.code == "invalid-spec"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, ""),
        ({"pull": "always", "zones": ("a",), "runtime": "docker"}, ""),
        ({"image": "x", "memory": "1g"}, "image"),
        ({"announce": "gateway"}, "announce"),
        ({"announce_host": "a"}, "announce-host"),
        ({"publish": False}, "no-publish"),
        ({"ephemeral": True}, "ephemeral"),
        ({"memory": "1g"}, "memory"),
    ],
    ids=str,
)
def test_what_only_containers_have(fields: dict[str, Any], word: str) -> None:
    assert containers_asked(ClusterSpec(**fields)) == word


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("16777216", 16 * 1024**2),
        ("16384k", 16 * 1024**2),
        ("16m", 16 * 1024**2),
        ("16M", 16 * 1024**2),
        (" 256mb ", 256 * 1024**2),
        ("1G", 1024**3),
        ("0", 0),
    ],
)
def test_amounts_of_memory(text: str, number: int) -> None:
    assert memory_bytes(text) == number


@pytest.mark.parametrize("text", ["", "m", "-1m", "1.5g", "1 g", "0x10", "1" * 13, "1mm", "²"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(ValueError, match="is no amount of memory"):
        memory_bytes(text)


def test_people_write_numbers_and_lists_as_text() -> None:
    raw = {
        "nodes": " 7 ", "replicas": "1", "min_primaries": "2", "base_port": "7000", "zones": "a, b",
        "extra_replica_of": "0", "publish": "off", "ephemeral": "Yes",
        "settings": {"appendonly": False, "activerehashing": True, "maxclients": 100},
    }  # fmt: skip
    assert parse_spec(raw) == ClusterSpec(
        nodes=7,
        replicas=1,
        min_primaries=2,
        base_port=7000,
        zones=("a", "b"),
        extra_replica_of=("0",),
        publish=False,
        ephemeral=True,
        settings={"appendonly": "no", "activerehashing": "yes", "maxclients": "100"},
    )


@pytest.mark.parametrize("field", ["publish", "ephemeral"])
def test_truth_has_many_words(field: str) -> None:
    for number, words in enumerate(("no false 0 off NO", "yes true 1 on True")):
        for word in words.split():
            assert getattr(parse_spec({field: word}), field) is bool(number)


def test_what_people_write_wrong_is_told_with_what_is_unknown() -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"publish": "maybe", "nodes": "six", "shards": 3})
    assert [problem.field for problem in caught.value.problems] == ["shards", "nodes", "publish"]
    assert "no such field" in caught.value.message


def test_a_callers_lists_stay_the_callers() -> None:
    zones, settings = ["a", "b"], {"save": ""}
    spec = ClusterSpec(zones=zones, settings=settings)
    zones.append("c")
    settings["save"] = "1"
    assert (spec.zones, spec.settings) == (("a", "b"), {"save": ""})


def test_names_of_nodes_read_well() -> None:
    assert [node_name("valkey", 12), node_name("web1", 12)] == ["valkey12", "web1-12"]


@pytest.mark.parametrize(
    ("fields", "counts"),
    [
        ({"nodes": 6}, (1, 1, 1)),
        ({"nodes": 5}, (2, 1)),
        ({"nodes": 11, "replicas": 2}, (3, 3, 2)),
        ({"nodes": 11, "replicas": 2, "extra_replica_of": ("2",)}, (2, 2, 4)),
        ({"nodes": 11, "replicas": 2, "extra_replica_of": ("valkey2", 0)}, (3, 2, 3)),
        ({"nodes": 3, "replicas": 0}, (0, 0, 0)),
    ],
    ids=str,
)
def test_what_is_left_over_become_extra_replicas(fields: dict[str, Any], counts: tuple[int, ...]) -> None:
    assert replica_counts(ClusterSpec(**fields)) == counts


def test_every_setting_that_the_plan_decides_is_reserved_or_may_be_set() -> None:
    """What a user sets wins over the plan, so what must not be won over has to be refused."""
    may_be_set = {"cluster-node-timeout", "appendonly"}
    for spec in (ClusterSpec(runtime="process", zones=("a",)), ClusterSpec(zones=("a",))):
        node = build_plan(spec, Site.assumed(spec)).nodes[0]
        assert {key for key, _ in node.settings} - RESERVED_SETTINGS.keys() == may_be_set


def test_a_value_is_quoted_as_servers_read_it() -> None:
    spec = ClusterSpec(runtime="process", nodes=1, replicas=0, settings={"logfile-like": 'a "b" \\c ${folder}'})
    (node,) = build_plan(spec, Site.assumed(spec)).nodes
    assert render_config(node).decode().splitlines()[-1] == 'logfile-like "a \\"b\\" \\\\c ${folder}"'


@pytest.mark.parametrize("key", DANGEROUS_SETTINGS)
def test_a_dangerous_setting_is_warned_of(key: str) -> None:
    asked = ClusterSpec(settings={key: "yes"})
    (warning,) = build_plan(asked, Site.assumed(asked)).warnings
    assert warning == f"{key} yes {DANGEROUS_SETTINGS[key]}"
    assert not build_plan(ClusterSpec(settings={key: "no"}), Site.assumed()).warnings
