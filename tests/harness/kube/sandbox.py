"""Runs in a process of its own: the inside of a pod, of a container, or of a command in one.

Only the standard library, for it has to start quickly. The root of a container is a throw-away overlay over this
machine's own, in which nothing of /tmp and /run shows but what the image and the volumes bring.

    sandbox.py hold HOSTNAME       what a pod's containers share: network, host name, IPC; told "up", waits to be killed
    sandbox.py run PLAN FD         a container; tells its first process's pid to FD, then, if it cannot start, why
    sandbox.py enter PLAN PID      the plan's command within the container whose first process is PID
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x20000000, 0x40000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_PR_SET_PDEATHSIG = 1
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}
_CANNOT_START = 128


def hold(hostname: str) -> None:
    _die_with_parent()
    _check(_LIBC.unshare(_NEWNET | _NEWUTS | _NEWIPC), "unshare")
    os.write(1, b"up\n")
    Path("/proc/sys/kernel/hostname").write_text(hostname, encoding="ascii")
    signal.pause()


def run(plan: dict[str, Any], told: int) -> None:
    """The exit code is the container's, 128 and more if a signal ended it."""
    os.set_inheritable(told, False)  # exec closes it, which tells that the container runs
    _die_with_parent()
    for kind in ("net", "uts", "ipc"):
        _join(plan["pod_pid"], kind)
    _check(_LIBC.unshare(_NEWNS | _NEWPID), "unshare")
    child = os.fork()
    if child == 0:
        try:
            _contain(plan)
        except OSError as error:
            os.write(told, f"{error}\n".encode())
        os._exit(_CANNOT_START)

    def forward(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    signal.signal(signal.SIGTERM, forward)
    os.write(told, f"{child}\n".encode())
    os.close(told)
    _end_as(child)


def enter(plan: dict[str, Any], pid: int) -> None:
    _die_with_parent()
    root = os.open(f"/proc/{pid}/root", os.O_PATH)
    for kind in ("net", "uts", "ipc", "pid", "mnt"):
        _join(pid, kind)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    child = os.fork()
    if child == 0:
        try:
            _become(plan)
        except OSError as error:
            os.write(2, f"{error}\n".encode())
        os._exit(_CANNOT_START)
    _end_as(child)


def _contain(plan: dict[str, Any]) -> None:
    """As the first process of the container: build its root, go in, and become its command."""
    os.setsid()
    _mount("none", "/", flags=_REC | _PRIVATE)
    root = _overlay(Path(plan["scratch"]))
    for name, mode in (("tmp", "1777"), ("run", "755")):
        _mount("tmpfs", root / name, kind="tmpfs", options=f"mode={mode}")
    _mount("proc", root / "proc", kind="proc")
    _mount("/sys", root / "sys", flags=_BIND | _REC)
    _devices(root / "dev")
    images = [{"target": path} for path in plan["image_paths"]]
    # Outer folders before what lies in them: a volume over /tmp must not hide an image's folder below it.
    for mount in sorted([*images, *plan["mounts"]], key=lambda one: len(Path(one["target"]).parts)):
        if len(mount) == 1:
            _show(root, Path(mount["target"]))
        else:
            _mount_volume(root, mount)
    for name, text in plan["files"].items():
        _inside(root, name).write_text(text, encoding="utf-8")
    _inside(root, plan["cwd"]).mkdir(parents=True, exist_ok=True)
    if plan["readonly_root"]:
        _mount("none", root, flags=_REMOUNT | _BIND | _RDONLY)
    os.chroot(root)
    _become(plan)


def _overlay(scratch: Path) -> Path:
    scratch.mkdir(exist_ok=True)
    _mount("tmpfs", scratch, kind="tmpfs", options="mode=755")
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    _mount("overlay", root, kind="overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    return root


def _devices(folder: Path) -> None:
    _mount("tmpfs", folder, kind="tmpfs", options="mode=755")
    for name in _DEVICES:
        (folder / name).touch()
        _mount(f"/dev/{name}", folder / name, flags=_BIND)
    for name, target in _LINKS.items():
        (folder / name).symlink_to(target)
    (folder / "shm").mkdir()
    _mount("tmpfs", folder / "shm", kind="tmpfs", options="mode=1777,size=64m")  # as container runtimes have it


def _show(root: Path, path: Path) -> None:
    """A folder of the image, where it lies on this machine; whoever the container runs as may go there."""
    inside = _inside(root, str(path))
    inside.mkdir(parents=True, exist_ok=True)
    for above in path.parents[:-1]:
        here = _inside(root, str(above))
        if not here.stat().st_mode & 0o001:
            here.chmod(here.stat().st_mode | 0o111)
    _mount(path, inside, flags=_BIND | _REC)
    _mount("none", inside, flags=_REMOUNT | _BIND | _RDONLY)


def _mount_volume(root: Path, mount: dict[str, Any]) -> None:
    inside = _inside(root, mount["target"])
    if "memory" in mount:
        inside.mkdir(parents=True, exist_ok=True)
        _mount("tmpfs", inside, kind="tmpfs", options=mount["memory"])
        return
    source = Path(mount["source"])
    if source.is_dir():
        inside.mkdir(parents=True, exist_ok=True)
    else:
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.touch()
    _mount(source, inside, flags=_BIND | _REC)
    if mount["readonly"]:
        _mount("none", inside, flags=_REMOUNT | _BIND | _RDONLY)


def _inside(root: Path, path: str) -> Path:
    """Where `path` lies seen from here; a link of the container, such as /var/run, leads nowhere out of it."""
    here, names = root, [name for name in reversed(path.split("/")) if name]
    while names:
        name = names.pop()
        if not (here / name).is_symlink():
            here /= name
            continue
        target = (here / name).readlink()
        names += [part for part in reversed(target.parts) if part != "/"]
        here = root if target.is_absolute() else here
    return here


def _become(plan: dict[str, Any]) -> None:
    os.chdir(plan["cwd"])
    os.setgroups(plan["groups"])
    os.setgid(plan["gid"])
    os.setuid(plan["uid"])
    _die_with_parent()  # only now: the kernel forgets it when the user changes
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # which Python ignores
    os.execvpe(plan["argv"][0], plan["argv"], plan["env"])


def _end_as(child: int) -> None:
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def _die_with_parent() -> None:
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")


def _join(pid: int, kind: str) -> None:
    with Path(f"/proc/{pid}/ns/{kind}").open() as there:
        _check(_LIBC.setns(there.fileno(), 0), f"setns {kind}")


def _mount(source: object, target: object, *, kind: str = "none", flags: int = 0, options: str = "") -> None:
    arguments = [str(text).encode() for text in (source, target, kind)]
    _check(_LIBC.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None), f"mount {target}")


def _check(code: int, what: str) -> None:
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _main(role: str, first: str, *rest: str) -> None:
    if role == "hold":
        hold(first)
        return
    plan = json.loads(Path(first).read_text(encoding="utf-8"))
    {"run": run, "enter": enter}[role](plan, int(rest[0]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
