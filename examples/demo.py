"""What `make demo` shows: one node is killed, one is drained, one joins, and the weights come out the same.

Trains examples/gpt/tiny.yaml twice, undisturbed and disturbed, and compares. Exits with 1 if anything differs.
"""

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from holdfast.program import load_program

EXAMPLES = Path(__file__).resolve().parent
SPEC = EXAMPLES / "gpt" / "tiny.yaml"
STEPS = 60
FAULTS = ("kill node-2 at step 12", "drain node-3 at step 22", "join at step 28")
LEARNED_BITS = 0.5  # below the unigram entropy
# What must be the same, and how it is shown.
SHOWN: dict[str, Callable[[Any], str]] = {
    "weights_sha256": lambda digest: f"{digest[:16]}…",
    "optimizer_sha256": lambda digest: f"{digest[:16]}…",
    "losses": lambda losses: f"{len(losses)}, last {losses[-1]:.10f}",
    "samples_consumed": lambda samples: f"{samples:,}",
}
Report = dict[str, Any]

console = Console(highlight=False)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder:
        undisturbed = train("1. Undisturbed, on 2 nodes", Path(folder, "undisturbed"), nodes=2)
        disturbed = train(f"2. On 4 nodes: {', '.join(FAULTS)}", Path(folder, "disturbed"), nodes=4, faults=FAULTS)
    show_changes(disturbed)
    return compare(undisturbed, disturbed)


def train(title: str, out: Path, *, nodes: int, faults: tuple[str, ...] = ()) -> Report:
    """Run the job as a user would, and read its report."""
    console.rule(f"[bold]{title}", align="left")
    command = [sys.executable, "-m", "holdfast.cli.main", "run", str(SPEC), "--out", str(out)]
    command += ["--nodes", str(nodes), "--steps", str(STEPS)]
    for fault in faults:
        command += ["--fault", fault]
    console.file.flush()
    code = subprocess.run(command, check=False).returncode
    if code != 0:
        console.print(f"[bold red]holdfast run ended with exit code {code}[/]")
        sys.exit(code)
    report: Report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def show_changes(report: Report) -> None:
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


def compare(undisturbed: Report, disturbed: Report) -> int:
    """Show both results side by side; 0 if they are the same, and the model has learned."""
    table = Table(box=box.SIMPLE_HEAD, title="Undisturbed against disturbed", title_justify="left")
    for header in ("", "undisturbed", "disturbed", ""):
        table.add_column(header)
    is_same = True
    for name, show in SHOWN.items():
        same = undisturbed[name] == disturbed[name]
        is_same = is_same and same
        verdict = "[green]the same[/]" if same else "[bold red]DIFFERENT[/]"
        table.add_row(name, show(undisturbed[name]), show(disturbed[name]), verdict)
    console.print(table)
    loss, entropy = disturbed["losses"][-1] / math.log(2), unigram_entropy_bits()
    console.print(
        f"The loss fell from {disturbed['losses'][0] / math.log(2):.2f} to {loss:.2f} bits a byte. Knowing only how "
        f"often each byte occurs (the corpus's unigram entropy), it would be {entropy:.2f}."
    )
    if not is_same:
        console.print("[bold red]The runs differ.[/]")
    elif loss > entropy - LEARNED_BITS:
        console.print("[bold red]The model has not learned.[/]")
    else:
        console.print("[bold green]The same weights, bit for bit.[/]")
        return 0
    return 1


def unigram_entropy_bits() -> float:
    """Of the corpus that the example trains on, in bits a byte."""
    program = load_program("gpt.py:program", {}, SPEC.parent)
    corpus: Any = program.dataset
    counts: list[int] = [count for count in corpus.bytes.bincount().tolist() if count]
    return -sum(count / sum(counts) * math.log2(count / sum(counts)) for count in counts)


if __name__ == "__main__":
    sys.exit(main())
