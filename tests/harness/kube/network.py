"""A network that pods share, in namespaces of its own: each pod has an address, and all ports for itself.

Control plane, kubelet and tests stand at its gateway. Whoever takes a pod's wire away has it vanish without a word.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.netns.network import enter_namespace, ip_batch, kept_namespace

GATEWAY = "10.88.0.1"
_BRIDGE = "pods"
_SELF = Path("/proc/thread-self/ns/net")


class PodNetwork:
    def __init__(self, namespace: Path) -> None:
        self._namespace = namespace
        self._numbers = itertools.count(0)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread, and whatever it starts meanwhile, is at the gateway."""
        with _SELF.open() as before, self._namespace.open() as there:
            enter_namespace(there.fileno())
            try:
                yield
            finally:
                enter_namespace(before.fileno())

    def wire(self, pid: int) -> str:
        """The address that this process's network namespace gets; to be called inside."""
        number = next(self._numbers)
        address = f"10.88.{number // 250}.{number % 250 + 2}"
        name = _wire_name(address)
        with Path(f"/proc/{pid}/ns/net").open() as there, _SELF.open() as here:
            ip_batch([f"link add {name} type veth peer name eth0 netns {pid}", f"link set {name} master {_BRIDGE} up"])
            enter_namespace(there.fileno())
            try:
                ip_batch(
                    [
                        f"addr add {address}/16 dev eth0",
                        "link set eth0 up",
                        "link set lo up",
                        f"route add default via {GATEWAY}",
                    ]
                )
            finally:
                enter_namespace(here.fileno())
        return address

    def cut(self, address: str) -> None:
        """Nothing passes to or from there any more; neither end is told."""
        ip_batch([f"link set {_wire_name(address)} down"])


def _wire_name(address: str) -> str:
    return "w" + address.split(".", 2)[2].replace(".", "-")


@contextmanager
def pod_network() -> Iterator[PodNetwork]:
    """Skips the test where this machine allows no such thing."""
    missing = [program for program in ("ip", "unshare") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"no pods: {' and '.join(missing)} not found; install iproute2 and util-linux")
    if os.geteuid() != 0:
        pytest.skip("no pods: they need mount and network namespaces of their own; run the tests as root")
    with kept_namespace() as namespace:
        network = PodNetwork(namespace)
        try:
            with network.inside():
                ip_batch(
                    [
                        f"link add {_BRIDGE} type bridge",
                        f"addr add {GATEWAY}/16 dev {_BRIDGE}",
                        f"link set {_BRIDGE} up",
                    ]
                )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no pods: a bridge cannot be made here: {error}")
        yield network
