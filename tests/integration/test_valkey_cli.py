"""docs/valkey-cli.md: every command and option of `valkey-cli --cluster` has its row, and what the row says is done."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from .conftest import Command, Line, ask, nodes_known_to, setting, until
from .servers import Server, Servers

# One cluster, and the rows in their order.
pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("valkey-cli")]

PAGE = Path(__file__).parents[2] / "docs" / "valkey-cli.md"
PROGRAM = "valkey-bootstrap "
KEYS = 200


def read_rows() -> dict[str, list[str]]:
    """First cell -> the commands of the second one."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", PAGE.read_text().partition("\n## ")[0], re.MULTILINE)
    return {there: re.findall(r"`([^`]+)`", here) for there, here in rows if not there.startswith("valkey-cli")}


ROWS = read_rows()


@dataclass
class Witness:
    """Servers at the addresses of the page, and valkey-cli, which says what has come of them."""

    command: Command
    servers: Servers
    cli: str
    there: dict[str, Server] = field(default_factory=dict)

    def server(self, port: str | int) -> Server:
        """The one that the page has at this port."""
        if str(port) not in self.there:
            self.there[str(port)] = self.servers.start("repl-diskless-sync-delay", "0")
        return self.there[str(port)]

    def placed(self, text: str) -> str:
        """The text with addresses of servers that run."""
        return re.sub(r"127\.0\.0\.1:(70\d\d)", lambda found: self.server(found[1]).address, text)

    def run(self, row: str) -> list[subprocess.CompletedProcess[str]]:
        """The commands of a row, as they are printed."""
        assert all(line.startswith(PROGRAM) for line in ROWS[row]), ROWS[row]
        done = [self.command(*shlex.split(self.placed(line))[1:], timeout=100) for line in ROWS[row]]
        for each in done:
            assert "Traceback" not in each.stderr, each.stderr
        return done

    def ok(self, row: str) -> list[str]:
        """The same, all of which end with 0: what they print."""
        done = self.run(row)
        assert [each.returncode for each in done] == [0] * len(done), [each.stderr for each in done]
        return [each.stdout for each in done]

    def ask(self, *words: str) -> str:
        """What valkey-cli says on a manager's command for the cluster."""
        return subprocess.run(
            [self.cli, "--cluster", words[0], self.server(7001).address, *words[1:]],
            capture_output=True, text=True, timeout=60, check=False,
        ).stdout  # fmt: skip

    def check(self) -> str:
        """What `valkey-cli --cluster check` says; it must find nothing."""
        said = self.ask("check")
        assert "[OK] All nodes agree about slots configuration." in said, said
        assert "[OK] All 16384 slots covered." in said, said
        assert "[WARNING]" not in said, said
        return said

    def owned(self, port: str | int) -> int:
        """How many slots the server has by the first one's word."""
        return len(self.slots(port))

    def slots(self, port: str | int) -> set[int]:
        """The slots that the server has by the first one's word."""
        pairs = (text.partition("-") for text in self.line(port).slots)
        return {slot for first, _, last in pairs for slot in range(int(first), int(last or first) + 1)}

    def line(self, port: str | int) -> Line:
        """The server's line in the first one's CLUSTER NODES."""
        there = self.server(port).port
        (found,) = [line for line in nodes_known_to(self.server(7001).port).values() if line.port == there]
        return found


@pytest.fixture(scope="module")
def world(shared_command: Command, tmp_path_factory: pytest.TempPathFactory, valkey_cli: str) -> Iterator[Witness]:
    """The cluster of the row about `create`, with some keys."""
    servers = Servers(tmp_path_factory.mktemp("servers"))
    try:
        found = Witness(shared_command, servers, valkey_cli)
        found.ok("create --cluster-replicas")
        with redis.RedisCluster(port=found.server(7001).port, host="127.0.0.1") as client:
            for number in range(KEYS):
                client.set(f"key{number}", number)
        yield found
    finally:
        servers.close()


@pytest.fixture
def cluster(world: Witness) -> Iterator[Witness]:
    """The same, in good order before and after each test, with all its keys."""
    world.check()
    yield world
    world.check()
    with redis.RedisCluster(port=world.server(7001).port, host="127.0.0.1") as client:
        assert [client.get(f"key{number}") for number in range(KEYS)] == [b"%d" % number for number in range(KEYS)]


def test_the_table_has_every_command_and_option_and_no_other(valkey_cli: str) -> None:
    done = subprocess.run([valkey_cli, "--cluster", "help"], capture_output=True, text=True, check=False)
    told, command = set(), ""
    for line in done.stdout.partition("\n\n")[0].splitlines()[1:]:
        if found := re.match(r"  (\S+)", line):
            told.add(command := found[1])
        elif found := re.match(r"\s+(--\S+)", line):
            told.add(f"{command} {found[1]}")
    assert set(ROWS) == told


def test_every_row_with_a_command_is_run_below() -> None:
    source = Path(__file__).read_text()
    assert [row for row, commands in ROWS.items() if commands and f'ok("{row}")' not in source] == []


def test_create(cluster: Witness) -> None:
    cluster.ok("create")
    three = [cluster.server(port) for port in (7011, 7012, 7013)]
    lines = {line.port: line.slots for line in nodes_known_to(three[0].port).values()}
    # The ranges that valkey-cli gives three primaries.
    assert [lines[each.port] for each in three] == [("0-5460",), ("5461-10922",), ("10923-16383",)]
    assert cluster.check().count("1 additional replica(s)") == 3


def test_check_and_info(cluster: Witness) -> None:
    told, _ = cluster.ok("check")
    assert "6 of 6 nodes answered" in told
    # What they say of slots with two owners: test_doctor.py.
    assert "slots-twice" not in cluster.ok("check --cluster-search-multiple-owners")[0]
    assert "slots-twice" not in cluster.ok("fix --cluster-search-multiple-owners")[0]
    _, sizes = cluster.ok("info")
    assert sum(map(int, re.findall(r"(\d+)$", sizes, re.MULTILINE))) == KEYS
    assert f"[OK] {KEYS} keys in 3 primaries." in cluster.ask("info")


def test_fix_finishes_what_is_half_moved(cluster: Witness) -> None:
    slot = ask(cluster.server(7001).port, "CLUSTER", "KEYSLOT", "key1")
    (owner,) = [port for port in (7001, 7002, 7003) if slot in cluster.slots(port)]
    target = next(port for port in (7001, 7002, 7003) if port != owner)
    ask(cluster.server(target).port, "CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.line(owner).id)
    ask(cluster.server(owner).port, "CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.line(target).id)
    assert "[WARNING]" in cluster.ask("check")
    cluster.ok("fix")
    assert slot in cluster.slots(target)


def test_reshard(cluster: Witness) -> None:
    before = cluster.owned(7002)
    cluster.ok("reshard")
    assert cluster.owned(7002) == before + 100
    cluster.ok("reshard --cluster-from")
    assert cluster.owned(7002) == before + 60
    cluster.ok("reshard --cluster-to")
    assert cluster.owned(7002) == before + 80
    cluster.ok("reshard --cluster-slots")
    slots = {*range(10), 100}
    assert slots <= cluster.slots(7003)
    assert "11 slots to move. Nothing was changed." in cluster.ok("reshard --cluster-yes")[0]
    assert slots <= cluster.slots(7003)
    cluster.ok("reshard --cluster-timeout")
    assert slots <= cluster.slots(7001)


def test_rebalance(cluster: Witness) -> None:
    cluster.ok("rebalance --cluster-weight")
    owned = [cluster.owned(port) for port in (7001, 7002, 7003)]
    assert [round(number / 16384 * 3.5, 2) for number in owned] == [2, 0.5, 1]
    assert "Nothing was changed" in cluster.ok("rebalance --cluster-simulate")[0]
    assert [cluster.owned(port) for port in (7001, 7002, 7003)] == owned
    assert "No rebalancing needed" not in cluster.ask("rebalance", "--cluster-simulate")
    cluster.ok("rebalance")
    assert "No rebalancing needed" in cluster.ask("rebalance", "--cluster-simulate")
    cluster.ok("rebalance --cluster-timeout")
    cluster.ok("rebalance --cluster-threshold")
    shares = [cluster.owned(port) for port in (7001, 7002, 7003)]
    assert max(shares) - min(shares) <= 1


def test_nodes_come_and_go(cluster: Witness) -> None:
    cluster.ok("add-node")
    assert "[OK] 200 keys in 4 primaries." in cluster.ask("info")
    assert abs(cluster.owned(7007) - 4096) <= 1
    cluster.ok("add-node --cluster-replica")
    # It follows the one primary that had no replica yet.
    assert cluster.line(7008).primary == cluster.line(7007).id
    cluster.ok("add-node --cluster-primaries-id")
    assert cluster.line(7009).primary == cluster.line(7002).id
    assert cluster.check().count("2 additional replica(s)") == 1
    cluster.ok("del-node")
    assert len(nodes_known_to(cluster.server(7001).port)) == 6
    for port in (7007, 7008, 7009):
        assert len(nodes_known_to(cluster.server(port).port)) == 1
        assert ask(cluster.server(port).port, "DBSIZE") == 0


def test_an_empty_primary_gets_its_share(cluster: Witness) -> None:
    """As valkey-cli's `add-node` leaves one."""
    done = subprocess.run(
        [cluster.cli, "--cluster", "add-node", cluster.server(7010).address, cluster.server(7001).address],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    until(lambda: all(len(nodes_known_to(cluster.server(port).port)) == 7 for port in (*range(7001, 7007), 7010)))
    cluster.check()
    cluster.ok("rebalance --cluster-use-empty-primaries")
    assert abs(cluster.owned(7010) - 4096) <= 1
    assert "No rebalancing needed" in cluster.ask("rebalance", "--cluster-simulate", "--cluster-use-empty-primaries")
    cluster.command.ok("remove-node", "--address", cluster.server(7001).address, cluster.server(7010).address)


def test_call_and_settings(cluster: Witness) -> None:
    assert cluster.ok("call")[0].count("PONG") == 6
    assert cluster.ok("call --cluster-only-primaries")[0].count("master") == 3
    assert cluster.ok("call --cluster-only-replicas")[0].count("slave") == 3
    cluster.ok("set-timeout")
    assert {setting(cluster.server(port).port, "cluster-node-timeout") for port in range(7001, 7007)} == {"5000"}


def test_help(cluster: Witness) -> None:
    (told,) = cluster.ok("help")
    assert "add-node" in told


def test_a_primary_that_is_gone_is_given_up_last(world: Witness) -> None:
    """It ends the cluster of the other tests, and so it comes last."""
    (replica,) = [port for port in (7004, 7005, 7006) if world.line(port).primary == world.line(7003).id]
    world.command.ok(
        "remove-node", "--address", world.server(7001).address, world.server(replica).address, "--fewer-replicas"
    )
    world.command.ok(
        "call", "--address", world.server(7001).address, "--", "CONFIG", "SET", "cluster-node-timeout", "1000"
    )
    world.server(7003).end()
    until(lambda: "fail" in world.line(7003).flags)
    world.ok("fix --cluster-fix-with-unreachable-primaries")
    world.check()
    assert len(nodes_known_to(world.server(7001).port)) == 4
