"""The planner: which slot runs which layers, how the batch is shared out, and which layers have to move.

Pure and deterministic: the same request gives the same plan on every machine. No numpy, and scipy only for clusters
large enough to repay its import, since the agent that plans after a loss may be planning for the first time.
"""
