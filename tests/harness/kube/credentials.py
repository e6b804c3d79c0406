"""Certificates and keys of one control plane, and who may speak to it as whom."""

import base64
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml

MASTERS = "system:masters"  # members may do everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An API server and a user of it: by certificate, or by token."""

    server: str
    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None

    def ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context

    def kubeconfig(self, path: Path) -> Path:
        """Written to `path`, everything within."""
        user: dict[str, str] = {} if self.token is None else {"token": self.token}
        for field, file in (("client-certificate-data", self.certificate), ("client-key-data", self.key)):
            if file is not None:
                user[field] = _base64(file)
        cluster = {"server": self.server, "certificate-authority-data": _base64(self.ca)}
        written = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(written), encoding="utf-8")
        return path


class Keys:
    """One authority signs everything; all of it lies in `folder` as PEM files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._authority = folder, trustme.CA()
        self.ca, self.ca_key = folder / "ca.crt", folder / "ca.key"
        self._authority.cert_pem.write_to_path(self.ca)
        self._authority.private_key_pem.write_to_path(self.ca_key)
        # With which service accounts' tokens are signed, and so checked.
        self.token_key = folder / "tokens.key"
        trustme.CA().private_key_pem.write_to_path(self.token_key)

    def server(self, name: str, *addresses: str) -> tuple[Path, Path]:
        """(certificate, key) of a server at these addresses and DNS names."""
        return self._issue(name, self._authority.issue_cert(*addresses, common_name=name))

    def user(self, name: str, groups: Sequence[str] = ()) -> tuple[Path, Path]:
        """(certificate, key) that the API server takes for this user, in at most one group."""
        assert len(groups) <= 1, f"a certificate names one group here; {name} has {groups}"
        group = groups[0] if groups else None
        file = name.replace(":", ".")
        return self._issue(file, self._authority.issue_cert(file, common_name=name, organization_name=group))

    def _issue(self, file: str, issued: trustme.LeafCert) -> tuple[Path, Path]:
        certificate, key = self._folder / f"{file}.crt", self._folder / f"{file}.key"
        issued.cert_chain_pems[0].write_to_path(certificate)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
