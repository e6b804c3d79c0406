"""`holdfast k8s drain|suspend|resume|scale`: what is wanted of a job is changed, and the operator sees to it."""

import json

from holdfast.errors import UserError
from holdfast_operator.api.v1alpha1 import KIND
from holdfast_operator.api.v1alpha1.names import ANNOTATION_DRAIN, LABEL_JOB
from holdfast_operator.cli.cluster import Cluster, RefusedError, Where, connected

_DRAIN_S = 30.0


async def drain(where: Where, pod: str, within_s: float | None, *, as_json: bool) -> None:
    """Raises: UserError: there is no such pod, or it is no node of a job."""
    async with connected(where) as cluster:
        job = await _job_of(cluster, pod)
        seconds = _DRAIN_S if within_s is None else within_s
        change = {"metadata": {"annotations": {ANNOTATION_DRAIN: f"{seconds:g}"}}}
        await cluster.change(f"{cluster.pods}/{pod}", change)
    if as_json:
        print(json.dumps({"node": pod, "job": job, "grace_s": seconds}))
    else:
        print(f"{pod} of {job} leaves at a step boundary, within {seconds:g} s")


async def _job_of(cluster: Cluster, pod: str) -> str:
    try:
        found = await cluster.get(f"{cluster.pods}/{pod}")
    except RefusedError as error:
        if error.status != 404:
            raise
        raise UserError(f"{pod}: there is no pod of that name in namespace {cluster.namespace}") from error
    job = found["metadata"].get("labels", {}).get(LABEL_JOB)
    if not job:
        raise UserError(f"{pod}: is no node of an {KIND}; it has no label {LABEL_JOB}")
    return str(job)


async def suspend(where: Where, name: str, *, wanted: bool, as_json: bool) -> None:
    """`wanted` False: go on. Raises: UserError: there is no such job."""
    async with connected(where) as cluster:
        before = (await cluster.job(name))["spec"].get("suspend", False)
        await cluster.change(f"{cluster.jobs}/{name}", {"spec": {"suspend": wanted}})
    if as_json:
        print(json.dumps({"job": name, "suspend": wanted, "already": before == wanted}))
    elif before == wanted:
        print(f"{name} is {'suspended' if wanted else 'not suspended'} already")
    else:
        print(f"{name} writes a checkpoint and frees its pods" if wanted else f"{name} goes on")


async def scale(where: Where, name: str, nodes: int, *, as_json: bool) -> None:
    """Raises: UserError: there is no such job, or it may not have so many."""
    async with connected(where) as cluster:
        wanted = (await cluster.job(name))["spec"].get("nodes", {})
        least, most = wanted.get("min", 1), wanted.get("max")
        if not least <= nodes <= (most or nodes):
            raise UserError(f"NODES {nodes}: spec.nodes of {name} allows {least} to {most}; change that first")
        await cluster.change(f"{cluster.jobs}/{name}/scale", {"spec": {"replicas": nodes}})
    print(json.dumps({"job": name, "nodes": nodes}) if as_json else f"{name} is to have {nodes} nodes")
