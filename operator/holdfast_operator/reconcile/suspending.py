"""Whether the job is to be without pods. Of one that is suspended from the start nothing is made, as Kueue wants."""

from enum import Enum

from holdfast_operator.reconcile.view import View, has_ended
from holdfast_operator.status.conditions import is_true


class Suspension(Enum):
    NOT_WANTED = "not wanted"
    REFUSED = "refused"  # its state would be lost
    WANTED = "wanted"


def suspension(view: View) -> Suspension:
    """A job that has trained and has no storage keeps its pods; one whose pods are gone already stays without."""
    spec = view.job.spec
    if not spec.suspend:
        return Suspension.NOT_WANTED
    if spec.state.url is None and view.has_trained and not is_true(view.job.status.conditions, "Suspended"):
        return Suspension.REFUSED
    return Suspension.WANTED


def is_free(view: View) -> bool:
    """Whether no pod of the job runs, or may."""
    return all(has_ended(pod) for pod in view.pods.values())
