"""Hosts in network namespaces of their own, each wired to one router that silently drops what is cut.

Everything is gone when this process is: each namespace lives as long as a program that waits on a pipe of ours.
"""

import ctypes
import itertools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_SELF = Path("/proc/thread-self/ns/net")
_ROUTER = "router"
_LIBC = ctypes.CDLL(None, use_errno=True)


class Network:
    """Of `names`, in that order; host number i (from 1) is 10.77.i.2."""

    def __init__(self, names: Sequence[str], namespaces: dict[str, Path]) -> None:
        self._addresses = {name: f"10.77.{number}.2" for number, name in enumerate(names, start=1)}
        self._namespaces = namespaces

    def address(self, name: str) -> str:
        return self._addresses[name]

    @contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """This thread, and whatever it starts meanwhile, is on that host."""
        with _SELF.open() as before, self._namespaces[name].open() as there:
            enter_namespace(there.fileno())
            try:
                yield
            finally:
                enter_namespace(before.fileno())

    def cut(self, *sides: Iterable[str]) -> None:
        """From now on nothing passes between a host of one side and one of another; neither end is told."""
        for here, there in itertools.permutations(sides, 2):
            self._rules(f"from {self.address(a)} to {self.address(b)}" for a, b in itertools.product(here, there))

    def isolate(self, name: str) -> None:
        self.cut([name], self._addresses.keys() - {name})

    def heal(self) -> None:
        """Everything passes again. With nothing cut it does nothing."""
        with self.inside(_ROUTER):
            cuts = [line.split(":", 1) for line in _ip("rule", "list").splitlines() if line.endswith("blackhole")]
            ip_batch(f"rule del pref {priority}" for priority, _ in cuts)

    def _rules(self, selectors: Iterable[str]) -> None:
        with self.inside(_ROUTER):
            # blackhole, and not unreachable: the sender hears nothing.
            ip_batch(f"rule add {selector} blackhole" for selector in selectors)


@contextmanager
def network(names: Sequence[str]) -> Iterator[Network]:
    """Skips the test where this machine allows no such thing."""
    missing = [program for program in ("ip", "unshare") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no network namespaces: {' and '.join(missing)} not found; install iproute2 and util-linux")
    with ExitStack() as held:
        namespaces = {name: held.enter_context(kept_namespace()) for name in (_ROUTER, *names)}
        made = Network(names, namespaces)
        try:
            _wire_all(made, namespaces)
            made.cut(names[:1], names[1:])  # what a test needs later is tried now
            made.heal()
        except OSError as error:
            pytest.skip(f"network namespaces cannot be wired here: {error}")
        yield made


@contextmanager
def kept_namespace() -> Iterator[Path]:
    """The file of a new namespace, kept by a process that ends with us."""
    keeper = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        if keeper.stdout.readline() != "up\n":
            pytest.skip(f"no network namespaces: {keeper.stderr.read().strip()}; run the tests as root")
        try:
            yield Path(f"/proc/{keeper.pid}/ns/net")
        finally:
            keeper.kill()  # the end of its input, which any forked process may hold open, is not to be relied on


def _wire_all(made: Network, namespaces: dict[str, Path]) -> None:
    for number, (name, namespace) in enumerate(namespaces.items()):
        if name == _ROUTER:
            continue
        near = [f"link add to{number} type veth peer name wire netns {namespace.parts[2]}"]
        near += [f"addr add 10.77.{number}.1/24 dev to{number}", f"link set to{number} up"]
        far = [
            f"addr add {made.address(name)}/24 dev wire",
            "link set wire up",
            f"route add default via 10.77.{number}.1",
        ]
        for host, commands in ((_ROUTER, near), (name, far)):
            with made.inside(host):
                ip_batch(commands)
    with made.inside(_ROUTER):
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1", encoding="ascii")


def ip_batch(commands: Iterable[str]) -> None:
    _ip("-batch", "-", told="\n".join(commands))


def _ip(*arguments: str, told: str = "") -> str:
    ended = subprocess.run(["ip", *arguments], input=told, capture_output=True, text=True, timeout=30, check=False)
    if ended.returncode != 0:
        raise OSError(f"ip said {ended.stderr.strip()!r} to {told!r}")
    return ended.stdout


def enter_namespace(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
