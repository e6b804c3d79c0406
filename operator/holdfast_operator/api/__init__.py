"""Versions of the API, a package each."""
