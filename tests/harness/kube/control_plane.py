"""A real control plane on this machine: etcd, API server, controller manager, scheduler, as envtest finds them."""

import os
import shutil
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.etcd.server import EtcdServer, etcd_program
from harness.kube.credentials import MASTERS, Access, Keys
from harness.server_process import ServerProcess, free_ports

_USUAL_FOLDER = Path("/usr/local/kubebuilder/bin")
_API, _CONTROLLERS, _SCHEDULER = "kube-apiserver", "kube-controller-manager", "kube-scheduler"
_SERVICE_ADDRESSES = "10.96.0.0/16"


def program(name: str) -> Path:
    """In KUBEBUILDER_ASSETS, else where kubebuilder puts its own, else on PATH; skips the test if there is none."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    for folder in (Path(named) if named else None, _USUAL_FOLDER):
        if folder is not None and os.access(folder / name, os.X_OK):
            return folder / name
    on_path = shutil.which(name)
    if on_path is not None:
        return Path(on_path)
    pytest.skip(
        f"no {name} in KUBEBUILDER_ASSETS ({named or 'unset'}), {_USUAL_FOLDER} or PATH; a release of Kubernetes has "
        "it among its server binaries"
    )


class _Component(ServerProcess):
    """One of the control plane's programs; started again it has the same command."""

    def __init__(self, name: str, folder: Path, flags: Sequence[str], health: str) -> None:
        super().__init__(name, folder / f"{name}.log")
        self._command, self._health = [str(program(name)), *flags], health

    def start(self) -> None:
        self._launch(self._command)

    def wait_healthy(self, access: Access) -> None:
        handler = urllib.request.HTTPSHandler(context=access.ssl_context())
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
        self._wait_until(lambda: _answers(opener, self._health))


class ControlPlane:
    """`grace_s`: a node that is silent for so long is NotReady."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", grace_s: int = 8) -> None:
        self.folder, self.host = folder, host
        self.keys = Keys(folder / "keys")
        self.etcd = EtcdServer("kubernetes", folder)
        ports = dict(zip((_API, _CONTROLLERS, _SCHEDULER), free_ports(3), strict=True))
        self.server = f"https://{host}:{ports[_API]}"
        self.port = ports[_API]
        self._certificate, self._key = self.keys.server("kube-apiserver", host, "127.0.0.1", "10.96.0.1", "localhost")
        self.admin = self.access("admin", [MASTERS])
        self.kubeconfig = self.admin.kubeconfig(folder / "admin.kubeconfig")
        flags = {
            _API: self._api_flags(),
            _CONTROLLERS: self._controller_flags(grace_s),
            _SCHEDULER: self._client_flags(_SCHEDULER),
        }
        self._components = {
            name: _Component(
                name,
                folder,
                [*flags[name], f"--bind-address={host}", f"--secure-port={port}", *self._serving_flags()],
                f"https://{host}:{port}/{'readyz' if name == _API else 'healthz'}",
            )
            for name, port in ports.items()
        }

    def access(self, user: str, groups: Sequence[str] = ()) -> Access:
        """As a user with a certificate of the cluster's authority."""
        certificate, key = self.keys.user(user, groups)
        return Access(server=self.server, ca=self.keys.ca, certificate=certificate, key=key)

    def start(self, *, controllers: bool = True) -> None:
        """Without `controllers` there is etcd and the API server alone: nothing happens by itself."""
        self.etcd.start()
        self.etcd.wait_healthy()
        self.start_api()
        names = (_CONTROLLERS, _SCHEDULER) if controllers else ()
        for name in names:
            self._components[name].start()
        for name in names:
            self._components[name].wait_healthy(self.admin)

    def start_api(self) -> None:
        self._components[_API].start()
        self._components[_API].wait_healthy(self.admin)

    def stop_api(self) -> None:
        """The API server is gone, with all its connections; controllers and scheduler wait for it."""
        self._components[_API].kill()

    @contextmanager
    def without_api(self) -> Iterator[None]:
        """It is back at the end, whatever happened meanwhile."""
        self.stop_api()
        try:
            yield
        finally:
            self.start_api()

    def stop(self) -> None:
        for component in self._components.values():
            component.kill()
        self.etcd.kill()

    def _serving_flags(self) -> list[str]:
        return [f"--tls-cert-file={self._certificate}", f"--tls-private-key-file={self._key}"]

    def _api_flags(self) -> list[str]:
        kubelet_certificate, kubelet_key = self.keys.user("kube-apiserver-kubelet-client", [MASTERS])
        host, port = self.etcd.endpoint
        return [
            f"--etcd-servers=http://{host}:{port}",
            f"--advertise-address={self.host}",
            "--endpoint-reconciler-type=none",  # a loopback address is refused as an endpoint
            f"--client-ca-file={self.keys.ca}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.keys.token_key}",
            f"--service-account-signing-key-file={self.keys.token_key}",
            f"--service-cluster-ip-range={_SERVICE_ADDRESSES}",
            f"--kubelet-client-certificate={kubelet_certificate}",
            f"--kubelet-client-key={kubelet_key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--shutdown-delay-duration=0s",
            "--profiling=false",
        ]

    def _controller_flags(self, grace_s: int) -> list[str]:
        return [
            *self._client_flags(_CONTROLLERS),
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={self.keys.token_key}",
            f"--root-ca-file={self.keys.ca}",
            f"--cluster-signing-cert-file={self.keys.ca}",
            f"--cluster-signing-key-file={self.keys.ca_key}",
            "--node-monitor-period=500ms",
            f"--node-monitor-grace-period={grace_s}s",
        ]

    def _client_flags(self, name: str) -> list[str]:
        kubeconfig = self.access(f"system:{name}").kubeconfig(self.folder / f"{name}.kubeconfig")
        return [
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]


def _answers(opener: urllib.request.OpenerDirector, url: str) -> bool:
    try:
        with opener.open(url, timeout=2.0) as reply:
            return bool(reply.status == 200)
    except OSError:  # URLError is one
        return False


@contextmanager
def running_control_plane(
    folder: Path, *, host: str = "127.0.0.1", grace_s: int = 8, controllers: bool = True
) -> Iterator[ControlPlane]:
    """Skips the test, saying what is missing, where the programs are not there."""
    etcd_program()
    plane = ControlPlane(folder, host=host, grace_s=grace_s)
    try:
        plane.start(controllers=controllers)
        yield plane
    finally:
        plane.stop()
