"""Certificates for etcd, read and tried before anything connects: gRPC itself only fails later, and says little."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The contents of PEM files. Without `ca` the public authorities that gRPC brings along are trusted."""

    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)


def read_tls(*, ca: Path | None, certificate: Path | None, key: Path | None) -> TlsFiles:
    """`certificate` and `key` come together or not at all.

    Raises:
        UserError: a file cannot be read or used, or the key is not the certificate's.
    """
    files = TlsFiles(ca=_read("ca", ca), certificate=_read("certificate", certificate), key=_read("key", key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca is not None:
        try:
            context.load_verify_locations(cafile=ca)
        except (ssl.SSLError, OSError) as error:
            raise UserError(f"store access: ca {str(ca)!r} holds no usable certificate ({error}); give PEM") from error
    if certificate is not None and key is not None:
        try:
            # An empty passphrase instead of a question on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise UserError(
                f"store access: certificate {str(certificate)!r} and key {str(key)!r} cannot be used together "
                f"({error}); give a PEM certificate and its PEM key, without a passphrase"
            ) from error
    return files


def _read(name: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"store access: {name} {str(path)!r} cannot be read ({error.strerror}); give a PEM file"
        ) from error
