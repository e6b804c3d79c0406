"""`holdfast run`: prepare, launch, report."""

import asyncio
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from holdfast.chaos.injector import FaultReport
from holdfast.cli.launcher import Ending, launch
from holdfast.cli.preparing import Prepared, Wish, prepare
from holdfast.model.ids import NodeId
from holdfast.model.records import Keys, Result

@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    out: Path | None
    overwrite: bool
    plain: bool
    as_json: bool


class Minimal:
    def __init__(self): self.t0=time.time(); self.last=0
    def say(self, text): print(f"{time.time()-self.t0:8.3f} {text}", flush=True)
    def opened(self, host, port, secret): self.say(f"store {host}:{port}")
    def changed(self, key, value):
        body = json.loads(value)["body"] if value else None
        kind = key.split("/")[2]
        if kind == "spec" or body is None and kind != "nodes": return
        if kind == "progress":
            for c in body["commits"]: self.say(f"commit step {c['step']} loss {c['loss']:.6f} generation {body['generation']}")
        elif kind in ("start","generation","outcome","drains","stop","suspects","leader"): self.say(f"{key} {json.dumps(body)[:300]}")
        elif kind == "failure": self.say(f"failure {body['where']} \n{body['traceback']}")
        elif kind == "acks": self.say(f"{key} {body['phase']}")
        else: self.say(f"{key} {'gone' if body is None else ''}")
    def fault(self, report): self.say(str(report))
    def node_started(self, node, pid): self.say(f"{node} pid {pid}")
    def node_ended(self, node, status): self.say(f"{node} ended with {status}")
    def stopping(self, reason): self.say("stopping")


def run_job(wish: Wish, options: Options) -> int:
    prepared = prepare(wish)
    out = options.out or Path("runs") / f"{prepared.spec.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out.mkdir(parents=True, exist_ok=True)
    ending = asyncio.run(launch(prepared, out, Minimal()))
    print(ending.outcome)
    if ending.killed: return 130
    if ending.outcome.result is Result.FAILED:
        if ending.failure: print(ending.failure.traceback)
        return 1
    from holdfast.worker.final import join_final
    w, o = join_final(out, [l.name for l in prepared.facts.layers])
    print("weights_sha256", w); print("optimizer_sha256", o)
    return 0 if ending.outcome.result is Result.COMPLETED else 3
