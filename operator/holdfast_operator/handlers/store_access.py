"""What opens a job's rendezvous: read by name from the Secrets that it names, in its own namespace."""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import UserError
from holdfast.stores.address import StoreAccess, StoreAddress, parse_store
from holdfast_operator.api.v1alpha1.elastic_job import Rendezvous
from holdfast_operator.api.v1alpha1.names import store_prefix
from holdfast_operator.handlers.client import SECRETS, Cluster
from holdfast_operator.handlers.errors import NotFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlace:
    """Where a rendezvous is and which Secrets open it: jobs for which these are the same share one connection."""

    address: StoreAddress
    namespace: str
    tls_secret: str | None
    credentials_secret: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSecrets:
    """What the Secrets hold, by entry."""

    tls: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def place_of(rendezvous: Rendezvous, namespace: str) -> StorePlace:
    """Raises: UserError: an endpoint or the prefix cannot be used."""
    scheme = "etcds" if rendezvous.tls_secret is not None else "etcd"
    prefix = store_prefix(rendezvous.prefix, namespace)
    try:
        address = parse_store(f"{scheme}://{','.join(rendezvous.endpoints)}/{prefix}")
    except UserError as error:
        raise UserError(f"spec.rendezvous: {error}") from error
    return StorePlace(
        address=address,
        namespace=namespace,
        tls_secret=rendezvous.tls_secret.name if rendezvous.tls_secret is not None else None,
        credentials_secret=rendezvous.credentials_secret.name if rendezvous.credentials_secret is not None else None,
    )


async def read_secrets(cluster: Cluster, place: StorePlace) -> StoreSecrets:
    """Raises:
    UserError: a Secret is missing, or lacks what it should hold.
    ClusterError: the API server does not give it.
    """
    tls: Mapping[str, bytes] = {}
    credentials: Mapping[str, bytes] = {}
    if place.tls_secret is not None:
        tls = await _read(cluster, place.namespace, "tlsSecret", place.tls_secret, ("ca.crt",))
    if place.credentials_secret is not None:
        wanted = ("username", "password")
        credentials = await _read(cluster, place.namespace, "credentialsSecret", place.credentials_secret, wanted)
    return StoreSecrets(tls=tls, credentials=credentials)


def access_from(secrets: StoreSecrets, folder: Path) -> StoreAccess:
    """Certificates go into files below `folder`, which is this process' alone: the store's client reads such.

    Raises: UserError: half of a pair is missing, or a user's name is no text.
    """
    paths = {name: _write(folder / name, content) for name, content in secrets.tls.items()}
    try:
        user, password = (secrets.credentials.get(name, b"").decode().strip() for name in ("username", "password"))
    except UnicodeDecodeError as error:
        raise UserError("spec.rendezvous.credentialsSecret: username and password should be UTF-8") from error
    return StoreAccess(
        user=user or None,
        password=password or None,
        ca=paths.get("ca.crt"),
        certificate=paths.get("tls.crt"),
        key=paths.get("tls.key"),
    )


async def _read(
    cluster: Cluster, namespace: str, field_name: str, name: str, wanted: tuple[str, ...]
) -> dict[str, bytes]:
    where = f"spec.rendezvous.{field_name}: Secret {namespace}/{name}"
    try:
        data = (await cluster.get(SECRETS, namespace, name)).get("data") or {}
    except NotFoundError as error:
        raise UserError(f"{where} does not exist; create it, with {' and '.join(wanted)}") from error
    missing = [entry for entry in wanted if not data.get(entry)]
    if missing:
        raise UserError(f"{where} has no {' and no '.join(missing)}; add what is missing")
    names = (*wanted, *(("tls.crt", "tls.key") if field_name == "tlsSecret" else ()))
    try:
        return {entry: base64.b64decode(data[entry]) for entry in names if data.get(entry)}
    except binascii.Error as error:
        raise UserError(f"{where} cannot be read: {error}") from error


def _write(path: Path, content: bytes) -> Path:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    return path
