"""`holdfast k8s`."""
