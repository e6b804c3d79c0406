"""Replays of preemption traces: what a job would commit, lose, move and cost under one policy or another.

A replay takes minutes of a cluster in microseconds: it knows who is there and which layout they form, what that layout
yields a second, and what it takes to get from one to the next. It steps no workers; the rest of `simulator` does.
"""
