"""Certificates for tests of TLS."""

from pathlib import Path

import trustme


class Authority:
    """Signs certificates; everything lies in `folder` as PEM files."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._authority = folder, trustme.CA()
        self.certificate = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.certificate)

    def issue(self, name: str, address: str = "127.0.0.1") -> tuple[Path, Path]:
        """(certificate, key) of a server and client at `address`."""
        certificate, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        issued = self._authority.issue_cert(address)
        issued.private_key_pem.write_to_path(key)
        issued.cert_chain_pems[0].write_to_path(certificate)
        return certificate, key
