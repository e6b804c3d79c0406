"""What the API server answers when it does not do what was asked.

HoldfastError
├── LeadershipLostError           another replica may act by now
└── ClusterError
    ├── ClusterUnavailableError   temporary: no answer, too many requests, or it is not itself; whether a write took
    │                             effect is unknown
    ├── NotFoundError             no such object
    ├── ExistsError               an object of that name is there already
    ├── StaleError                the object is not, or is no longer, the one that was meant
    ├── ExpiredError              the history asked for is no longer kept; list again
    └── RefusedError              it will not do this until somebody mends something: not allowed, not valid
        └── NameTakenError        what has the name belongs to something else
"""

from holdfast.errors import HoldfastError


class ClusterError(HoldfastError):
    """The API server did not do what was asked."""


class ClusterUnavailableError(ClusterError):
    """Temporary. `after_s`: how long the API server wants to be left alone."""

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class NotFoundError(ClusterError):
    """There is no such object."""


class ExistsError(ClusterError):
    """An object of that name is there already."""


class StaleError(ClusterError):
    """The object is not the one that was meant: another uid, or changed since it was read."""


class ExpiredError(ClusterError):
    """History that a watch or a list went on from is gone."""


class RefusedError(ClusterError):
    """Not allowed, or not valid; the message is the API server's."""


class NameTakenError(RefusedError):
    """What has the name belongs to something else."""


class LeadershipLostError(HoldfastError):
    """Another replica may act by now: this one does nothing more."""
