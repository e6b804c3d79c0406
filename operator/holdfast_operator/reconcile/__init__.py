"""Decides, and does nothing: from a snapshot of one job to what is to be done about it."""
