"""`holdfast keep`: the agent of a machine whose scripts save through torch.distributed.checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.arguments import Address, LogJson, StoreUrl, TlsAuthority, TlsCertificate, TlsKey
from holdfast.cli.arguments import bandwidth as bytes_a_second
from holdfast.cli.arguments import memory as memory_bytes

app = typer.Typer()


@app.command()
def keep(
    name: Annotated[
        str, typer.Option(metavar="NAME", help="The same on all machines that keep for each other: a-z, 0-9 and '-'.")
    ],
    store: StoreUrl,
    node: Annotated[str, typer.Option(metavar="ID", envvar="HOLDFAST_NODE", help="This machine's name.")],
    address: Address,
    socket: Annotated[
        Path, typer.Option(metavar="PATH", envvar="HOLDFAST_AGENT", help="Where the scripts find it; a unix socket.")
    ],
    listen: Annotated[str | None, typer.Option(metavar="HOST", help="Listen there instead, such as 0.0.0.0.")] = None,
    domain: Annotated[
        str | None, typer.Option(envvar="HOLDFAST_DOMAIN", help="Failure domain; the machine itself by default.")
    ] = None,
    copies: Annotated[
        int, typer.Option(min=0, help="Of each blob, on machines of other failure domains; the same everywhere.")
    ] = 1,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="BYTES", help="A second that copies may take of the network, such as 500MB.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="BYTES", help="For saves and copies; half of the machine's RAM by default."),
    ] = None,
    lease: Annotated[
        float, typer.Option(min=0.5, metavar="SECONDS", help="After so long a silence it counts as gone.")
    ] = 10.0,
    forget: Annotated[
        float, typer.Option(min=0.1, metavar="HOURS", help="A save that is so old goes; the same everywhere.")
    ] = 24.0,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_ca: TlsAuthority = None,
    as_json: LogJson = False,
) -> None:
    """Keep in RAM what scripts on this machine save through holdfast_checkpoint.dcp, with copies on other machines.

    Scripts find it by HOLDFAST_AGENT=PATH. It outlives them, and belongs to no job. SIGTERM or Ctrl-C ends it, and what
    it holds is gone.
    """
    from holdfast.agent.keeper import KeeperOptions, run_keeper
    from holdfast.cli.access import read_access, read_secret
    from holdfast.cli.serving import check_job, check_node, listening_at, tls_files
    from holdfast.stores.address import parse_store
    from holdfast.telemetry.logs import set_up_logging

    secret = read_secret()
    host, listening = listening_at(address, listen, open_metrics=False)
    options = KeeperOptions(
        name=check_job(name, "--name"),
        address=parse_store(store),
        access=read_access(secret),
        node=check_node(node),
        host=host,
        listening=listening,
        domain=domain or node,
        socket=socket.absolute(),
        secret=secret,
        copies=copies,
        bandwidth=int(rate) if (rate := bytes_a_second(bandwidth)) is not None else None,
        lease_ttl_s=lease,
        forget_s=forget * 3600,
        memory=memory_bytes(memory),
        tls=tls_files(tls_cert, tls_key, tls_ca),
    )
    set_up_logging(as_json=as_json, name=options.name, node=options.node)
    run_keeper(options)
