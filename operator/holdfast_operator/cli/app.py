"""`holdfast k8s`: jobs on Kubernetes, from the command line. Loaded by `holdfast` through the entry points of its group
`holdfast.commands`; the Kubernetes client is imported only by a command that needs it."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="k8s",
    help="Submit, watch and change jobs on Kubernetes, run by the operator (`pip install 'holdfast\\[operator]'`).",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(metavar="JOB", help="The ElasticJob's name.", show_default=False)]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="By default the context's.", show_default=False)
]
Context = Annotated[str | None, typer.Option(metavar="NAME", help="Of the kubeconfig; by default its current one.")]
Kubeconfig = Annotated[
    Path | None, typer.Option(metavar="FILE", help="By default KUBECONFIG, else ~/.kube/config, else the pod's own.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


@app.command()
def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An ElasticJob, or a job spec of the runtime.", show_default=False)
    ],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="In place of the file's.")] = None,
    image: Annotated[str | None, typer.Option(metavar="IMAGE", help="With Holdfast and the Program in it.")] = None,
    nodes: Annotated[str | None, typer.Option(metavar="MAX|MIN:MAX", help="How many nodes, each a pod.")] = None,
    etcd: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="Of the rendezvous; again for more.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="URL", help="For checkpoints and final weights: s3://BUCKET/PREFIX.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, metavar="N", help="Of each pod, and so many slots.")] = None,
    cpu: Annotated[str | None, typer.Option(metavar="AMOUNT", help="That each pod asks for, such as 500m.")] = None,
    memory: Annotated[str | None, typer.Option(metavar="AMOUNT", help="That each pod may use, such as 8Gi.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Have it checked, print it, and change nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take over fields that others set, `kubectl` say.")] = False,
    as_json: Json = False,
) -> None:
    """Make an ElasticJob of FILE, or change the one that is there. The cluster checks all of it first."""
    from holdfast_operator.cli.cluster import Where
    from holdfast_operator.cli.manifest import Choice, parse_nodes
    from holdfast_operator.cli.submitting import submit as submit_job

    choice = Choice(
        name=name,
        image=image,
        nodes=parse_nodes(nodes) if nodes is not None else None,
        etcd=tuple(etcd or ()),
        state=state,
        gpus=gpus,
        cpu=cpu,
        memory=memory,
    )
    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    _run(submit_job(where, file, choice, dry_run=dry_run, force=force, as_json=as_json))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[JOB]", help="All of the namespace without it.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Show a job's conditions and nodes."""
    from holdfast_operator.cli.cluster import Where
    from holdfast_operator.cli.showing import show_status

    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    _run(show_status(where, name, as_json=as_json))


@app.command()
def logs(
    name: Name,
    node: Annotated[str | None, typer.Option(metavar="POD", help="Of this one alone.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False,
    tail: Annotated[int | None, typer.Option(min=0, metavar="N", help="The last lines of each pod.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON each, with its pod.")] = False,
) -> None:
    """Print what the agents of all pods say, each line behind its pod's name."""
    from holdfast_operator.cli.cluster import Where
    from holdfast_operator.cli.following import Wanted, show_logs

    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    wanted = Wanted(job=name, pod=node, follow=follow, tail=tail)
    _run(show_logs(where, wanted, as_json=as_json))


@app.command()
def drain(
    node: Annotated[str, typer.Argument(metavar="POD", help="The node that is to leave.", show_default=False)],
    within: Annotated[float | None, typer.Option(min=0, metavar="SECONDS", help="By then; 30 by default.")] = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Have a node leave at a step boundary. `kubectl annotate pod POD holdfast.dev/drain=SECONDS` does the same."""
    from holdfast_operator.cli.changing import drain as drain_pod
    from holdfast_operator.cli.cluster import Where

    _run(drain_pod(Where(namespace=namespace, context=context, kubeconfig=kubeconfig), node, within, as_json=as_json))


@app.command()
def events(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON an event.")] = False,
) -> None:
    """Print what the operator and the cluster told of a job and its pods."""
    from holdfast_operator.cli.cluster import Where
    from holdfast_operator.cli.showing import show_events

    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    _run(show_events(where, name, follow=follow, as_json=as_json))


@app.command()
def suspend(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Have a job write a checkpoint and free every pod, until it is resumed."""
    from holdfast_operator.cli.changing import suspend as suspend_job
    from holdfast_operator.cli.cluster import Where

    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    _run(suspend_job(where, name, wanted=True, as_json=as_json))


@app.command()
def resume(
    name: Name,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Have a suspended job go on from where it was."""
    from holdfast_operator.cli.changing import suspend as suspend_job
    from holdfast_operator.cli.cluster import Where

    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    _run(suspend_job(where, name, wanted=False, as_json=as_json))


@app.command()
def scale(
    name: Name,
    nodes: Annotated[int, typer.Argument(min=1, metavar="NODES", help="How many are wanted.", show_default=False)],
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    as_json: Json = False,
) -> None:
    """Have a job run on so many nodes, between its least and its most. `kubectl scale` does the same."""
    from holdfast_operator.cli.changing import scale as scale_job
    from holdfast_operator.cli.cluster import Where

    where = Where(namespace=namespace, context=context, kubeconfig=kubeconfig)
    _run(scale_job(where, name, nodes, as_json=as_json))
