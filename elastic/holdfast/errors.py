"""Every error Holdfast raises, in one tree.

HoldfastError
├── UserError                 the user can mend it; raised before anything starts (also a ValueError)
│   ├── SpecError             the job spec is wrong
│   ├── ProgramError          the Program is wrong
│   └── FaultSyntaxError      a --fault sentence cannot be read
├── UserCodeError             an exception in the user's own code; ends the job with its traceback
├── NoPlanError               no layout fits the slots at hand
├── NodeRefusedError          this node cannot take part as it is; started again, or elsewhere, it may
├── JobFailedError            the job ended without finishing; carries the reason
├── StoreError                the rendezvous store
│   ├── StoreUnavailableError temporary: no answer from the store
│   ├── LeaseExpiredError     the lease is gone; the holder must take a new one
│   ├── RequestError          the store cannot take this request as it is (also a ValueError)
│   └── CompactedError        a watch asked for a revision that is no longer kept
├── ProtocolError             a message that breaks its protocol
│   └── VersionError          it is of another version of the protocol
└── CommunicationError        a peer was lost, or communication was aborted: the generation is over
    └── AbortedError          ended because the agent said so
"""


class HoldfastError(Exception):
    """Root of the tree."""


class UserError(HoldfastError, ValueError):
    """Wrong input; the message names field, value and remedy."""


class SpecError(UserError):
    """The job spec is wrong."""


class ProgramError(UserError):
    """The Program is wrong."""


class FaultSyntaxError(UserError):
    """A fault sentence cannot be read."""


class UserCodeError(HoldfastError):
    """An exception in the user's code; the original is chained as `__cause__`."""


class NoPlanError(HoldfastError):
    """No layout fits the slots at hand; the message says which limit forbids it."""


class NodeRefusedError(HoldfastError):
    """This node cannot take part: another agent has its name, or its workers do not get warm. Not the job's fault."""


class JobFailedError(HoldfastError):
    """The job ended without finishing."""


class StoreError(HoldfastError):
    """The rendezvous store could not do what was asked."""


class StoreUnavailableError(StoreError):
    """Temporary: the store gave no answer. Whether a write took effect is unknown."""


class LeaseExpiredError(StoreError):
    """The lease is gone, and with it every key that hung on it."""


class RequestError(StoreError, ValueError):
    """The store cannot take this request, too large perhaps, and did nothing; asked again it will say the same."""


class CompactedError(StoreError):
    """The revision asked for is no longer kept; list again."""


class ProtocolError(HoldfastError):
    """A message that breaks its protocol."""


class VersionError(ProtocolError):
    """A record or message of another version of the protocol; the message names both."""


class CommunicationError(HoldfastError):
    """Communication of a generation broke; the generation is over."""


class AbortedError(CommunicationError):
    """Communication was ended because the agent said so."""
