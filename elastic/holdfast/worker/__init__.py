"""The PyTorch shell of one slot."""
