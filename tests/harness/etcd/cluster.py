"""A three-member etcd cluster on loopback, and a hand that kills its members in turn."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.etcd.server import EtcdServer, etcd_program

# How long a member stays dead, and how long all are left alone after it came back.
_DOWN_S = 0.7
_UP_S = 0.3


class EtcdCluster:
    def __init__(self, folder: Path) -> None:
        self.members = [EtcdServer(f"member-{number}", folder) for number in range(3)]

    @property
    def endpoints(self) -> tuple[tuple[str, int], ...]:
        return tuple(member.endpoint for member in self.members)

    def start(self, member: EtcdServer) -> None:
        member.start([one.peer for one in self.members])

    def revive(self) -> None:
        """All running, thawed and healthy, whether or not they were."""
        for member in self.members:
            if not member.is_started:
                self.start(member)
            member.thaw()
        self.wait_healthy()

    def wait_healthy(self) -> None:
        for member in self.members:
            member.wait_healthy()


@contextmanager
def running_cluster(folder: Path) -> Iterator[EtcdCluster]:
    etcd_program()
    cluster = EtcdCluster(folder)
    try:
        for member in cluster.members:
            cluster.start(member)
        cluster.wait_healthy()
        yield cluster
    finally:
        for member in cluster.members:
            member.kill()


class Rotation:
    """Kills one member after the other with SIGKILL, and the next only when the last is back: a quorum always lives."""

    def __init__(self, cluster: EtcdCluster) -> None:
        self.kills: Counter[str] = Counter()
        self._cluster = cluster
        self._stopped = threading.Event()
        # Held through each kill and what follows it, until the member is back.
        self._turn = threading.Lock()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="etcd-rotation")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once all members are back."""
        self._stopped.set()
        self._thread.join()
        if self._trouble is not None:
            raise self._trouble

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """All members are back and none is killed meanwhile: a new leader begins every lease's time anew, so that
        under a hand that never rests a lease need not end."""
        with self._turn:
            yield

    def killed_each(self, times: int) -> bool:
        """Whether every member was killed and came back at least `times` times."""
        if self._trouble is not None:
            raise self._trouble
        return all(self.kills[member.name] >= times for member in self._cluster.members)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                for member in self._cluster.members:
                    with self._turn:
                        member.kill()
                        self._stopped.wait(_DOWN_S)
                        self._cluster.start(member)
                        self._cluster.wait_healthy()
                    self.kills[member.name] += 1
                    if self._stopped.wait(_UP_S):
                        break
        except BaseException as trouble:  # The thread's boundary: the test that stops us raises it.
            self._trouble = trouble


@contextmanager
def rotating(cluster: EtcdCluster) -> Iterator[Rotation]:
    rotation = Rotation(cluster)
    rotation.start()
    try:
        yield rotation
    finally:
        rotation.stop()
