"""What the status of an `ElasticJob` tells: conditions, phase, counters."""
