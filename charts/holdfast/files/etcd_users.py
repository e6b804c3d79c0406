"""Gives etcd its users: root, and one for jobs that may read and write below a prefix. Safe to run again.

Speaks to etcd's JSON gateway with the standard library alone, so that any image with Python can run it.
"""

import base64
import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FAILED_PRECONDITION = 9  # gRPC's code for "authentication is not enabled"
REQUEST_TIMEOUT_S = 10.0


class RefusedError(Exception):
    """etcd understood, and said no."""

    def __init__(self, path: str, code: int, message: str) -> None:
        super().__init__(f"etcd refused {path}: {message}")
        self.code = code


class Etcd:
    def __init__(self, url: str) -> None:
        self._url = url
        self._headers = {"Content-Type": "application/json"}

    def call(self, path: str, **fields: Any) -> dict[str, Any]:
        """Raises: RefusedError; OSError: it cannot be reached."""
        body = json.dumps(fields).encode()
        request = urllib.request.Request(f"{self._url}/v3/{path}", data=body, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=REQUEST_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            told = json.load(error)
            raise RefusedError(path, told.get("code", 0), told.get("message", error.reason)) from error

    def become(self, name: str, password: str) -> bool:
        """Whether users are asked for at all; if so, what follows is done as this one."""
        try:
            token = self.call("auth/authenticate", name=name, password=password)["token"]
        except RefusedError as refused:
            if refused.code == FAILED_PRECONDITION:
                return False
            raise
        self._headers["Authorization"] = token
        return True

    def knows(self, name: str, password: str) -> bool:
        try:
            return bool(self.call("auth/authenticate", name=name, password=password))
        except RefusedError:
            return False

    def give_user(self, name: str, password: str, role: str) -> None:
        """Nothing is written that stands already: a change of a user ends its logins, those of running jobs."""
        if name not in self.call("auth/user/list").get("users", []):
            self.call("auth/user/add", name=name, password=password)
        elif not self.knows(name, password):
            self.call("auth/user/changepw", name=name, password=password)
        if role not in self.call("auth/user/get", name=name).get("roles", []):
            self.call("auth/user/grant", user=name, role=role)

    def give_role(self, role: str) -> None:
        if role not in self.call("auth/role/list").get("roles", []):
            self.call("auth/role/add", name=role)

    def give_prefix(self, role: str, prefix: str) -> None:
        first, end = _encoded(prefix.encode()), _encoded(_after(prefix.encode()))
        permission = {"permType": "READWRITE", "key": first, "range_end": end}
        if permission not in self.call("auth/role/get", role=role).get("perm", []):
            self.call("auth/role/grant", name=role, perm=permission)


def _encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _after(prefix: bytes) -> bytes:
    """The first key that is above every one that begins with `prefix`, which is ASCII and not empty."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def set_users(etcd: Etcd, passwords: dict[str, str], prefix: str) -> None:
    """`passwords`: `username`, `password` and `root-password`, as the Secret has them."""
    is_enabled = etcd.become("root", passwords["root-password"])
    etcd.give_role("root")
    etcd.give_user("root", passwords["root-password"], "root")
    etcd.give_role("holdfast")
    etcd.give_prefix("holdfast", prefix)
    etcd.give_user(passwords["username"], passwords["password"], "holdfast")
    if not is_enabled:
        etcd.call("auth/enable")


def main() -> None:
    folder = Path(os.environ["PASSWORDS"])
    passwords = {name: (folder / name).read_text().strip() for name in ("username", "password", "root-password")}
    deadline = time.monotonic() + float(os.environ["TIMEOUT_S"])
    while True:
        try:
            return set_users(Etcd(os.environ["ETCD_URL"]), passwords, os.environ["PREFIX"])
        except RefusedError as refused:
            trouble: Exception = refused
        except OSError as error:  # not up yet
            trouble = error
        if time.monotonic() > deadline:
            sys.exit(f"gave up: {trouble}")
        time.sleep(1.0)


if __name__ == "__main__":
    main()
