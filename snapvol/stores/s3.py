"""A repository in an S3 bucket, through boto3 with its own ways of finding credentials, proxies and regions."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from hashlib import md5
from typing import TYPE_CHECKING, Any, cast

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from snapvol.errors import AlreadyExists, Damaged, NotFound, Refused, RepositoryUnreachable, SettingsError, SnapvolError
from snapvol.stores.base import CONFIG, Buffer, Entry, Store, Transient, checked_name, checked_prefix, is_name
from snapvol.stores.s3_errors import explained, is_beyond_end, is_missing_key, is_unexplained

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

    from snapvol.settings import RepositorySettings

BATCH = 1000  # keys that one request may delete
_URL = re.compile(r"s3://([a-zA-Z0-9][a-zA-Z0-9._-]{1,254})(?:/(.*))?")
_ADDRESSING = ("auto", "path", "virtual")
_CONNECTIONS = 16
_HASHED = 1 << 20  # bytes up to which an MD5 costs less than a request


class S3Store(Store):
    """Objects in a bucket, below a prefix.

    One PUT makes an object, never several parts: what a killed upload leaves is nothing. The request's signature covers
    the SHA-256 of the body, so a server that stores something else notices. No failure is retried here: that is for
    `RetryingStore`, which knows how long all of it may take.
    """

    def __init__(self, settings: RepositorySettings) -> None:
        match = _URL.fullmatch(settings.url)
        if match is None:
            raise SettingsError(f"{settings.url!r} does not name a bucket", "write s3://BUCKET/PREFIX")
        self._bucket = match[1]
        path = (match[2] or "").strip("/")
        self._prefix = f"{path}/" if path else ""  # the slash keeps vol1 apart from vol10
        self.location = f"s3://{self._bucket}/{path}".rstrip("/")
        try:
            self._client = _client(settings)
        except (BotoCoreError, ValueError) as error:
            raise explained(error, f"cannot use the settings of {self.location}", self.location) from error

    def put(self, name: str, data: Buffer) -> None:
        """See `Store.put`."""
        key = self._key(name)
        if name == CONFIG and self._exists(name):
            raise AlreadyExists(f"{self.location} already holds a repository")
        # boto3 takes a bytearray as it is: a pack is not copied for it.
        body = cast("bytes", data) if isinstance(data, bytearray) else bytes(data)
        try:
            answer = self._client.put_object(Bucket=self._bucket, Key=key, Body=body)
            if (
                len(body) <= _HASHED
                and answer.get("ETag", "").strip('"') == md5(body, usedforsecurity=False).hexdigest()
            ):
                return  # the server says what it stored, which is worth more than how much: a request less
            stored = self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except (BotoCoreError, ClientError) as error:
            if is_missing_key(error):
                raise Transient(f"{name} is not yet in {self.location} after it was stored") from error
            raise self._failed("cannot write", name, error) from error
        if stored != len(data):
            raise Damaged(f"{name} in {self.location} has {stored} bytes after {len(data)} were stored")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """See `Store.get`."""
        key = self._key(name)
        if length == 0:
            return b""
        wanted: dict[str, Any] = {}
        if offset or length is not None:
            wanted["Range"] = f"bytes={offset}-" if length is None else f"bytes={offset}-{offset + length - 1}"
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **wanted)
            with closing(answer["Body"]) as body:
                data = body.read()
        except (BotoCoreError, ClientError) as error:
            if is_beyond_end(error):
                raise Damaged(f"{name} in {self.location} ends before byte {offset + (length or 1)}") from error
            raise self._failed("cannot read", name, error) from error
        if len(data) != answer["ContentLength"]:
            raise Transient(f"{name} in {self.location} broke off after {len(data)} of {answer['ContentLength']} bytes")
        if wanted and "ContentRange" not in answer:  # the whole object, from a server that does not know ranges
            data = data[offset:] if length is None else data[offset : offset + length]
        if length is not None and len(data) != length:
            raise Damaged(f"{name} in {self.location} ends at byte {offset + len(data)}, before byte {offset + length}")
        return data

    def size(self, name: str) -> int:
        """See `Store.size`. The answer to HEAD has no body that would say what is wrong, so GET has the last word."""
        key = self._key(name)
        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except (BotoCoreError, ClientError) as error:
            if not is_unexplained(error):
                raise self._failed("cannot read", name, error) from error
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            answer["Body"].close()
            return answer["ContentLength"]
        except (BotoCoreError, ClientError) as error:
            raise self._failed("cannot read", name, error) from error

    def list(self, prefix: str) -> Iterator[Entry]:
        """See `Store.list`."""
        start = self._prefix + checked_prefix(prefix)
        token: dict[str, Any] = {}
        while True:
            try:
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=start, **token)
            except (BotoCoreError, ClientError) as error:
                raise self._failed("cannot list", prefix, error) from error
            for item in page.get("Contents", []):
                name = item["Key"].removeprefix(self._prefix)
                if is_name(name) and item["Key"].startswith(start):
                    yield Entry(name, item["Size"])
            if not page["IsTruncated"]:
                return
            following = page.get("NextContinuationToken")
            if not following or {"ContinuationToken": following} == token:
                raise RepositoryUnreachable(f"the listing of {prefix} in {self.location} breaks off without an end")
            token = {"ContinuationToken": following}

    def delete(self, names: Sequence[str]) -> None:
        """See `Store.delete`."""
        keys = [self._key(name) for name in names]
        failure: SnapvolError | None = None
        for at in range(0, len(keys), BATCH):
            failure = self._delete_batch(keys[at : at + BATCH]) or failure
        if failure is not None:
            raise failure

    def _delete_batch(self, keys: Sequence[str]) -> SnapvolError | None:
        what = keys[0].removeprefix(self._prefix)
        try:
            if len(keys) == 1:
                self._client.delete_object(Bucket=self._bucket, Key=keys[0])
                return None
            wanted = {"Objects": [{"Key": key} for key in keys], "Quiet": True}
            answer = self._client.delete_objects(Bucket=self._bucket, Delete=wanted)  # type: ignore[arg-type]
        except (BotoCoreError, ClientError) as error:
            return None if is_missing_key(error) else self._failed("cannot delete", what, error)
        errors = [error for error in answer.get("Errors", []) if error.get("Code") != "NoSuchKey"]
        if not errors:
            return None
        first = {"Error": {"Code": errors[0].get("Code", ""), "Message": errors[0].get("Message", "")}}
        count = f"{len(errors)} objects, the first {errors[0].get('Key', '').removeprefix(self._prefix)}"
        return self._failed("cannot delete", count, ClientError(first, "DeleteObjects"))  # type: ignore[arg-type]

    def _exists(self, name: str) -> bool:
        try:
            self.size(name)
        except NotFound:
            return False
        return True

    def _key(self, name: str) -> str:
        return self._prefix + checked_name(name)

    def _failed(self, what: str, name: str, error: Exception) -> SnapvolError:
        if is_missing_key(error):
            return NotFound(f"{name} is not in {self.location}")
        return explained(error, f"{what} {name} in {self.location}", self.location)


def _client(settings: RepositorySettings) -> S3Client:
    if settings.addressing not in _ADDRESSING:
        raise SettingsError(f"addressing {settings.addressing!r} is not known", f"valid: {', '.join(_ADDRESSING)}")
    session = _session(settings)
    addressing = settings.addressing
    if addressing == "auto" and settings.endpoint:
        addressing = "path"  # few servers of one's own have a DNS name for every bucket
    client: S3Client = session.client(
        "s3",
        endpoint_url=settings.endpoint or None,
        region_name=settings.region or session.region_name or "us-east-1",
        verify=_checked_ca_file(settings),
        config=Config(
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=_CONNECTIONS,
            s3=cast("Any", {"addressing_style": addressing}),
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    client.meta.events.register("before-sign.s3.DeleteObjects", _with_md5)
    return client


def _session(settings: RepositorySettings) -> boto3.session.Session:
    core = botocore.session.Session(profile=settings.profile or None)
    if settings.credentials_file is not None:
        file = settings.credentials_file
        try:
            mode = file.stat().st_mode
        except OSError as error:
            raise SettingsError(f"cannot read credentials_file {file}: {error.strerror}") from error
        if mode & 0o077:
            raise Refused(f"{file} can be read by others", f"chmod 600 {file}")
        core.set_config_variable("credentials_file", str(file))
        # Variables of the environment would win over the file that the settings name.
        core.get_component("credential_provider").remove("env")
    return boto3.session.Session(botocore_session=core)


def _checked_ca_file(settings: RepositorySettings) -> str | None:
    if settings.ca_file is None:
        return None
    if not settings.ca_file.is_file():
        raise SettingsError(f"ca_file {settings.ca_file} does not exist", "name a file of PEM certificates")
    return str(settings.ca_file)


def _with_md5(request: Any, **_: object) -> None:
    """DeleteObjects must carry a checksum, and MD5 is the one that every server knows."""
    for header in [name for name in request.headers if name.lower().startswith("x-amz-checksum-")]:
        del request.headers[header]
    for header in ("x-amz-sdk-checksum-algorithm", "Content-MD5"):
        if header in request.headers:
            del request.headers[header]
    digest = md5(request.body, usedforsecurity=False).digest()
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()
