"""Measurements of Holdfast beside what others do; each prints its numbers with those of the same run's peer."""
