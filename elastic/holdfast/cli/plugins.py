"""Commands that other packages bring, by the entry points of the group `holdfast.commands`: each names a typer app."""

from importlib.metadata import EntryPoint, entry_points

import typer

from holdfast.errors import UserError

GROUP = "holdfast.commands"


def add_plugins(app: typer.Typer) -> None:
    """One that cannot be loaded says why when it is called, and keeps nobody from the others."""
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        app.add_typer(_load(point), name=point.name)


def _load(point: EntryPoint) -> typer.Typer:
    try:
        loaded = point.load()
    except Exception as error:  # of a package that this one knows nothing of
        return _broken(point, repr(error))
    return loaded if isinstance(loaded, typer.Typer) else _broken(point, f"{point.value} is no typer app")


def _broken(point: EntryPoint, why: str) -> typer.Typer:
    told = typer.Typer(help=f"Cannot be loaded: {why}", invoke_without_command=True)

    @told.callback()
    def tell() -> None:
        raise UserError(f"holdfast {point.name}: cannot be loaded: {why}; install the package that brings it anew")

    return told
