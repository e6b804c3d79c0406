"""State of a model's layers outside the training process: blobs, and later snapshots, tiers and manifests."""
