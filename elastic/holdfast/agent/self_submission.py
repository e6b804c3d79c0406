"""An agent that finds no job of its name in the store submits it, where it was told which: by `holdfast submit` in a
process of its own, since that loads torch and runs the user's code, and the agent does neither.

Several agents may do so at once: the store takes one submission, and all go on with that one.
"""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.agent.following import surely
from holdfast.errors import HoldfastError, UserError
from holdfast.model.keys import Keys
from holdfast.ports.store import Store

log = logging.getLogger(__name__)
_INPUT, _FAILED = 2, 1  # exit codes of `holdfast submit`: wrong input; something that may pass
_PAUSE_S, _PAUSE_MAX_S = 1.0, 30.0
_TERM_S = 2.0
_LOG_BYTES_MAX = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfSubmission:
    """What to submit, and as what."""

    spec: Path
    base: Path  # what paths in the spec start from
    out: str
    store: str
    secrets: Mapping[str, str] = field(repr=False)  # of the environment, where this process has taken them out

    async def ensure(self, store: Store, job: str, scratch: Path) -> None:
        """Return once there is a job of that name, whoever submitted it. A store or storage that is away is waited for.

        Raises:
            UserError: the spec or its Program is wrong; the message is all that `holdfast submit` said.
            StoreError: the store refuses this agent.
            HoldfastError: submitting it ended in a way that is no answer, such as a bug, which would come again.
        """
        key, pause_s = Keys(job=job).one("spec"), _PAUSE_S
        while await surely(lambda: store.get(key), "spec", patient=False) is None:
            log.info("job.submitting", extra={"spec": str(self.spec)})
            told = await self._submit(job, scratch)
            if told is None:
                return
            log.warning("job.not_submitted", extra={"error": told})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)

    async def _submit(self, job: str, scratch: Path) -> str | None:
        """None: the job is there. Otherwise why it is not yet."""
        said = scratch / "submit.txt"
        said.write_text("")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "holdfast.cli.main", "submit", str(self.spec), "--if-absent", "--job", job),
            *("--store", self.store, "--out", self.out, "--base", str(self.base)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.secrets, "HOLDFAST_TERMINATION_LOG": str(said)},
        )
        try:
            _, errors = await process.communicate()
        finally:
            await _end(process)
        if process.returncode == 0:
            return None
        reason, last = said.read_text(encoding="utf-8"), errors.decode(errors="replace")[-_LOG_BYTES_MAX:].strip()
        if process.returncode == _INPUT:
            raise UserError(f"{self.spec}: {reason or last}")
        if process.returncode == _FAILED and reason:
            return reason
        raise HoldfastError(f"{self.spec} could not be submitted (exit status {process.returncode}): {reason or last}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Where the agent is told to go meanwhile."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _TERM_S)
    except TimeoutError:
        process.kill()
        await process.wait()
