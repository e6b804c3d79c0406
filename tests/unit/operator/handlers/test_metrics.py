"""What the operator tells Prometheus is what docs/metrics.md says."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from holdfast_operator.handlers.metrics import OperatorMetrics

DOCS = Path(__file__).parents[4] / "docs" / "metrics.md"


def test_every_metric_is_documented_and_every_documented_one_is_there() -> None:
    metrics = OperatorMetrics()
    metrics.api_called("get", "pods", "200")
    metrics.acted("CreatePod", "done")
    metrics.pass_failed(ValueError())
    metrics.listed_again("pods")
    metrics.objects.labels(resource="pods").set(1)
    families = text_string_to_metric_families(metrics.text().decode())
    told = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in families
        if family.name.startswith("holdfast_") and not family.name.endswith("_created")
    }
    documented = re.findall(r"^\| `(holdfast_operator_\w+)` \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert told == set(documented)
