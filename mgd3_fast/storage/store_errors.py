"""What stores answer when something is wrong: whether it may pass, and how it is said.

Packages of stores need not be there, so their errors are known by name.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
_PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # HTTP statuses; 409 is of two conditional writes at once
_PASSING_ERRNOS = {errno.EBUSY, errno.EREMOTEIO, errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT}
_PASSING_ERRORS = {  # of packages that need not be there
    "aiohttp.client_exceptions.ClientError",
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "httpx.TransportError",
    "requests.exceptions.ConnectionError",
}
_NO_CREDENTIALS = {
    "botocore.exceptions.NoCredentialsError",
    "botocore.exceptions.PartialCredentialsError",
}
_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT}
_FULL = {507, "InsufficientStorage", "QuotaExceeded", "StorageFull", "XMinioStorageFull"}


def _answers(error: BaseException | None) -> Iterator[tuple[int | None, str | None]]:
    """HTTP status and S3's word for what is wrong, of the errors that an error came of."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, Mapping):
            yield response.get("ResponseMetadata", {}).get("HTTPStatusCode"), response["Error"].get("Code")
        for status in (getattr(response, "status_code", None), getattr(one, "code", None)):
            if isinstance(status, int):
                yield status, None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error came of."""
    return next((status for status, _ in _answers(error)), None)


def code_of(error: BaseException) -> str | None:
    """The word by which an S3 store says what is wrong."""
    return next((code for _, code in _answers(error)), None)


def _kinds(error: BaseException) -> set[str]:
    return {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}


def may_pass(error: Exception) -> bool:
    """Whether it is worth to ask again."""
    if isinstance(error, ConnectionError | TimeoutError) or _kinds(error) & _PASSING_ERRORS:
        return True
    return status_of(error) in _PASSING or (isinstance(error, OSError) and error.errno in _PASSING_ERRNOS)


def is_full(error: BaseException) -> bool:
    """Whether a store or a disk has no room left."""
    errnos = {getattr(one, "errno", None) for one in _chain(error)}
    return bool({status_of(error), code_of(error)} & _FULL or errnos & _FULL_ERRNOS)


def said(url: str, error: Exception, patience_s: float) -> str:
    """Say what is wrong and what to do, in words that go on after the URL."""
    protocol = url.partition("://")[0].lower()
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    reason = " ".join(text.split()) or type(error).__name__
    if isinstance(error, ImportError):
        from mgd3_engine.installing import install_command

        extra = _EXTRAS.get(protocol)
        return f"needs a package: {install_command(extra) if extra else reason}"
    if isinstance(error, ValueError) and "rotocol" in reason:
        return "must be a URL that fsspec knows, such as s3://, gs:// or hf://"
    if code_of(error) == "NoSuchBucket":
        return "must lie in a bucket that exists: make the bucket first"
    if _kinds(error) & _NO_CREDENTIALS:
        return "asks for credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws"
    if is_full(error):
        return f"has no room left: {reason}; once there is room, the same command goes on"
    if isinstance(error, PermissionError) or status_of(error) in (401, 403):
        return f"does not let these credentials in: {reason}"
    if may_pass(error):
        return f"did not answer for {patience_s:.0f} s: {reason}; the same command goes on"
    return f"cannot be used: {reason}"
