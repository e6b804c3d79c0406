"""`holdfast ckpt`: what lies in a checkpoint storage, whether it is sound, and what may go."""
