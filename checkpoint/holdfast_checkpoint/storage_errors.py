"""What a storage's own errors mean, whichever library raised them: denied, busy, missing, or neither.

fsspec's filesystems raise OSError, their clients' errors, or both chained. The service's own word (an S3 error code, an
HTTP status) comes first, since fsspec turns some temporary ones into errors that look permanent.
"""

import errno
from collections.abc import Iterator

from holdfast_checkpoint.errors import CheckpointError, StorageBusyError, StorageDeniedError, StorageError


class MissingError(StorageError):
    """What was asked for is not there, though the place where it would be is."""


class ExpiredError(StorageDeniedError):
    """Credentials ran out. Another try with those of now may help: files and roles are renewed behind our back."""


class LostUploadError(StorageBusyError):
    """The storage has forgotten a multipart upload: no use in trying again but from its beginning."""


_DENIED_CODES = {
    "AccessDenied": "the credentials do not allow it",
    "AllAccessDisabled": "access to it is disabled",
    "AccountProblem": "there is a problem with the account",
    "InvalidAccessKeyId": "the access key is not known there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "RequestTimeTooSkewed": "this machine's clock is wrong",
    "NoSuchBucket": "there is no such bucket; create it, or correct the URL",
    "InvalidBucketName": "that is no name for a bucket",
    "AuthorizationHeaderMalformed": "the region is wrong; set AWS_DEFAULT_REGION",
    "PermanentRedirect": "the bucket is in another region or at another endpoint; set AWS_DEFAULT_REGION",
    "301": "the bucket is in another region or at another endpoint; set AWS_DEFAULT_REGION",
    "401": "the credentials are not accepted",
    "403": "the credentials do not allow it",
}
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"})
_MISSING_CODES = frozenset({"NoSuchKey", "404"})
_BUSY_CODES = frozenset({
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestTimeTooLong", "OperationAborted",
    "Throttling", "ThrottlingException", "TooManyRequests", "BandwidthLimitExceeded", "ConditionalRequestConflict",
    "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "408", "409", "429",
})  # fmt: skip
_LOST_CODES = frozenset({"NoSuchUpload", "InvalidPart"})
# By name, since their libraries are not imported for the sake of it; each is followed by what to do.
_DENIED_CLASSES = {
    "NoCredentialsError": "there are no credentials; set them in the environment or in the client's own file",
    "PartialCredentialsError": "the credentials are incomplete",
    "CredentialRetrievalError": "the credentials could not be had",
    "DefaultCredentialsError": "there are no credentials; set them in the environment or in the client's own file",
    "RefreshError": "the credentials could not be renewed",
    "ProfileNotFound": "the profile that the environment names does not exist",
    "NoRegionError": "no region is set; set AWS_DEFAULT_REGION",
    "ParamValidationError": "the URL is not one that this storage takes",
    "InvalidEndpoint": "the endpoint is not a URL",
}
_BUSY_MODULES = frozenset({"aiobotocore", "aiohttp", "botocore", "requests", "urllib3"})
_DENIED_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_BUSY_ERRNOS = frozenset({
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EPIPE, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN,
    errno.ENETUNREACH, errno.ENETRESET, errno.ENOTCONN,
})  # fmt: skip


def translated(error: Exception, doing: str, url: str) -> CheckpointError:
    """`doing`: "write", "list", ... for the message."""
    if isinstance(error, CheckpointError):
        return error
    kind, meaning = _by_code(error) or _by_class(error) or (StorageError, "")
    detail = " ".join(str(error).split()) or type(error).__name__
    return kind(f"cannot {doing} {url}: {meaning} ({detail})" if meaning else f"cannot {doing} {url}: {detail}")


def code_of(error: BaseException) -> str | None:
    """The service's own word for it: an S3 error code, or an HTTP status."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            code = response.get("Error", {}).get("Code")
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code or status:
                return str(code or status)
        for name in ("status", "code"):
            number = getattr(one, name, None)
            if isinstance(number, int) and 300 <= number < 600:
                return str(number)
    return None


def _by_code(error: Exception) -> tuple[type[StorageError], str] | None:
    code = code_of(error)
    if code is None:
        return None
    if code in _EXPIRED_CODES:
        return ExpiredError, "the credentials have expired; renew them"
    if code in _LOST_CODES:
        return LostUploadError, "the storage has forgotten the upload"
    if code in _BUSY_CODES or (code.isdecimal() and int(code) >= 500):
        return StorageBusyError, "the storage asks for another try"
    if code in _MISSING_CODES:
        return MissingError, "it is not there"
    if code in _DENIED_CODES:
        return StorageDeniedError, _DENIED_CODES[code]
    return None


def _by_class(error: Exception) -> tuple[type[StorageError], str] | None:
    for one in _chain(error):
        name, module = type(one).__name__, type(one).__module__.partition(".")[0]
        if name in _DENIED_CLASSES:
            return StorageDeniedError, _DENIED_CLASSES[name]
        if isinstance(one, FileNotFoundError):
            return MissingError, "it is not there"
        if isinstance(one, TimeoutError | ConnectionError | EOFError):
            return StorageBusyError, "no answer"
        if isinstance(one, OSError) and one.errno is not None:
            return _by_errno(one.errno)
        if isinstance(one, PermissionError):
            return StorageDeniedError, "no permission"
        if module in _BUSY_MODULES:
            return StorageBusyError, "no answer"
    return None


def _by_errno(number: int) -> tuple[type[StorageError], str] | None:
    if number in _DENIED_ERRNOS:
        return StorageDeniedError, "no permission"
    if number in _FULL_ERRNOS:
        return StorageError, "the storage is full; make room, or keep fewer checkpoints"
    if number in _BUSY_ERRNOS:
        return StorageBusyError, "the storage failed for now"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """It, and what it was raised from."""
    one: BaseException | None = error
    for _ in range(8):  # no longer than any real chain; a circle ends
        if one is None:
            return
        yield one
        one = one.__cause__
