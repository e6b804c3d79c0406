"""How a run went, in a few lines, from its report."""

from collections.abc import Iterator
from pathlib import Path

from holdfast.model.records import Result
from holdfast.telemetry.report import GenerationReport, Report


def summary(report: Report, out: Path) -> str:
    """For people, at the end of `holdfast run` and in `holdfast status`."""
    return "\n".join(_lines(report, out))


def _lines(report: Report, out: Path) -> Iterator[str]:
    yield f"{report.name} {report.outcome.value}: {report.reason}"
    last = next((loss for loss in reversed(report.losses) if loss is not None), None)
    facts = [f"{report.steps_committed} of {report.steps} steps", f"{report.samples_consumed:,} samples"]
    if last is not None:
        facts.append(f"loss {last:.4f}")
    if report.samples_per_s is not None:
        facts.append(f"{report.samples_per_s:,.0f} samples/s")
    yield f"  {', '.join(facts)}"
    for generation in report.generations[1:]:
        yield f"  {_generation(generation)}"
    if report.weights_sha256 is not None:
        yield f"  weights   {report.weights_sha256}"
        yield f"  optimizer {report.optimizer_sha256}"
    yield f"  in {out}" + (f"; what the nodes said is in {out / 'logs'}" if report.outcome is Result.FAILED else "")


def _generation(generation: GenerationReport) -> str:
    text = f"generation {generation.number} ({generation.cause.value}): {generation.reason}"
    if generation.redone_steps:
        text += f"; {generation.redone_steps} step{'s' * (generation.redone_steps != 1)} redone"
    if generation.downtime_s is not None:
        text += f"; {generation.downtime_s:.2f} s without a step"
    return text
