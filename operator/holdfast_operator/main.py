"""`holdfast-operator`."""


def main() -> None:
    raise SystemExit("not there yet")
