"""`holdfast-operator`."""

import asyncio
import logging
import os
import signal
import socket
import uuid
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from holdfast.errors import HoldfastError, UserError
from holdfast.telemetry.logs import set_up_logging
from holdfast_operator.handlers.leading import LeaseSettings
from holdfast_operator.handlers.manager import Deciding, ManagerSettings
from holdfast_operator.handlers.operating import Operator, OperatorSettings
from holdfast_operator.reconcile.deciding import reconcile
from holdfast_operator.status.invalid import invalid_status

log = logging.getLogger(__name__)
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_EXIT_FAILED, _EXIT_WRONG = 1, 2
_ENV = "HOLDFAST_OPERATOR"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def operate(
    namespace: Annotated[
        str, typer.Option(envvar=f"{_ENV}_NAMESPACE", help="whose ElasticJobs are looked after; all if left out")
    ] = "",
    lease_namespace: Annotated[
        str, typer.Option(envvar=f"{_ENV}_LEASE_NAMESPACE", help="of the Lease; by default that of this pod")
    ] = "",
    lease_name: Annotated[
        str, typer.Option(envvar=f"{_ENV}_LEASE_NAME", help="the replica that holds this Lease acts")
    ] = "holdfast-operator",
    lease_seconds: Annotated[
        float, typer.Option(envvar=f"{_ENV}_LEASE_SECONDS", help="after so long without renewal another takes it")
    ] = 15.0,
    workers: Annotated[
        int, typer.Option(envvar=f"{_ENV}_WORKERS", min=1, max=256, help="jobs that are worked on at once")
    ] = 8,
    resync_seconds: Annotated[
        float, typer.Option(envvar=f"{_ENV}_RESYNC_SECONDS", min=1.0, help="each job is looked at this often, at least")
    ] = 600.0,
    progress_seconds: Annotated[
        float,
        typer.Option(envvar=f"{_ENV}_PROGRESS_SECONDS", min=0.1, help="steps alone are written this often, at most"),
    ] = 30.0,
    host: Annotated[
        str, typer.Option(envvar=f"{_ENV}_HOST", help="address of /healthz, /readyz, /metrics")
    ] = "0.0.0.0",
    port: Annotated[
        int, typer.Option(envvar=f"{_ENV}_PORT", min=0, max=65535, help="port of these; 0: any that is free")
    ] = 8080,
    log_level: Annotated[str, typer.Option(envvar=f"{_ENV}_LOG_LEVEL", help="debug, info, warning or error")] = "info",
    kubeconfig: Annotated[
        Path | None, typer.Option(help="by default the pod's own account, else KUBECONFIG or ~/.kube/config")
    ] = None,
) -> None:
    """Look after ElasticJobs until told to stop."""
    try:
        _set_up_logging(log_level)
        settings = OperatorSettings(
            manager=ManagerSettings(
                namespace=namespace, workers=workers, resync_s=resync_seconds, progress_s=progress_seconds
            ),
            lease=LeaseSettings(
                namespace=lease_namespace or _own_namespace(),
                name=lease_name,
                identity=f"{socket.gethostname()}_{uuid.uuid4()}",
                duration_s=lease_seconds,
                renew_s=lease_seconds * 2 / 3,
                retry_s=lease_seconds * 2 / 15,
            ),
            host=host,
            port=port,
            kubeconfig=kubeconfig,
        )
        asyncio.run(_run(Operator(settings, Deciding(reconcile=reconcile, invalid=invalid_status))))
    except UserError as error:
        _fail(str(error), _EXIT_WRONG)
    except HoldfastError as error:
        _fail(str(error), _EXIT_FAILED)


def main() -> None:
    app()


async def _run(operator: Operator) -> None:
    """SIGTERM and SIGINT end it cleanly: what is being done is left off, and the lease given back."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await operator.run()
    except asyncio.CancelledError:
        log.info("operator.stopped")


def _set_up_logging(level: str) -> None:
    if level.lower() not in _LEVELS:
        raise UserError(f"--log-level {level!r}: unknown; should be one of {', '.join(_LEVELS)}")
    set_up_logging(_LEVELS[level.lower()])


def _own_namespace() -> str:
    given = os.environ.get("POD_NAMESPACE")
    if given:
        return given
    try:
        return _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return "default"


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"holdfast-operator: {message}", err=True)
    raise typer.Exit(status)


if __name__ == "__main__":
    main()
