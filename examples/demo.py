"""What `make demo` shows: one node is killed, one is drained, one joins, and the weights come out the same.

Trains examples/gpt/tiny.yaml twice, undisturbed and disturbed, and compares. Exits with 1 if anything differs.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

EXAMPLES = Path(__file__).resolve().parent
SPEC = EXAMPLES / "gpt" / "tiny.yaml"
STEPS = 60
CORPUS_BYTES = 4_000_000
FAULTS = ("kill node-2 at step 12", "drain node-3 at step 22", "join at step 28")
NATS_TO_BITS = 1 / math.log(2)

console = Console(highlight=False)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder:
        undisturbed = train("1. Undisturbed, on 2 nodes", Path(folder, "undisturbed"), nodes=2)
        disturbed = train(
            f"2. On 4 nodes: {', '.join(FAULTS)}", Path(folder, "disturbed"), nodes=4, faults=FAULTS
        )
    show_changes(disturbed)
    return compare(undisturbed, disturbed)


def train(title: str, out: Path, *, nodes: int, faults: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the job as a user would, and read its report."""
    console.rule(f"[bold]{title}", align="left")
    command = [sys.executable, "-m", "holdfast.cli.main", "run", str(SPEC), "--out", str(out)]
    command += ["--nodes", str(nodes), "--steps", str(STEPS)]
    for fault in faults:
        command += ["--fault", fault]
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        console.print(f"[bold red]holdfast run ended with exit code {code}[/]")
        sys.exit(code)
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def show_changes(report: dict[str, Any]) -> None:
    """What each change of membership cost."""
    table = Table(box=box.SIMPLE_HEAD, title="What each change cost", title_justify="left")
    for header in ("what happened", "steps redone", "time without a step", "moved"):
        table.add_column(header, justify="left" if header == "what happened" else "right")
    for generation in report["generations"][1:]:
        downtime_s = generation["downtime_s"]
        table.add_row(
            generation["reason"],
            str(generation["redone_steps"]),
            f"{max(0.0, downtime_s):.2f} s" if downtime_s is not None else "–",
            f"{sum(generation['bytes_by_source'].values()) / 1e6:.1f} MB",
        )
    console.print(table)


def compare(undisturbed: dict[str, Any], disturbed: dict[str, Any]) -> int:
    """Show both results side by side; 0 if they are the same, and the model has learned."""
    entropy = unigram_entropy_bits()
    loss = disturbed["losses"][-1] * NATS_TO_BITS
    checks = {
        "weights_sha256": undisturbed["weights_sha256"] == disturbed["weights_sha256"],
        "optimizer_sha256": undisturbed["optimizer_sha256"] == disturbed["optimizer_sha256"],
        f"{len(disturbed['losses'])} losses, one a step": undisturbed["losses"] == disturbed["losses"],
        "samples_consumed": undisturbed["samples_consumed"] == disturbed["samples_consumed"],
    }
    table = Table(box=box.SIMPLE_HEAD, title="Undisturbed against disturbed", title_justify="left")
    for header in ("", "undisturbed", "disturbed", ""):
        table.add_column(header)
    values = [
        (undisturbed["weights_sha256"][:16] + "…", disturbed["weights_sha256"][:16] + "…"),
        (undisturbed["optimizer_sha256"][:16] + "…", disturbed["optimizer_sha256"][:16] + "…"),
        *((f"… {a['losses'][-1]!r}", f"… {b['losses'][-1]!r}") for a, b in [(undisturbed, disturbed)]),
        (f"{undisturbed['samples_consumed']:,}", f"{disturbed['samples_consumed']:,}"),
    ]
    for (name, same), (left, right) in zip(checks.items(), values, strict=True):
        table.add_row(name, left, right, "[green]the same[/]" if same else "[bold red]DIFFERENT[/]")
    console.print(table)
    console.print(
        f"The loss fell to {loss:.2f} bits a byte; bytes drawn by their frequency alone would cost {entropy:.2f} "
        "(the corpus's unigram entropy)."
    )
    has_learned = loss < entropy - 0.5
    if all(checks.values()) and has_learned:
        console.print("[bold green]Bit for bit the same.[/]")
        return 0
    console.print("[bold red]The runs differ.[/]" if has_learned else "[bold red]The model has not learned.[/]")
    return 1


def unigram_entropy_bits() -> float:
    """Of the corpus that the example trains on, in bits a byte."""
    sys.path.insert(0, str(EXAMPLES / "gpt"))
    from gpt import read_corpus

    counts = Counter(read_corpus(CORPUS_BYTES))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values())


if __name__ == "__main__":
    sys.exit(main())
