"""Every error this library raises, in one tree.

CheckpointError
├── StorageError              the storage did not do what was asked
│   ├── StorageBusyError      temporary: no answer, slow down, a broken connection; worth another try
│   └── StorageDeniedError    permanent until somebody mends it: credentials, permission, no such bucket
├── NoCheckpointError         there is no (such) checkpoint there (also a LookupError)
├── UnfinishedError           a checkpoint that was never committed
├── CorruptError              bytes are not those that were written; names the blob and the place
├── FormatError               not a blob or manifest of a schema that this version reads
└── MismatchError             a checkpoint of another model, optimizer or batch; lists what differs
"""


class CheckpointError(Exception):
    """Root of the tree."""


class StorageError(CheckpointError):
    """The storage did not do what was asked; the message names the URL."""


class StorageBusyError(StorageError):
    """Temporary: worth another try."""


class StorageDeniedError(StorageError):
    """Permanent until somebody mends it; the message says what to look at."""


class NoCheckpointError(CheckpointError, LookupError):
    """There is no checkpoint there, or none of that step."""


class UnfinishedError(CheckpointError):
    """Blobs without a manifest: it was never committed."""


class CorruptError(CheckpointError):
    """Bytes are not those that were written."""


class FormatError(CheckpointError):
    """Not a blob or manifest that this version reads."""


class MismatchError(CheckpointError):
    """Of another model, optimizer or batch."""
