"""An engine of a test's own, which may die and whose disk may be full.

It runs in namespaces of its own: a second engine on this machine's network would delete the first one's bridge and
firewall rules. Ending the first process of its namespaces ends all of it, with the servers in its containers.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import docker
import psutil
from docker.errors import DockerException
from docker.models.networks import Network

from .conftest import Command, lacking, require_root, until
from .containers import Containers, image_of, make

_SETUP = """
set -e
ip link set lo up
hostname "$3"
mkdir -p /run/containerd
mount -t tmpfs tmpfs /run/containerd
mount -t tmpfs -o "size=$2" tmpfs "$1/data"
echo ready
# Until the tests are gone, whatever ended them; the shell collects the children of those that end before it.
read -r _ || true
"""


PORT = 2375
"""Where it can be asked over TCP."""
HOSTNAME = "b1946ac92492"
"""What it calls itself: as Docker in Docker, the container's id."""


def into(pid: int) -> tuple[str, ...]:
    """What a program of a process's network is started with."""
    return ("nsenter", "--target", str(pid), "--net")


@dataclass(frozen=True, slots=True)
class Inside(Command):
    """The command in the network of a process."""

    pid: int = 0

    def argv(self, *args: str | float | Path) -> list[str]:
        """The whole command line."""
        return [*into(self.pid), *super(Inside, self).argv(*args)]


class OwnEngine:
    """An engine that keeps its data in memory.

    Args:
        folder: for its socket and its log; a short path.
        pid: the first process of its namespaces.
    """

    def __init__(self, folder: Path, pid: int) -> None:
        self.folder, self.pid = folder, pid
        self.host = f"unix://{folder}/sock"
        self.client = docker.DockerClient(self.host, version="1.41", timeout=20)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def cgroup(self) -> str:
        """The parent of its containers' control groups."""
        return f"valkey-bootstrap-{self.folder.name}"

    def start(self) -> None:
        """Start it, when the one that is told to end has ended, and wait until it answers."""
        if self._process is not None:
            self._process.wait(30)
        # On the network of the other engine it would delete what that one made.
        assert not Path(f"/proc/{self.pid}/ns/net").samefile("/proc/self/ns/net")
        (self.folder / "daemon.json").write_text("{}")
        argv = [
            "dockerd",
            *("--config-file", f"{self.folder}/daemon.json"),
            *("--data-root", f"{self.folder}/data"),
            *("--exec-root", f"{self.folder}/exec"),
            *("--pidfile", f"{self.folder}/pid"),
            *("--host", self.host),
            # For whom `plugged` lets in; where no other interface is there is nobody to hear it.
            *("--host", f"tcp://0.0.0.0:{PORT}", "--tls=false"),
            *("--cgroup-parent", f"/{self.cgroup}"),
            # With the other one a parent would have to be a slice of systemd.
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
        ]
        with (self.folder / "log").open("ab") as log:
            # A session of its own: a Ctrl-C is meant for the tests.
            self._process = subprocess.Popen(
                ["nsenter", "--target", str(self.pid), "--net", "--uts", "--mount", "--pid", *argv],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        until(self._answers, 30)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-2000:]
        # The SDK leaves a socket open that it could not connect.
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(f"{self.folder}/sock") != 0:
                return False
        with suppress(DockerException, OSError):
            return self.client.ping()
        return False

    def call(self, name: str) -> None:
        """Let it call itself something else than a container does."""
        subprocess.run(["nsenter", "--target", str(self.pid), "--uts", "hostname", name], check=True, timeout=10)

    def end(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """Tell it to end, by default as a crash does: its containers run on."""
        assert self._process is not None
        (dockerd,) = psutil.Process(self._process.pid).children()
        dockerd.send_signal(signum)

    def ensure(self) -> None:
        """Start it, if it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            self.start()

    def fill(self, left: int) -> None:
        """Leave so many KiB of its file system."""
        filler = f"{self.folder}/data/filler"
        # The first one stops at the end of the space.
        script = f"dd if=/dev/zero of={filler} bs=64k 2>&-; truncate -s -{left}K {filler}"
        self.in_its_mounts("sh", "-c", script)

    def fill_up(self) -> None:
        """Leave nothing of its file system, for a second: a file that is replaced gives the old one's page back.

        With a single free page a server can save its node's file for ever.
        """
        self.fill(0)
        again = f"cat /dev/zero 2>&- >>{self.folder}/data/filler"
        self.in_its_mounts("sh", "-c", f"for _ in $(seq 100); do {again}; sleep 0.01; done")

    def make_room(self) -> None:
        """Take that back."""
        self.in_its_mounts("rm", "-f", f"{self.folder}/data/filler")

    def close(self) -> None:
        """Clear away what is left when its namespaces are gone."""
        self.client.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        # The control groups of its containers are empty, and nobody else removes them.
        groups = Path("/sys/fs/cgroup")
        # One hierarchy, or one of each controller.
        for top in (groups / self.cgroup, *groups.glob(f"*/{self.cgroup}")):
            for each in sorted((top, *(path for path in top.rglob("*") if path.is_dir())), reverse=True):
                with suppress(FileNotFoundError):
                    each.rmdir()

    def in_its_mounts(self, *argv: str) -> str:
        """What a program prints that sees the files of the engine."""
        return subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", *argv], check=True, capture_output=True, text=True
        ).stdout

    def containers(self, root: Path) -> Containers:
        """The command for a cluster of this engine, on the engine's own network."""
        made = make(self.client, root, DOCKER_HOST=self.host)
        return Containers(Inside(root, made.command.environment, self.pid), made.name, self.client)


@contextmanager
def own_engine(engine: docker.DockerClient, *, size: str = "300m") -> Iterator[OwnEngine]:
    """An engine with the image of Valkey 9.1; root only.

    Args:
        engine: the one that has the image.
        size: of the file system with its data, in the words of mount.
    """
    require_root()
    for program in ("dockerd", "unshare", "nsenter"):
        if shutil.which(program) is None:
            lacking("docker", f"there is no {program}")
    # Sockets have paths of at most 108 characters, and some of its are deep.
    folder = Path(tempfile.mkdtemp(prefix="vb", dir="/tmp"))
    for name in ("data", "exec"):
        (folder / name).mkdir()
    namespaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
    with subprocess.Popen(
        ["unshare", *namespaces, "bash", "-c", _SETUP, "own-engine", str(folder), size, HOSTNAME],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as first:  # fmt: skip
        assert first.stdin is not None
        assert first.stdout is not None
        try:
            assert first.stdout.readline() == b"ready\n"
            (child,) = psutil.Process(first.pid).children()
            own = OwnEngine(folder, child.pid)
            try:
                own.start()
                saved = engine.images.get(image_of("valkey-9.1")).save(named=image_of("valkey-9.1"))
                own.client.images.load(b"".join(saved))
                yield own
            finally:
                child.kill()
                # The kernel lets the first process of a namespace end when all others have; until then their control
                # groups are busy.
                first.wait(20)
                own.close()
        finally:
            first.stdin.close()
            shutil.rmtree(folder)


@contextmanager
def plugged(own: OwnEngine, network: Network) -> Iterator[str]:
    """The engine on a network of the other engine, as one in a container there would be; its address."""
    network.reload()
    subnet = ip_network(network.attrs["IPAM"]["Config"][0]["Subnet"])
    # The other engine gives its containers the lowest ones.
    address, here = str(subnet[-2]), f"vbe{own.pid}"
    try:
        for words in (
            ("ip", "link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", str(own.pid)),
            ("ip", "link", "set", here, "master", f"br-{str(network.id)[:12]}", "up"),
            (*into(own.pid), "ip", "address", "add", f"{address}/{subnet.prefixlen}", "dev", "eth0"),
            (*into(own.pid), "ip", "link", "set", "eth0", "up"),
            (*into(own.pid), "ip", "route", "add", "default", "via", str(subnet[1])),
        ):
            subprocess.run(words, check=True, capture_output=True, timeout=10)
        yield address
    finally:
        subprocess.run(["ip", "link", "delete", here], check=False, capture_output=True, timeout=10)
