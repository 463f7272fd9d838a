"""The command line as people and programs use it, on a real cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import Command, ask, setting, until

pytestmark = pytest.mark.servers

GOLDEN = Path(__file__).parent / "golden"
# The servers' own DEBUG LOG is how a test gets a line into a log.
SPEC = ("--nodes", 4, "--replicas", 1, "--set", "enable-debug-command=yes")
CREATE = (*SPEC, "--base-port", "auto")
NODE_KEYS = {"name", "index", "host", "zone", "addresses"}
SHAPE_KEYS = {"role", "slots", "primary"}
VERBS = (
    "create", "form", "run", "status", "list", "wait", "doctor", "logs", "call", "failover", "export", "delete",
    "scale", "add-node", "remove-node", "rebalance", "reshard",
)  # fmt: skip


@pytest.fixture(scope="module")
def created(shared_command: Command) -> Iterator[subprocess.CompletedProcess[str]]:
    """The creation of the module's cluster."""
    done = shared_command(*CREATE)
    assert done.returncode == 0, done.stderr
    yield done
    shared_command.ok("delete", "--all")


@pytest.fixture
def cluster(created: object, shared_command: Command) -> Command:
    """The command, with a healthy cluster of four nodes that the test leaves as it is."""
    return shared_command


def with_environment(command: Command, **environment: str) -> Command:
    return Command(command.root, environment)


def shell(script: str, command: Command, *folders: str, stdin: str = "") -> str:
    """Run a line in sh, with this Python's commands and the folders on the PATH."""
    path = os.pathsep.join([*folders, str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, timeout=20, check=False, input=stdin,
        env={**command.env(), "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def address(node: Mapping[str, Any]) -> str:
    found: str = node["addresses"]["host"]
    return found


def nodes(command: Command, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = command.json("status", *options)["nodes"]
    return found


# What a creation prints.


def test_the_table_of_a_new_cluster(created: subprocess.CompletedProcess[str], cluster: Command) -> None:
    a, b, c, d = map(address, nodes(cluster))
    table = created.stdout.split("\n\n")[0].splitlines()
    assert [line.split() for line in table] == [
        ["NODE", "ROLE", "ADDRESS", "SLOTS", "/", "PRIMARY"],
        ["valkey0", "primary", a, "0-8191"],
        ["valkey1", "primary", b, "8192-16383"],
        ["valkey2", "replica", c, "of", "valkey1"],
        ["valkey3", "replica", d, "of", "valkey0"],
    ]
    assert 'Cluster "valkey" is ready (' in created.stderr
    assert "\x1b" not in created.stdout + created.stderr


def test_the_lines_to_copy_work(created: subprocess.CompletedProcess[str], cluster: Command, valkey_cli: str) -> None:
    pairs = [line.partition(" ") for line in created.stdout.split("\n\n")[1].splitlines()]
    lines = {label: line.strip() for label, _, line in pairs}
    assert list(lines) == ["python", "shell", "replica", "status", "delete"]
    tools = str(Path(valkey_cli).parent)
    program = f'import redis; client = {lines["python"]}; print(client.set("key", "1"), client.get("key"))'
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == "True b'1'", done.stderr
    said = shell(lines["shell"], cluster, tools, stdin="SET key 2\nGET key\n").splitlines()
    assert [line for line in said if not line.startswith("-> Redirected")] == ["OK", "2"]
    until(lambda: shell(lines["replica"], cluster, tools).split() == ["OK", "2"])
    # The command is called as it was for the creation, from a folder where it can be imported.
    root = Path(__file__).parents[2]
    assert "4 of 4 nodes answered" in shell(f"cd '{root}' && {lines['status']}", cluster)


def test_the_replica_to_read_from_has_the_key(command: Command, valkey_cli: str) -> None:
    # The first replica of five nodes is of the other primary, and would answer MOVED.
    text = command.ok("--nodes", 5, "--replicas", 1, "--base-port", "auto")
    line = next(line for line in text.splitlines() if line.startswith("replica "))
    said = shell(line.removeprefix("replica "), command, str(Path(valkey_cli).parent))
    assert said.split() == ["OK"], "no key, and no redirection"


def test_the_line_to_delete_works(command: Command) -> None:
    text = command.ok("--nodes", 1, "--replicas", 0, "--base-port", "auto", "--name", "one")
    line = next(line for line in text.splitlines() if line.startswith("delete "))
    shell(f"cd '{Path(__file__).parents[2]}' && {line.removeprefix('delete ')}", command)
    command.assert_nothing_left()


def test_quiet_prints_the_addresses_only(cluster: Command) -> None:
    done = cluster(*SPEC, "-q")
    assert done.returncode == 0
    assert done.stdout == ",".join(map(address, nodes(cluster))) + "\n"
    assert cluster.ok("status", "-q") == done.stdout
    assert cluster.ok("list", "-q") == "valkey\n"


def test_environment_lines_can_be_evaluated(cluster: Command) -> None:
    text = cluster.ok(*SPEC, "--output", "env")
    first, *_ = found = list(map(address, nodes(cluster)))
    names = ("VALKEY_CLUSTER_NAME", "VALKEY_CLUSTER_NODES", "VALKEY_HOST", "VALKEY_PORT", "VALKEY_URL")
    echo = "; ".join(f'echo "${name}"' for name in names)
    assert shell(f'eval "$(cat)"; {echo}', cluster, stdin=text).split() == [
        "valkey", ",".join(found), "127.0.0.1", first.rpartition(":")[2], f"redis://{first}",
    ]  # fmt: skip


# JSON.


def assert_nodes(found: list[dict[str, Any]], *extra: set[str]) -> None:
    for index, node in enumerate(found):
        assert set(node) >= set().union(NODE_KEYS, *extra)
        assert node["index"] == index
        assert node["name"] == f"valkey{index}"
        assert set(node["addresses"]) == {"host", "network", "announced", "bus"}


def test_the_json_of_create_and_status(cluster: Command) -> None:
    made, status = cluster.json(*SPEC), cluster.json("status")
    for document in (made, status):
        assert {"format_version": 1, "name": "valkey", "runtime": "process", "health": "ok"}.items() <= document.items()
        assert_nodes(document["nodes"], SHAPE_KEYS, {"id", "health"})
        assert {node["health"] for node in document["nodes"]} == {"ok"}
        assert {len(node["id"]) for node in document["nodes"]} == {40}
    assert made["nodes"] == status["nodes"]
    assert [node["slots"] for node in status["nodes"]] == [[[0, 8191]], [[8192, 16383]], [], []]
    assert [node["primary"] for node in status["nodes"]] == [None, None, "valkey1", "valkey0"]
    assert [node["role"] for node in status["nodes"]] == ["primary", "primary", "replica", "replica"]


def test_the_json_of_list(cluster: Command) -> None:
    document = cluster.json("list")
    assert document["format_version"] == 1
    (record,) = document["clusters"]
    assert {"name": "valkey", "runtime": "process", "running": 4, "orphan": False}.items() <= record.items()
    assert_nodes(record["nodes"], {"running"})


def test_the_json_of_a_plan(command: Command) -> None:
    document = command.json("--dry-run", "--nodes", 4)
    assert {"format_version": 1, "name": "valkey", "runtime": "process"}.items() <= document.items()
    assert_nodes(document["nodes"], SHAPE_KEYS)
    assert [node["primary"] for node in document["nodes"]] == [None, None, "valkey1", "valkey0"]


# Progress.


def test_json_progress_ends_ready(command: Command) -> None:
    done = command("--nodes", 2, "--replicas", 0, "--base-port", "auto", "--progress", "json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert events[0]["event"] == "plan.made"
    assert events[-1]["event"] == "cluster.ready"
    assert events[-1]["created"] is True
    assert {event["cluster"] for event in events} == {"valkey"}
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)
    assert "steps.ran" in [event["event"] for event in events]


@pytest.mark.parametrize(
    ("args", "code", "exit_code"),
    [
        (("--nodes", 0), "invalid-spec", 2),
        (("--node", 3), "usage", 2),
        (("status", "--name", "nothing"), "no-such-cluster", 2),
        (("--server", "/nope"), "no-server", 3),
        (("--nodes", 1, "--replicas", 0, "--base-port", "auto", "--set", "bogus=1"), "server-bad-setting", 5),
    ],
)
def test_json_progress_ends_with_an_error(
    command: Command, args: tuple[str | int, ...], code: str, exit_code: int
) -> None:
    last = json.loads(command.fails(exit_code, *args, "--progress", "json").splitlines()[-1])
    assert {"event": "error", "code": code, "exit_code": exit_code}.items() <= last.items()
    assert last["message"]
    assert last["hint"]


def test_json_progress_of_the_environment_holds_for_errors(command: Command) -> None:
    told = with_environment(command, VALKEY_BOOTSTRAP_PROGRESS="json").fails(2, "--nodes", 0)
    assert json.loads(told)["code"] == "invalid-spec"


def test_the_same_command_again_changes_nothing(cluster: Command) -> None:
    before = nodes(cluster)
    done = cluster(*SPEC, "--progress", "json")
    assert done.returncode == 0
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert not {event["event"] for event in events} & {"steps.ran", "node.started", "settings.restored"}
    assert events[-1]["event"] == "cluster.ready"
    assert events[-1]["created"] is False
    assert 'Cluster "valkey" is healthy, nothing was changed' in cluster(*SPEC).stderr
    assert nodes(cluster) == before


# Status.


def test_status_of_a_dead_node(command: Command) -> None:
    command.ok(*CREATE)
    assert command("status", "--exit-code").returncode == 0
    folder = Path(command.json("list")["clusters"][0]["folder"])
    (victim,) = [process for process in command.processes() if process.cwd() == str(folder / "valkey2")]
    os.kill(victim.pid, signal.SIGKILL)
    until(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE)
    done = command("status", "--exit-code")
    assert done.returncode == 7, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("valkey2 "))
    assert "connection refused" in row
    assert "3 of 4 nodes answered" in done.stdout
    # Without the flag a sick cluster is an answer, not an error.
    assert command("status").returncode == 0
    (record,) = command.json("list")["clusters"]
    assert [node["running"] for node in record["nodes"]] == [True, True, False, True]


# Logs.


def test_a_node_is_named_in_four_ways(cluster: Command) -> None:
    node = nodes(cluster)[2]
    expected = cluster.ok("logs", "valkey2")
    assert "Ready to accept connections" in expected
    for ref in (2, node["id"][:12], address(node)):
        assert cluster.ok("logs", ref) == expected, ref
    assert "valkey0" in cluster.fails(2, "logs", "valkey9")


def test_the_tail_of_a_log(cluster: Command) -> None:
    whole = cluster.ok("logs", "valkey2").splitlines()
    assert cluster.ok("logs", "valkey2", "--tail", 2).splitlines() == whole[-2:]
    assert cluster.ok("logs", "valkey2", "--tail", 0) == ""


def test_logs_of_all_nodes_have_their_names_in_front(cluster: Command) -> None:
    lines = cluster.ok("logs", "--tail", 1).splitlines()
    assert [line.partition(" | ")[0] for line in lines] == [f"valkey{index}" for index in range(4)]


def test_logs_are_exported(cluster: Command, tmp_path: Path) -> None:
    target = tmp_path / "logs"
    done = cluster("logs", "--export", target)
    assert done.returncode == 0
    assert done.stdout == ""
    assert str(target) in done.stderr
    assert sorted(path.name for path in target.iterdir()) == [f"valkey{index}.log" for index in range(4)]
    assert (target / "valkey1.log").read_text() == cluster.ok("logs", "valkey1")


def test_a_log_is_followed(cluster: Command, tmp_path: Path) -> None:
    port = int(address(nodes(cluster)[2]).rpartition(":")[2])
    written = tmp_path / "followed"
    with written.open("w") as stdout, subprocess.Popen(
        cluster.argv("logs", "valkey2", "--follow", "--tail", 0), env=cluster.env(), stdout=stdout,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def followed() -> bool:
            # Until it has begun to follow, a line is not its business.
            ask(port, "DEBUG", "LOG", "mark of the test")
            return "mark of the test" in written.read_text()

        until(followed)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


# Wait.


def test_wait_by_name_and_by_address(cluster: Command) -> None:
    found = nodes(cluster)
    assert cluster.ok("wait", "--name", "valkey", "--nodes", 4) == 'Cluster "valkey" is healthy: 4 nodes\n'
    assert "is healthy: 4 nodes" in cluster.ok("wait", address(found[3]), "--nodes", 4)
    by_address = cluster.json("wait", address(found[3]))
    assert {node["id"] for node in by_address["nodes"]} == {node["id"] for node in found}
    assert by_address["runtime"] == "none"


def test_status_by_address(cluster: Command) -> None:
    found = nodes(cluster)
    by_address = cluster.json("status", address(found[2]), "--exit-code")
    assert {node["id"] for node in by_address["nodes"]} == {node["id"] for node in found}
    assert by_address["health"] == "ok"
    told = cluster.fails(2, "status", "--name", "valkey", address(found[2]))
    assert "--name excludes another name and addresses" in told


@pytest.mark.parametrize("verb", ["status", "wait", "doctor"])
def test_a_name_is_said_without_its_flag(cluster: Command, verb: str) -> None:
    assert cluster.json(verb, "valkey")["name"] == "valkey"
    told = cluster.fails(2, verb, "another")
    assert 'there is no cluster "another"' in told
    assert "there are: valkey" in told
    assert "--name excludes" in cluster.fails(2, verb, "another", "--name", "valkey")


def test_clusters_that_do_not_exist_are_told_by_name(cluster: Command) -> None:
    done = cluster("delete", "one", "two")
    assert done.returncode == 0
    assert [line for line in done.stderr.splitlines() if "nothing to delete" in line] == [
        'There is no cluster "one": nothing to delete',
        'There is no cluster "two": nothing to delete',
    ]
    assert "exclude each other" in cluster.fails(2, "delete", "one", "--all")
    assert cluster.json("status")["health"] == "ok"


def test_wait_gives_up(cluster: Command) -> None:
    told = cluster.fails(6, "wait", address(nodes(cluster)[0]), "--nodes", 5, "--timeout", 0.5)
    assert "4 nodes of 5 found" in told
    assert "hint:" in told


# Where values come from.


def test_flags_go_before_environment_before_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        'nodes = 3\nreplicas = 2\nname = "filed"\nzones = ["x", "y"]\n\n[settings]\nmaxmemory = 1000\nhz = 20\n'
    )
    env = with_environment(command, VALKEY_BOOTSTRAP_NODES="6", VALKEY_BOOTSTRAP_NAME="from-env")
    plan = env.json("--config", file, "--dry-run", "--name", "flagged", "--set", "hz=30")
    assert plan["name"] == "flagged"
    assert len(plan["nodes"]) == 6
    assert plan["primaries"] == 2
    assert [node["zone"] for node in plan["nodes"]] == ["x", "y"] * 3
    assert env.json("--config", file, "--dry-run")["name"] == "from-env"
    assert command.json("--config", file, "--dry-run")["name"] == "filed"
    named = with_environment(command, VALKEY_BOOTSTRAP_CONFIG=str(file))
    assert named.json("--dry-run")["name"] == "filed"


def test_settings_of_flags_go_before_those_of_the_file(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text("nodes = 1\nreplicas = 0\n\n[settings]\nmaxclients = 100\nhz = 20\nappendonly = false\n")
    (node,) = command.json("--config", file, "--set", "hz=30", "--base-port", "auto")["nodes"]
    port = int(address(node).rpartition(":")[2])
    assert [setting(port, name) for name in ("maxclients", "hz", "appendonly")] == ["100", "30", "no"]
    command.ok("delete")


@pytest.mark.parametrize(
    ("text", "words"),
    [("nodes = ", "is not TOML"), ("knots = 3", "knots: no such field"), ('nodes = "many"', "--nodes: 'many'")],
)
def test_a_file_with_mistakes(command: Command, tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(text)
    assert words in command.fails(2, "--config", file, "--dry-run")


def test_a_file_that_is_not_there(command: Command, tmp_path: Path) -> None:
    assert "no such file" in command.fails(2, "--config", tmp_path / "none.toml", "--dry-run").lower()


# Usage.


def test_nothing_at_all_prints_the_help(command: Command) -> None:
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == command.ok("--help")
    assert {line.split()[0] for line in done.stdout.partition("Commands:\n")[2].splitlines()} == set(VERBS)
    # The examples stand on lines of their own.
    assert "\\b" not in done.stdout
    examples = [line for line in done.stdout.splitlines() if line.strip().startswith("valkey-bootstrap ")]
    assert len(examples) == 7


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(command: Command, verb: str) -> None:
    assert f"Usage: valkey-bootstrap {verb} " in command.ok(verb, "--help")


def test_bare_flags_mean_create(command: Command) -> None:
    assert command.ok("--nodes", 3, "--dry-run") == command.ok("create", "--nodes", 3, "--dry-run")


@pytest.mark.parametrize("args", [("--node", 3), ("--replica", 1), ("--bogus",), ("status", "--nam", "x"), ("makes",)])
def test_unknown_and_abbreviated_words(command: Command, args: tuple[str, ...]) -> None:
    told = command.fails(2, *args)
    assert "--help`" in told
    command.assert_nothing_left()


def test_the_version(command: Command) -> None:
    assert command.ok("--version").startswith("valkey-bootstrap ")


# Streams.


@pytest.mark.parametrize(
    "args", [("--help",), ("--dry-run",), ("status",), ("list",), ("logs",), ("list", "-o", "json")], ids=" ".join
)
def test_a_reader_that_has_had_enough(cluster: Command, args: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        cluster.argv(*args), stdout=writing, stderr=subprocess.PIPE, text=True, env=cluster.env(), timeout=20,
        check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("environment", "args", "colored"),
    [
        ({"NO_COLOR": ""}, (), False),  # not a terminal
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, (), False),
        ({"NO_COLOR": "", "FORCE_COLOR": "1"}, (), True),
        ({"NO_COLOR": "", "FORCE_COLOR": "1"}, ("--color", "never"), False),
        ({"NO_COLOR": "1"}, ("--color", "always"), True),
        ({"NO_COLOR": "1"}, ("--color=always",), True),
        ({"NO_COLOR": "1", "VALKEY_BOOTSTRAP_COLOR": "always"}, (), True),
    ],
)
def test_colors(command: Command, environment: dict[str, str], args: tuple[str, ...], colored: bool) -> None:
    chosen = with_environment(command, **environment)
    assert ("\x1b[" in chosen.ok("--dry-run", *args)) is colored
    assert ("\x1b[" in chosen.fails(2, "--nodes", 0, *args)) is colored


def test_marks_are_ascii_where_the_encoding_is(cluster: Command) -> None:
    plain = with_environment(cluster, PYTHONIOENCODING="ascii")
    for args in (SPEC, ("status",), ("--dry-run",)):
        done = plain(*args)
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).isascii()
    assert "ok Proved by every node" in plain(*SPEC).stderr
    assert "✓ Proved by every node" in with_environment(cluster, PYTHONIOENCODING="utf-8")(*SPEC).stderr


# The dry run.


def test_the_text_of_a_plan(command: Command) -> None:
    # Made by: python -m bootstrap --nodes 5 --replicas 1 --dry-run
    assert command.ok("--nodes", 5, "--replicas", 1, "--dry-run") == (GOLDEN / "dry-run.txt").read_text()


def test_a_plan_is_the_same_every_time(command: Command) -> None:
    args = ("--nodes", 12, "--replicas", 2, "--zones", "a,b,c", "--base-port", "auto", "--dry-run")
    first = command.ok(*args, "-v", "--output", "json")
    assert command.ok(*args, "-v", "--output", "json") == first
    commands = [each["command"] for each in json.loads(first)["commands"]]
    assert sum(text.startswith("CLUSTER REPLICATE") for text in commands) == 8


GUARD = """
import os, sys

def guard(event, args):
    changes = event in (
        "subprocess.Popen", "os.posix_spawn", "os.fork", "os.exec", "os.system", "os.mkdir", "os.rename", "os.remove",
        "os.rmdir", "socket.bind", "socket.connect", "tempfile.mkdtemp", "tempfile.mkstemp",
    )
    writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if changes or writes:
        sys.stderr.write(f"{event} {args}")
        os._exit(99)

sys.addaudithook(guard)
from bootstrap.cli import main
sys.exit(main())
"""


def guarded(command: Command, *args: str | int) -> subprocess.CompletedProcess[str]:
    # No server on the PATH, and -B: Python's own cache files are not the command's.
    argv = [sys.executable, "-B", "-c", GUARD, *map(str, args)]
    env = {**command.env(), "PATH": "/nonexistent", "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, env=env)


def test_a_dry_run_touches_nothing(command: Command) -> None:
    done = guarded(command, "--nodes", 5, "--replicas", 1, "--dry-run", "-v")
    assert (done.returncode, done.stderr) == (0, "")
    assert not command.root.exists()
    form = guarded(command, "form", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "--dry-run")
    assert (form.returncode, form.stderr) == (0, "")
    # The guard itself: a creation is stopped at its first step.
    assert guarded(command, "--nodes", 5, "--replicas", 1).returncode == 99


def test_a_survey_looks_and_changes_nothing(cluster: Command) -> None:
    before = nodes(cluster)
    text = cluster.ok(*SPEC, "--dry-run", "--survey")
    assert [address(node) for node in before] == [line.split()[3] for line in text.splitlines() if "  + v" in line]
    assert nodes(cluster) == before
    cluster.fails(4, "--nodes", 5, "--dry-run", "--survey")
