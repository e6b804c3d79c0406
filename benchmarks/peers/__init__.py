"""Plain PyTorch that does the same work as Holdfast, as a careful user would write it by hand."""
