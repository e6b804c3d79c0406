"""The hollow nodes of the operator's benchmark: a process of their own, so that who measures does not wait for them.

    python -m benchmarks.harness.hollow_side SERVER CA CERTIFICATE KEY --nodes N

Nodes that run the jobs' pods, and two that stand apart, for the one job that tolerates them.
"""

import argparse
import asyncio
from pathlib import Path

from harness.kube.api import Api
from harness.kube.credentials import Access
from harness.kube.hollow import hollow_nodes

APART = "example.org/apart"
APART_NODES = ("apart-0", "apart-1")
_PODS = {"cpu": "1000", "memory": "1000Gi", "pods": "110"}  # as many as a node usually takes
_HEARTBEAT_S = 5.0


def access_of(arguments: argparse.Namespace) -> Access:
    return Access(server=arguments.server, ca=arguments.ca, certificate=arguments.certificate, key=arguments.key)


def access_words(access: Access) -> list[str]:
    """As `access_parser` reads them."""
    return [access.server, str(access.ca), str(access.certificate), str(access.key)]


def access_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    made.add_argument("server")
    for name in ("ca", "certificate", "key"):
        made.add_argument(name, type=Path)
    return made


async def _run(access: Access, count: int) -> None:
    names = [f"hollow-{number:02}" for number in range(count)]
    taint = {"key": APART, "effect": "NoSchedule"}
    async with (
        Api(access) as api,
        hollow_nodes(api, names, capacity=_PODS, heartbeat_s=_HEARTBEAT_S),
        hollow_nodes(api, APART_NODES, labels={APART: "yes"}, taints=[taint], capacity=_PODS, heartbeat_s=_HEARTBEAT_S),
    ):
        await asyncio.get_running_loop().create_future()  # until it is killed


def main() -> None:
    made = access_parser()
    made.add_argument("--nodes", type=int, required=True)
    arguments = made.parse_args()
    asyncio.run(_run(access_of(arguments), arguments.nodes))


if __name__ == "__main__":
    main()
