"""`helm test`: makes the ElasticJob of a manifest, waits until it is over, says what came of it and deletes it."""

import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config

POLL_S = 1.0
GONE_WITHIN_S = 60.0
log = logging.getLogger("trial")


def conditions_of(job: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    """By type: whether it is true, and what it tells people."""
    told = job.get("status", {}).get("conditions", [])
    return {one["type"]: (one["status"] == "True", f"{one['reason']}: {one['message']}") for one in told}


class Trial:
    def __init__(self, manifest: dict[str, Any], timeout_s: float) -> None:
        group, version = manifest["apiVersion"].split("/")
        self._where = {
            "group": group,
            "version": version,
            "namespace": manifest["metadata"]["namespace"],
            "plural": "elasticjobs",
        }
        self._manifest = manifest
        self._name = manifest["metadata"]["name"]
        self._deadline = time.monotonic() + timeout_s
        self._jobs = client.CustomObjectsApi()

    def run(self) -> str | None:
        """Why it failed; None: it did not."""
        self._delete()  # what an earlier trial left
        self._jobs.create_namespaced_custom_object(body=self._manifest, **self._where)
        try:
            return self._outcome()
        finally:
            self._delete()

    def _outcome(self) -> str | None:
        shown = ""
        while time.monotonic() < self._deadline:
            job = self._get() or {}
            status = job.get("status", {})
            conditions = conditions_of(job)
            line = f"{status.get('phase') or 'not seen by an operator yet'} {status.get('progress', '')}".strip()
            is_degraded, trouble = conditions.get("Degraded", (False, ""))
            line += f" ({trouble})" if is_degraded else ""
            if line != shown:
                shown = line
                log.info("%s: %s", self._name, line)
            for kind in ("Failed", "Complete"):
                is_true, message = conditions.get(kind, (False, ""))
                if is_true:
                    return message if kind == "Failed" else None
            time.sleep(POLL_S)
        return f"not over in time; last seen: {shown}"

    def _get(self) -> dict[str, Any] | None:
        try:
            return dict(self._jobs.get_namespaced_custom_object(name=self._name, **self._where))
        except client.ApiException as error:
            if error.status != 404:
                raise
            return None

    def _delete(self) -> None:
        """Returns once it is gone, or will not go."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while self._get() is not None and time.monotonic() < deadline:
            try:
                self._jobs.delete_namespaced_custom_object(
                    name=self._name, propagation_policy="Foreground", **self._where
                )
            except client.ApiException as error:
                if error.status != 404:
                    raise
            time.sleep(POLL_S)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config.load_incluster_config()
    manifest = json.loads(Path(os.environ["MANIFEST"]).read_text())
    trouble = Trial(manifest, float(os.environ["TIMEOUT_S"])).run()
    if trouble:
        sys.exit(f"the trial failed: {trouble}")
    log.info("the trial completed")


if __name__ == "__main__":
    main()
