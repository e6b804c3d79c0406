"""A pod's volumes: folders on this machine, filled once when the pod starts, that its containers then mount."""

import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from harness.kube.environment import Object, Sources, quantity

Token = Callable[[Mapping[str, Any]], Awaitable[str]]  # of the pod's service account, as a projection asks for it


class Volumes:
    """`folder` is the pod's own. An emptyDir in memory is a new one for each container, of the size asked for."""

    def __init__(self, folder: Path, pod: Object) -> None:
        self._folder = folder
        self._volumes: dict[str, Object] = {one["name"]: one for one in pod["spec"].get("volumes", ())}
        security = pod["spec"].get("securityContext") or {}
        self._group: int | None = security.get("fsGroup")

    async def fill(self, sources: Sources, token: Token) -> None:
        """Raises: MissingReferenceError: to be tried again."""
        for name, volume in self._volumes.items():
            folder = self._folder / name
            folder.mkdir(parents=True, exist_ok=True)
            match volume:
                case {"emptyDir": _}:
                    folder.chmod(0o777)
                case {"secret": secret}:
                    _write(folder, _selected(sources.secret(secret), secret), secret.get("defaultMode", 0o644))
                case {"configMap": config}:
                    _write(folder, _selected(sources.config(config), config), config.get("defaultMode", 0o644))
                case {"downwardAPI": downward}:
                    _write(folder, _downward(downward, sources), downward.get("defaultMode", 0o644))
                case {"projected": projected}:
                    for one in projected["sources"]:
                        _write(folder, await _projected(one, sources, token), projected.get("defaultMode", 0o644))
                case {"hostPath": _}:
                    continue
                case _:
                    raise ValueError(f"the test kubelet has no volumes such as {volume}")
            self._give_to_group(folder)

    def mounts(self, container: Object) -> list[Object]:
        """For the sandbox."""
        return [self._mount(one) for one in container.get("volumeMounts", ())]

    def _mount(self, mount: Object) -> Object:
        volume = self._volumes[mount["name"]]
        target = {"target": mount["mountPath"], "readonly": bool(mount.get("readOnly"))}
        if "emptyDir" in volume and volume["emptyDir"].get("medium") == "Memory":
            limit = volume["emptyDir"].get("sizeLimit")
            return {**target, "memory": "mode=1777" + (f",size={int(quantity(limit))}" if limit else "")}
        source = Path(volume["hostPath"]["path"]) if "hostPath" in volume else self._folder / mount["name"]
        if "hostPath" in volume and volume["hostPath"].get("type") == "DirectoryOrCreate":
            source.mkdir(parents=True, exist_ok=True)
        readonly = target["readonly"] or not {"emptyDir", "hostPath"} & volume.keys()
        return {**target, "readonly": readonly, "source": str(source / mount.get("subPath", ""))}

    def _give_to_group(self, folder: Path) -> None:
        """As fsGroup says: its members may read all of it, and write where it is not read-only."""
        if self._group is None:
            return
        for here, _, files in os.walk(folder):
            os.chown(here, -1, self._group)
            os.chmod(here, os.stat(here).st_mode | 0o2770)
            for name in files:
                os.chown(Path(here) / name, -1, self._group)
                os.chmod(Path(here) / name, os.stat(Path(here) / name).st_mode | 0o440)


def _write(folder: Path, files: Mapping[str, bytes], mode: int) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)


def _selected(data: Mapping[str, bytes], reference: Mapping[str, Any]) -> dict[str, bytes]:
    """All of it, or only `items`, under their paths."""
    if "items" not in reference:
        return dict(data)
    return {one["path"]: data[one["key"]] for one in reference["items"] if one["key"] in data}


def _downward(downward: Mapping[str, Any], sources: Sources) -> dict[str, bytes]:
    return {one["path"]: sources.field(one["fieldRef"]["fieldPath"]).encode() for one in downward.get("items", ())}


async def _projected(source: Mapping[str, Any], sources: Sources, token: Token) -> dict[str, bytes]:
    match dict(source):
        case {"secret": secret}:
            return _selected(sources.secret(secret), secret)
        case {"configMap": config}:
            return _selected(sources.config(config), config)
        case {"downwardAPI": downward}:
            return _downward(downward, sources)
        case {"serviceAccountToken": wanted}:
            return {wanted["path"]: (await token(wanted)).encode()}
    raise ValueError(f"the test kubelet has no projection such as {dict(source)}")
