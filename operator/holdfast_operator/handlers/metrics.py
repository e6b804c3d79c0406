"""What the operator tells Prometheus. docs/metrics.md lists it."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_PASS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_DRAIN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class OperatorMetrics:
    """One a process, with a registry of its own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        # All three register themselves: memory, processor time and descriptors of this process.
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, what: str, *labels: str) -> Gauge:
            return Gauge(f"holdfast_operator_{name}", what, labels, registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"holdfast_operator_{name}", what, labels, registry=registry)

        self.is_leader = gauge("is_leader", "1 where this replica acts, else 0")
        self.jobs = gauge("jobs", "ElasticJobs that are there")
        self.queue_depth = gauge("queue_depth", "Jobs that wait to be looked at")
        self.objects = gauge("cached_objects", "Objects of the cluster that are kept in memory", "resource")
        self._calls = counter("api_calls", "Calls to the API server", "verb", "resource", "code")
        self._actions = counter("actions", "What was done about jobs", "action", "result")
        self._errors = counter("pass_errors", "Passes over a job that ended early, by why", "error")
        self._relists = counter("relists", "Lists read anew because a watch lost its place", "resource")
        self._pass_s = Histogram(
            "holdfast_operator_pass_seconds", "Time that one pass over a job took", buckets=_PASS_S, registry=registry
        )
        self._drain_s = Histogram(
            "holdfast_operator_drain_seconds",
            "From what was seen of the cluster to the drain in the rendezvous",
            buckets=_DRAIN_S,
            registry=registry,
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def api_called(self, verb: str, resource: str, code: str) -> None:
        """`code` is that of HTTP, or "none" where there was no answer."""
        self._calls.labels(verb=verb, resource=resource, code=code).inc()

    def acted(self, action: str, result: str) -> None:
        self._actions.labels(action=action, result=result).inc()

    def passed(self, took_s: float) -> None:
        self._pass_s.observe(took_s)

    def pass_failed(self, error: BaseException) -> None:
        self._errors.labels(error=type(error).__name__).inc()

    def listed_again(self, resource: str) -> None:
        self._relists.labels(resource=resource).inc()

    def drained(self, after_s: float) -> None:
        self._drain_s.observe(after_s)
