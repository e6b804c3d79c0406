"""Secrets and the store's credentials: from the environment or files, never from an argument, where `ps` shows them.

HOLDFAST_SECRET or HOLDFAST_SECRET_FILE                        the job's secret
HOLDFAST_STORE_USER with HOLDFAST_STORE_PASSWORD               etcd's user; each also as a file, ..._FILE
HOLDFAST_STORE_CA, HOLDFAST_STORE_CERT, HOLDFAST_STORE_KEY     PEM files for etcd over TLS
HOLDFAST_STORE_TLS                                             or a folder with ca.crt and, maybe, tls.crt and tls.key
"""

import os
import stat
from pathlib import Path

from holdfast.agent.credentials import SECRET_BYTES_MIN
from holdfast.errors import UserError
from holdfast.stores.address import StoreAccess

SECRET = "HOLDFAST_SECRET"
_SECRET_BYTES_MAX = 4096
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def read_secret() -> bytes:
    """The job's secret, taken out of the environment, where workers and what they start would inherit it.

    Raises:
        UserError: there is none, it is too short, or others may read its file.
    """
    secret = _take(SECRET)
    if secret is None:
        raise UserError(
            f"{SECRET}, {SECRET}_FILE: neither is set; every agent and command of a job needs its secret, such as "
            "`openssl rand -hex 32` prints"
        )
    if len(secret) < SECRET_BYTES_MIN:
        raise UserError(f"{SECRET}: has {len(secret)} bytes; should have at least {SECRET_BYTES_MIN}")
    return secret


def read_access(secret: bytes) -> StoreAccess:
    """What opens the store. Raises: UserError: a file cannot be used, or half of a pair is missing."""
    user, password = _take("HOLDFAST_STORE_USER"), _take("HOLDFAST_STORE_PASSWORD")
    folder = _path("HOLDFAST_STORE_TLS")
    return StoreAccess(
        secret=secret,
        user=user.decode() if user is not None else None,
        password=password.decode() if password is not None else None,
        ca=_path("HOLDFAST_STORE_CA") or _in(folder, "ca.crt"),
        certificate=_path("HOLDFAST_STORE_CERT") or _in(folder, "tls.crt"),
        key=_path("HOLDFAST_STORE_KEY") or _in(folder, "tls.key"),
    )


def read_private(path: Path, what: str) -> bytes:
    """The content of a file that only this user may read, without white space around it. One of root's that nobody may
    write may be for a group besides: so Kubernetes mounts a Secret for a user other than root.

    Raises:
        UserError: it cannot be read, or others may.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            mode = status.st_mode
            allowed = stat.S_IRGRP if status.st_uid == 0 and not mode & _WRITABLE else 0
            if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~allowed:
                raise UserError(
                    f"{what} {path}: has mode {stat.S_IMODE(mode):04o}, so others may read it; chmod 600 {path}"
                )
            content = file.read(_SECRET_BYTES_MAX + 1).strip()
    except OSError as error:
        raise UserError(f"{what} {path}: cannot be read: {error.strerror}") from error
    if len(content) > _SECRET_BYTES_MAX:
        raise UserError(f"{what} {path}: is longer than {_SECRET_BYTES_MAX} bytes; is it the right file?")
    return content


def _take(name: str) -> bytes | None:
    """NAME, or the content of the file NAME_FILE."""
    value, file = os.environ.pop(name, None), os.environ.get(f"{name}_FILE")
    if value and file:
        raise UserError(f"{name}, {name}_FILE: both are set; set one of them")
    if file:
        return read_private(Path(file), f"{name}_FILE")
    return value.encode() if value else None


def _path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


def _in(folder: Path | None, name: str) -> Path | None:
    """As a mounted Secret of the type kubernetes.io/tls has them; what it lacks is not used."""
    return folder / name if folder is not None and (folder / name).exists() else None
