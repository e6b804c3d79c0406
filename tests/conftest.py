"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# How long an example takes is said by benchmarks; on a busy machine it says nothing.
settings.register_profile("holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("holdfast")
