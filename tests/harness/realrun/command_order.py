"""What `commands` asks its fork server for."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOrder:
    """A command that is to be: what follows `holdfast`, where it runs, and where it writes."""

    number: int
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    network: str  # path to the network namespace; empty: that of the fork server
    output: str
    errors: str
