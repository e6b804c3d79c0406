"""One word for people, of the conditions."""

from holdfast_operator.api.v1alpha1.status import StatusCondition
from holdfast_operator.status.conditions import condition_of, is_true

# What a condition that is true comes to, the first that is.
_TRUE = (("Complete", "Complete"), ("Failed", "Failed"), ("Suspended", "Suspended"))
# Likewise why it does or does not run.
_RUNNING = {"Training": "Running", "Finishing": "Finishing", "Reshaping": "Reshaping", "WaitingForNodes": "Waiting"}


def phase(conditions: tuple[StatusCondition, ...]) -> str:
    for kind, word in _TRUE:
        if is_true(conditions, kind):
            return word
    suspended, running = condition_of(conditions, "Suspended"), condition_of(conditions, "Running")
    if suspended is not None and suspended.reason in ("Suspending", "SuspendWaits"):
        return "Suspending"
    if running is None:
        return ""
    return _RUNNING.get(running.reason, "Unknown" if running.status == "Unknown" else "Pending")
