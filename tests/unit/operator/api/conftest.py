"""Jobs from manifests, as if the API server had stored them."""

from typing import Any

from holdfast_operator.api.v1alpha1.elastic_job import ElasticJob
from holdfast_operator.api.v1alpha1.parse import parse_job
from kube.corpus import merged

STORED = {"metadata": {"uid": "f544fef4-f7a3-4ab1-9341-94b2ea669c33", "creationTimestamp": "2026-11-21T17:51:12Z"}}


def parse(manifest: dict[str, Any], **spec: Any) -> ElasticJob:
    """`spec` is laid over that of the manifest."""
    return parse_job(merged(merged(manifest, STORED), {"spec": spec} if spec else {}))
