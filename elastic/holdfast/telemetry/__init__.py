"""What a run tells: events, report, metrics."""
