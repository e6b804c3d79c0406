"""Rendezvous stores."""
