"""`holdfast k8s submit`."""

import json
from dataclasses import replace
from pathlib import Path

import yaml

from holdfast_operator.cli.cluster import Where, connected
from holdfast_operator.cli.manifest import Choice, namespace_in, read_manifest


async def submit(where: Where, file: Path, choice: Choice, *, dry_run: bool, force: bool, as_json: bool) -> None:
    """By server-side apply, once a dry run of it went well: either all of it is taken, or nothing.

    Raises:
        UserError: the file is wrong, or the cluster refuses it.
        JobFailedError: the cluster does not answer.
    """
    async with connected(replace(where, namespace=where.namespace or namespace_in(file))) as cluster:
        manifest = read_manifest(file, choice, cluster.namespace)
        path = f"{cluster.jobs}/{manifest['metadata']['name']}"
        await cluster.knows_jobs()
        made = await cluster.apply(path, manifest, dry_run=True, force=force)
        if not dry_run:
            made = await cluster.apply(path, manifest, force=force)
    name = made["metadata"]["name"]
    if dry_run:
        print(
            json.dumps(manifest) if as_json else yaml.safe_dump(manifest, sort_keys=False),
            end="" if not as_json else "\n",
        )
    elif as_json:
        print(json.dumps({"job": name, "namespace": cluster.namespace, "uid": made["metadata"]["uid"]}))
    else:
        print(f"{name} is submitted to namespace {cluster.namespace}; holdfast k8s status {name}")
