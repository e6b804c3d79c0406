"""TLS between agents: each shows a certificate of the job's authority, and takes only such."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files. The certificate names the address at which peers reach the agent."""

    certificate: Path
    key: Path
    authority: Path


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises: UserError: a file cannot be used."""
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), files)


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises: UserError: a file cannot be used."""
    return _load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), files)


def _load(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    for option, path in (("--tls-cert", files.certificate), ("--tls-key", files.key), ("--tls-ca", files.authority)):
        if not path.is_file():
            raise UserError(f"{option} {path}: there is no such file; should be a PEM file")
    try:
        context.load_verify_locations(cafile=files.authority)
    except ssl.SSLError as error:
        raise UserError(f"--tls-ca {files.authority}: {error}; should hold PEM certificates") from error
    except OSError as error:
        raise UserError(f"--tls-ca {files.authority}: cannot be read: {error.strerror}") from error
    try:
        # Without a password of its own, an encrypted key would have OpenSSL ask for one on the terminal.
        context.load_cert_chain(files.certificate, files.key, password=lambda: b"")
    except ssl.SSLError as error:
        raise UserError(
            f"--tls-cert {files.certificate}, --tls-key {files.key}: {error}; "
            "should be a PEM certificate and its key, not encrypted"
        ) from error
    except OSError as error:
        raise UserError(f"--tls-cert {files.certificate}, --tls-key {files.key}: {error.strerror}") from error
    return context
