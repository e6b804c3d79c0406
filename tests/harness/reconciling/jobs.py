"""Jobs to reconcile."""

from typing import Any

from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob, ElasticJobSpec, Metadata

TEMPLATE: dict[str, Any] = {"spec": {"containers": [{"name": "holdfast", "image": "trainer"}]}}


def job(**spec: Any) -> ElasticJob:
    """`gpt`, of one to four nodes unless `spec` says otherwise; in the names of the model."""
    fields: dict[str, Any] = {
        "program": {"entry": "train:program"},
        "steps": 100,
        "nodes": {"min": 1, "max": 4},
        "rendezvous": {"endpoints": ["etcd:2379"]},
        "template": TEMPLATE,
    }
    metadata = Metadata(name="gpt", namespace="ml", uid="6c1f0f6e-0000-4000-8000-000000000001", created_s=1_000_000.0)
    return ElasticJob(metadata=metadata, spec=ElasticJobSpec.model_validate(fields | spec))
