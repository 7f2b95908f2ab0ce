"""What S3's and boto3's failures mean: to be tried again, to be mended by somebody, or absence."""

from __future__ import annotations

from collections.abc import Mapping

from botocore import exceptions
from botocore.exceptions import ClientError

from snapvol.errors import NoSpace, RepositoryUnreachable, SettingsError, SnapvolError
from snapvol.stores.base import Transient

_TRANSIENT_CODES = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
    }
)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT = (
    exceptions.ConnectionClosedError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
    exceptions.MetadataRetrievalError,
    exceptions.CredentialRetrievalError,
)
_HINTS: Mapping[str, str] = {
    "AccessDenied": "check what the bucket's policy allows this access key",
    "AuthorizationHeaderMalformed": "set the repository's region",
    "ExpiredToken": "renew the session token",
    "InvalidAccessKeyId": "check the access key",
    "InvalidBucketName": "check the bucket in the URL",
    "NoSuchBucket": "make the bucket, or check its name, the endpoint and addressing",
    "PermanentRedirect": "set the repository's region or endpoint",
    "RequestTimeTooSkewed": "set this machine's clock: it differs from the server's",
    "SignatureDoesNotMatch": "check the secret key",
}
_FULL = frozenset({"QuotaExceeded", "EntityTooLarge", "InsufficientStorage", "XMinioStorageFull"})


def is_missing_key(error: Exception) -> bool:
    """Say whether the server stated that there is no such object; for HEAD, whose answer has no body, that 404 came."""
    if not isinstance(error, ClientError):
        return False
    code = error.response.get("Error", {}).get("Code", "")
    return code == "NoSuchKey" or (code == "404" and error.operation_name == "HeadObject")


def is_unexplained(error: Exception) -> bool:
    """Say whether the server refused a HEAD, with nothing but a number to say why."""
    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code", "") in ("400", "403", "404")


def is_beyond_end(error: Exception) -> bool:
    """Say whether the server stated that the object ends before the wanted range begins."""
    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in ("InvalidRange", "416")


def explained(error: Exception, what: str, location: str) -> SnapvolError:
    """Return the error to raise: `Transient` where another attempt may succeed.

    Args:
        error: what boto3 raised.
        what: names the object and what failed.
        location: of the repository.
    """
    if isinstance(error, ClientError):
        return _answered(error, what)
    text = " ".join(str(error).split())
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return RepositoryUnreachable(
            f"{what}: no credentials for {location}", "set credentials_file, or what boto3 reads: ~/.aws/credentials"
        )
    if isinstance(error, exceptions.ProfileNotFound):
        return SettingsError(f"{what}: {text}", "check profile and credentials_file")
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in text:
        return RepositoryUnreachable(f"{what}: the server's certificate is not trusted", "set ca_file")
    if isinstance(error, _TRANSIENT):
        return Transient(f"{what}: {text}", "check the endpoint and the network")
    return RepositoryUnreachable(f"{what}: {text}", "check the repository's settings")


def _answered(error: ClientError, what: str) -> SnapvolError:
    details = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = details.get("Code", "") or str(status)
    said = " ".join(f"{code} {details.get('Message') or ''}".split())[:300]
    message = f"{what}: the server says {said}"
    if code in _FULL or status == 507:
        return NoSpace(message, "free space in the bucket or raise its quota")
    if code in _HINTS:
        return RepositoryUnreachable(message, _HINTS[code])
    if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS or code in map(str, _TRANSIENT_STATUS):
        return Transient(message, "check the server's own messages")
    if status == 403 or code == "403":
        return RepositoryUnreachable(message, _HINTS["AccessDenied"])
    return RepositoryUnreachable(message, "check the endpoint, the bucket and the credentials")
