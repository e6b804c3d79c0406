"""Holdfast: an elastic, fault-tolerant training orchestrator for PyTorch."""

__version__ = "0.1.0"
