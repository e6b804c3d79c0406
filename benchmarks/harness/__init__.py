"""What the benchmarks share: contenders as processes, their steps, turns between them, and how results are told."""
