"""A cluster for one command: what the command is given, what becomes of signals, and that nothing is left."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from .conftest import Command, await_end, find_server, until
from .containers import Containers

pytestmark = pytest.mark.servers

THREE = ("--nodes", 3, "--replicas", 0)
"""As few as there are no warnings for."""
PROJECT = Path(__file__).parents[2]

CLIENT = """
import json, os, pathlib, redis

given = {name: value for name, value in os.environ.items() if name.startswith("VALKEY_")}
login = {}
if "VALKEY_PASSWORD_FILE" in given:
    login["username"] = given["VALKEY_USERNAME"]
    login["password"] = pathlib.Path(given["VALKEY_PASSWORD_FILE"]).read_text()
if "VALKEY_CA_FILE" in given:
    login["ssl_ca_certs"] = given["VALKEY_CA_FILE"]
with redis.cluster.RedisCluster.from_url(given["VALKEY_URL"], decode_responses=True, **login) as client:
    client.set("key", "1")
    print(json.dumps({"given": given, "password": login.get("password"), "key": client.get("key")}))
"""

LISTENING = """
import os, signal, socket, sys

# Not sigwait: a byte is written for each delivery, so that a second one is seen, too.
heard, told = socket.socketpair()
told.setblocking(False)
signal.set_wakeup_fd(told.fileno())
for each in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2"):
    signal.signal(getattr(signal, each), lambda *_: None)
print("up", flush=True)
while (signum := heard.recv(1)[0]) != signal.SIGUSR1:
    print(signal.Signals(signum).name, flush=True)
sys.exit(5)
"""

SLOW_DELETION = """
import pathlib, sys
import anyio
import bootstrap.operations.delete as module
from bootstrap.cli import main

delete, released = module.delete, pathlib.Path(sys.argv.pop(1))

async def slow(runtime, name):
    print("deleting", file=sys.stderr, flush=True)
    while not released.exists():
        await anyio.sleep(0.02)
    return await delete(runtime, name)

module.delete = slow
sys.exit(main())
"""


@pytest.fixture(scope="module")
def kept(shared_command: Command) -> Iterator[Command]:
    """A command whose `run` finds a cluster: it is there at once, and stays."""
    named = Command(shared_command.root, {"VALKEY_BOOTSTRAP_NAME": "kept"})
    named.ok(*THREE, "--base-port", "auto")
    yield named
    named.ok("delete", "kept")
    named.assert_nothing_left()


def script(folder: Path, source: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(source)
    return [sys.executable, str(path)]


@contextmanager
def started(
    command: Command, *args: str | float | Path, argv: list[str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`run` in a session of its own: without a terminal, as in CI."""
    with subprocess.Popen(
        argv or command.argv("run", *THREE, *args), env={**command.env(), "PYTHONPATH": str(PROJECT)}, text=True,
        start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def errors_until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stderr is not None
    while word not in (line := process.stderr.readline()):
        assert line, f"no {word!r} on stderr"


# What the command is given.


def test_a_command_with_a_cluster_of_its_own(command: Command, tmp_path: Path) -> None:
    outer = Command(command.root, {"VALKEY_PASSWORD_FILE": "/of/another", "VALKEY_CA_FILE": "/of/another"})
    done = outer("run", *THREE, "--", *script(tmp_path, CLIENT))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["key"] == "1"
    given = {name: text for name, text in said["given"].items() if not name.startswith("VALKEY_BOOTSTRAP")}
    first, *rest = given["VALKEY_CLUSTER_NODES"].split(",")
    assert len(rest) == 2
    name = given["VALKEY_CLUSTER_NAME"]
    assert given == {
        "VALKEY_CLUSTER_NAME": name,
        "VALKEY_CLUSTER_NODES": ",".join([first, *rest]),
        "VALKEY_HOST": "127.0.0.1",
        "VALKEY_PORT": first.rpartition(":")[2],
        "VALKEY_URL": f"redis://{first}",
    }
    lines = done.stderr.splitlines()
    assert lines[0].startswith(f'Creating cluster "{name}": 3 nodes')
    assert lines[-2].startswith(f'Cluster "{name}" is ready (')
    assert f": running {sys.executable} " in lines[-2]
    assert lines[-1] == f'Deleted cluster "{name}"'
    command.assert_nothing_left()


def test_a_command_logs_in_over_tls(command: Command, tmp_path: Path) -> None:
    server = find_server("redis-7.0")
    protected = ("--tls", "--generate-password", "--user", "app", "--server", server, "-q")
    done = command("run", *THREE, *protected, "--", *script(tmp_path, CLIENT))
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["key"] == "1"
    assert said["given"]["VALKEY_USERNAME"] == "app"
    assert said["given"]["VALKEY_URL"].startswith("rediss://")
    assert said["password"]
    assert not [name for name, text in said["given"].items() if said["password"] in text]
    command.assert_nothing_left()


def test_flags_after_the_command_are_its_own(kept: Command) -> None:
    for separator in ((), ("--",)):
        done = kept("run", *THREE, *separator, "echo", "--nodes", 9, "--", "-q", "--progress", "json")
        assert (done.returncode, done.stdout) == (0, "--nodes 9 -- -q --progress json\n")
        assert 'Cluster "kept" is healthy, nothing was changed (' in done.stderr
        assert done.stderr.endswith('Kept cluster "kept": it was there before\n')
    assert kept("status", "--exit-code").returncode == 0


def test_stdin_is_passed_through_and_quiet_is_quiet(kept: Command) -> None:
    done = subprocess.run(
        kept.argv("run", *THREE, "-q", "cat"), input="a\nb\n", capture_output=True, text=True, timeout=20,
        env=kept.env(), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\nb\n", "")


def test_what_it_leaves_in_the_background_is_not_waited_for(kept: Command, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("w") as stdout:
        done = subprocess.run(
            kept.argv("run", *THREE, "sh", "-c", "sleep 300 & echo $!"), stdout=stdout, stderr=subprocess.DEVNULL,
            timeout=20, env=kept.env(), check=False,
        )  # fmt: skip
    assert done.returncode == 0
    left = psutil.Process(int(output.read_text()))
    assert left.is_running()
    left.kill()
    await_end([left])


def test_nobody_who_reads_the_progress(kept: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        kept.argv("run", *THREE, "sh", "-c", "echo done; exit 3"), stdout=subprocess.PIPE, stderr=writing, text=True,
        timeout=20, env=kept.env(), check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stdout) == (3, "done\n")


# Exit codes.


@pytest.mark.parametrize(("line", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill $$", 143)])
def test_the_exit_code_is_the_commands(kept: Command, line: str, code: int) -> None:
    done = kept("run", *THREE, "sh", "-c", line)
    assert (done.returncode, done.stdout) == (code, "")
    assert "error" not in done.stderr


def test_commands_that_cannot_be_run(command: Command, tmp_path: Path) -> None:
    plain, folder = tmp_path / "plain", tmp_path / "folder"
    plain.write_text("text")
    folder.mkdir()
    for code, name, program in (
        (127, "command-not-found", "nothing-such"),
        (127, "command-not-found", tmp_path / "nothing"),
        (126, "command-not-executable", plain),
        (126, "command-not-executable", folder),
    ):
        # The look is ours; flags behind the command are not.
        told = command.fails(code, "run", *THREE, program, "--progress", "json")
        assert told.startswith("error: ")
        assert f"({name})\n\nhint: " in told
    told = command.fails(127, "run", *THREE, "--progress", "json", "--", "nothing-such", "--progress", "plain")
    assert {"event": "error", "code": "command-not-found", "exit_code": 127}.items() <= json.loads(told).items()
    assert "there is no command to run (usage)\n\nhint: " in command.fails(2, "run", *THREE)
    assert "`valkey-bootstrap run --help`" in command.fails(2, "run", "--output", "env", "true").replace(
        "python -m bootstrap", "valkey-bootstrap"
    )
    command.assert_nothing_left()


def test_a_script_that_the_system_refuses(kept: Command, tmp_path: Path) -> None:
    headless = tmp_path / "headless"
    headless.write_text("text\n")
    headless.chmod(0o755)
    told = kept.fails(126, "run", *THREE, headless)
    assert "cannot be executed: Exec format error (command-not-executable)" in told


@pytest.mark.parametrize(("code", "exit_code"), [(0, 4), (3, 3)])
def test_a_deletion_that_fails(command: Command, code: int, exit_code: int) -> None:
    with started(command, "--name", "held", "sh", "-c", "echo up; read code; exit $code") as process:
        assert line_of(process) == "up"
        with FileLock(command.root / ".held.lock"):
            _, told = process.communicate(f"{code}\n", timeout=20)
    assert process.returncode == exit_code
    assert "error: another command is at work" in told
    command.ok("delete", "--orphans")
    command.assert_nothing_left()


# Signals.


def test_signals_are_passed_on_once(kept: Command, tmp_path: Path) -> None:
    with started(kept, "-q", *script(tmp_path, LISTENING)) as process:
        assert line_of(process) == "up"
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2, signal.SIGTERM):
            process.send_signal(signum)
            assert line_of(process) == signum.name
        # Comes after whatever else was passed on.
        process.send_signal(signal.SIGUSR1)
        rest, told = process.communicate(timeout=20)
    assert (process.returncode, rest, told) == (5, "", "")


def test_a_signal_that_ends_the_command(command: Command) -> None:
    with started(command, "sh", "-c", "echo up; exec sleep 60") as process:
        assert line_of(process) == "up"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Deleted cluster" in told
    command.assert_nothing_left()


def test_a_key_of_the_terminal_reaches_the_command_once(kept: Command, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    take = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    argv = kept.argv("run", *THREE, "-q", *script(tmp_path, LISTENING))
    said = ""

    def awaits(word: str) -> None:
        nonlocal said
        while word not in said:
            said += os.read(ours, 4096).decode()

    with subprocess.Popen(
        [sys.executable, "-c", take, *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=kept.env(), cwd=PROJECT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            awaits("up")
            for key, name in ((b"\x03", "SIGINT"), (b"\x1c", "SIGQUIT")):
                os.write(ours, key)
                awaits(name)
            # One that is sent to us alone is passed on at a terminal, too.
            process.send_signal(signal.SIGTERM)
            awaits("SIGTERM")
            process.send_signal(signal.SIGUSR1)
            assert process.wait(20) == 5
        finally:
            process.kill()
    # What is left to read, up to a mark of ours.
    os.write(theirs, b"end of it")
    awaits("end of it")
    os.close(ours)
    os.close(theirs)
    assert [said.count(name) for name in ("SIGINT", "SIGQUIT", "SIGTERM")] == [1, 1, 1], said


def test_a_hangup_that_is_ignored_stays_ignored(kept: Command) -> None:
    ask = "import signal; print(signal.getsignal(signal.SIGHUP).name, signal.getsignal(signal.SIGQUIT).name)"
    argv = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *kept.argv("run", *THREE, sys.executable, "-c", ask)]
    with started(kept, argv=argv) as process:
        assert line_of(process) == "SIG_IGN SIG_DFL"
        assert process.wait(20) == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP], ids=lambda each: each.name)
def test_a_signal_while_the_cluster_is_created(command: Command, tmp_path: Path, signum: signal.Signals) -> None:
    mark = tmp_path / "mark"
    with started(command, "--progress", "plain", "touch", mark) as process:
        errors_until(process, "Started")
        process.send_signal(signum)
        said, told = process.communicate(timeout=20)
    assert (process.returncode, said) == (128 + signum, "")
    assert "Nothing is left" in told
    assert not mark.exists()
    command.assert_nothing_left()


def deleting(command: Command, released: Path) -> Any:
    argv = [sys.executable, "-c", SLOW_DELETION, str(released), *command.argv("run", *THREE)[3:]]
    return started(command, argv=[*argv, "--name", "going", "sh", "-c", "exit 3"])


def test_a_signal_while_the_cluster_is_deleted_lets_it_finish(command: Command, tmp_path: Path) -> None:
    with deleting(command, tmp_path / "released") as process:
        errors_until(process, "deleting")
        process.send_signal(signal.SIGINT)
        errors_until(process, 'Removing cluster "going" (Ctrl-C leaves it)')
        (tmp_path / "released").touch()
        _, told = process.communicate(timeout=20)
    assert (process.returncode, told) == (3, 'Deleted cluster "going"\n')
    command.assert_nothing_left()


def test_a_second_signal_leaves_the_cluster_and_says_how_to_remove_it(command: Command, tmp_path: Path) -> None:
    with deleting(command, tmp_path / "released") as process:
        errors_until(process, "deleting")
        process.send_signal(signal.SIGINT)
        errors_until(process, "Removing")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Left as it is; remove it with `" in told
    assert "delete --name going" in told
    command.ok("delete", "--name", "going")
    command.assert_nothing_left()


def test_a_run_that_is_killed_leaves_an_orphan(command: Command) -> None:
    with started(command, "--name", "alone", "sh", "-c", "echo up; exec sleep 60") as process:
        assert line_of(process) == "up"
        (record,) = command.json("list")["clusters"]
        assert (record["name"], record["orphan"]) == ("alone", False)
        process.kill()
        process.wait(20)
    (record,) = command.json("list")["clusters"]
    assert record["orphan"] is True
    assert command.json("delete", "--orphans")["deleted"] == ["alone"]
    until(lambda: not command.processes())
    command.assert_nothing_left()


# Containers.


@pytest.mark.docker
def test_a_command_with_a_cluster_in_containers(containers: Containers, tmp_path: Path) -> None:
    args = (*THREE, "--generate-password", "--")
    done = containers("run", *args, *script(tmp_path, CLIENT))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["key"], said["given"]["VALKEY_CLUSTER_NAME"]) == ("1", containers.name)
    assert said["password"]
    assert done.stderr.endswith(f'Deleted cluster "{containers.name}"\n')
    containers.assert_nothing_left()
