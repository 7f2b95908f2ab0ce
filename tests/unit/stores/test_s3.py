from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from hashlib import md5, sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError, SSLError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from snapvol.errors import Damaged, NoSpace, NotFound, Refused, RepositoryUnreachable, SettingsError, SnapvolError
from snapvol.settings import RepositorySettings
from snapvol.stores.base import Transient
from snapvol.stores.s3 import S3Store
from snapvol.stores.s3_errors import explained
from support import moto_s3
from support.moto_s3 import CREDENTIALS, MotoS3

NAME = "snapshots/" + "a" * 64
_buckets = count(1)


def digest(number: int) -> str:
    return sha256(b"%d" % number).hexdigest()


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MotoS3]:
    with moto_s3.served(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def bucket(moto: MotoS3) -> str:
    name = f"s3-bucket-{next(_buckets)}"
    moto.bucket(name)
    return name


@pytest.fixture
def store(moto: MotoS3, bucket: str) -> S3Store:
    return S3Store(moto.settings(f"s3://{bucket}/vol1"))


@pytest.fixture(scope="module")
def silent(moto: MotoS3) -> S3Store:
    """A store for answers that no server gives: it takes a third of a second to make, so they share it."""
    return S3Store(moto.settings("s3://silent-bucket/vol1"))


@pytest.fixture
def stub(silent: S3Store) -> Iterator[Stubber]:
    with Stubber(silent._client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def body(data: bytes, length: int | None = None) -> StreamingBody:
    return StreamingBody(io.BytesIO(data), len(data) if length is None else length)


def test_listings_have_more_than_one_page(moto: MotoS3, bucket: str, store: S3Store) -> None:
    """T27: a server gives at most 1,000 keys at once."""
    ids = {digest(number) for number in range(2600)}
    moto.fill(bucket, [f"vol1/data/{text[:2]}/{text}" for text in ids])
    assert {entry.name[-64:] for entry in store.list("data/")} == ids


def test_deletes_have_more_than_one_batch(moto: MotoS3, bucket: str, store: S3Store) -> None:
    names = [f"snapshots/{digest(number)}" for number in range(2501)]
    moto.fill(bucket, [f"vol1/{name}" for name in names] + [f"vol1/{NAME}"])
    store.delete(names)
    assert moto.keys(bucket) == {f"vol1/{NAME}"}


def test_a_prefix_is_a_whole_directory(moto: MotoS3, bucket: str, store: S3Store) -> None:
    """T1: what belongs to vol10 is not vol1's."""
    theirs = {f"vol10/{NAME}", f"vol1/old/{NAME}", NAME, "vol1/snapshots-old/x", "vol1/snapshots/README"}
    moto.fill(bucket, sorted(theirs))
    assert list(store.list("snapshots/")) == []
    store.delete([NAME])
    assert moto.keys(bucket) == theirs


@pytest.mark.parametrize("prefix", ["", "/", "/a", "/a/b/", "/a//"])
def test_any_prefix_will_do(moto: MotoS3, bucket: str, prefix: str) -> None:
    store = S3Store(moto.settings(f"s3://{bucket}{prefix}"))
    store.put(NAME, b"x")
    assert [entry.name for entry in store.list("snapshots/")] == [NAME]
    assert moto.keys(bucket) == {f"{prefix.strip('/')}/{NAME}".lstrip("/")}


@pytest.mark.parametrize("work", ["get", "size", "put", "list", "delete"])
def test_a_missing_bucket_is_not_an_empty_one(moto: MotoS3, work: str) -> None:
    """T24, T27."""
    store = S3Store(moto.settings("s3://no-such-bucket/x"))
    with pytest.raises(RepositoryUnreachable, match=r"NoSuchBucket.*make the bucket") as caught:
        _do(store, work)
    assert not isinstance(caught.value, Transient)


def _do(store: S3Store, work: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: store.get(NAME),
        "size": lambda: store.size(NAME),
        "put": lambda: store.put(NAME, b"x"),
        "list": lambda: list(store.list("snapshots/")),
        "delete": lambda: store.delete([NAME, "config"]),
    }
    calls[work]()


METHODS = {"get": "get_object", "size": "head_object", "put": "put_object", "list": "list_objects_v2",
           "delete": "delete_objects"}  # fmt: skip


@pytest.mark.parametrize("work", METHODS)
@pytest.mark.parametrize(
    ("code", "status", "kind", "said"),
    [
        ("AccessDenied", 403, RepositoryUnreachable, "AccessDenied.*bucket's policy"),
        ("403", 403, RepositoryUnreachable, "bucket's policy"),
        ("InvalidAccessKeyId", 403, RepositoryUnreachable, "check the access key"),
        ("SignatureDoesNotMatch", 403, RepositoryUnreachable, "check the secret key"),
        ("ExpiredToken", 400, RepositoryUnreachable, "renew the session token"),
        ("RequestTimeTooSkewed", 403, RepositoryUnreachable, "set this machine's clock"),
        ("PermanentRedirect", 301, RepositoryUnreachable, "set the repository's region"),
        ("NotImplemented", 501, RepositoryUnreachable, "NotImplemented"),
        ("SlowDown", 503, Transient, "SlowDown"),
        ("503", 503, Transient, "503"),
        ("InternalError", 500, Transient, "InternalError"),
        ("500", 500, Transient, "500"),
        ("TooManyRequests", 429, Transient, "TooManyRequests"),
        ("RequestTimeout", 400, Transient, "RequestTimeout"),
        ("QuotaExceeded", 403, NoSpace, "QuotaExceeded.*raise its quota"),
    ],
)
def test_no_error_is_absence(
    silent: S3Store, stub: Stubber, work: str, code: str, status: int, kind: type[SnapvolError], said: str
) -> None:
    """T27: what may pass is retried, the rest fails loudly with what to do."""
    stub.add_client_error(METHODS[work], code, "", status)
    if work == "size" and code == "403":  # HEAD says no more than that: GET is asked for the reason
        stub.add_client_error("get_object", "AccessDenied", "", 403)
    with pytest.raises(kind, match=said) as caught:
        _do(silent, work)
    assert type(caught.value) is kind
    assert "s3://silent-bucket/vol1" in str(caught.value)


def test_404_without_a_reason_is_not_absence(silent: S3Store, stub: Stubber) -> None:
    """T27: a proxy's own 404 page says nothing of the object."""
    stub.add_client_error("head_object", "404", "Not Found", 404)
    stub.add_client_error("get_object", "404", "Not Found", 404)
    with pytest.raises(RepositoryUnreachable, match="404 Not Found"):
        silent.size(NAME)
    stub.add_client_error("get_object", "404", "Not Found", 404)
    with pytest.raises(RepositoryUnreachable):
        silent.get(NAME)


def test_404_then_200(silent: S3Store, stub: Stubber) -> None:
    """T27: HEAD that lags behind does not make an object absent."""
    stub.add_client_error("head_object", "404", "Not Found", 404)
    stub.add_response("get_object", {"Body": body(b"abc"), "ContentLength": 3})
    assert silent.size(NAME) == 3


def test_an_object_not_yet_there_after_put_is_tried_again(silent: S3Store, stub: Stubber) -> None:
    """T27."""
    stub.add_response("put_object", {})
    stub.add_client_error("head_object", "404", "Not Found", 404)
    with pytest.raises(Transient, match="not yet"):
        silent.put(NAME, b"abc")


def test_what_was_stored_is_measured(silent: S3Store, stub: Stubber) -> None:
    """Rule 7: a server that stores less and says 200 is caught before an index names the object."""
    stub.add_response("put_object", {})
    stub.add_response("head_object", {"ContentLength": 2})
    with pytest.raises(Damaged, match="has 2 bytes after 3 were stored"):
        silent.put(NAME, b"abc")


def test_a_checksum_in_the_answer_is_worth_a_request(silent: S3Store, stub: Stubber) -> None:
    """Rule 7: another one is none; servers that encrypt answer with something else, and the size is asked for."""
    stub.add_response("put_object", {"ETag": f'"{md5(b"abc").hexdigest()}"'})
    silent.put(NAME, b"abc")
    stub.assert_no_pending_responses()
    stub.add_response("put_object", {"ETag": f'"{md5(b"ab").hexdigest()}"'})
    stub.add_response("head_object", {"ContentLength": 2})
    with pytest.raises(Damaged, match="has 2 bytes after 3 were stored"):
        silent.put(NAME, b"abc")


@pytest.mark.parametrize("arguments", [(), (0, 5), (2, 5)])
def test_an_answer_that_breaks_off_is_tried_again(silent: S3Store, stub: Stubber, arguments: tuple[int, ...]) -> None:
    """T27: truncated GET."""
    stub.add_response("get_object", {"Body": body(b"abc", 5), "ContentLength": 5})
    with pytest.raises(Transient):
        silent.get(NAME, *arguments)


def test_an_answer_shorter_than_it_says_is_tried_again(silent: S3Store, stub: Stubber) -> None:
    stub.add_response("get_object", {"Body": body(b"abc"), "ContentLength": 5})
    with pytest.raises(Transient, match="broke off after 3 of 5 bytes"):
        silent.get(NAME)


def test_a_server_without_ranges_is_understood(silent: S3Store, stub: Stubber) -> None:
    stub.add_response("get_object", {"Body": body(b"0123456789"), "ContentLength": 10})
    assert silent.get(NAME, 3, 4) == b"3456"


def test_a_listing_without_an_end_raises(silent: S3Store, stub: Stubber) -> None:
    """T24: truncated without a way on, or going in circles."""
    stub.add_response("list_objects_v2", {"IsTruncated": True, "Contents": []})
    with pytest.raises(RepositoryUnreachable, match="breaks off"):
        list(silent.list("data/"))
    for _ in range(2):
        stub.add_response("list_objects_v2", {"IsTruncated": True, "NextContinuationToken": "t", "Contents": []})
    with pytest.raises(RepositoryUnreachable, match="breaks off"):
        list(silent.list("data/"))


def test_a_listing_that_fails_on_its_second_page_raises(silent: S3Store, stub: Stubber) -> None:
    """T24."""
    page = {"IsTruncated": True, "NextContinuationToken": "t", "Contents": [{"Key": f"vol1/{NAME}", "Size": 1}]}
    stub.add_response("list_objects_v2", page)
    stub.add_client_error("list_objects_v2", "InternalError", "", 500)
    with pytest.raises(Transient):
        list(silent.list("snapshots/"))


def test_each_key_of_a_batch_is_looked_at(silent: S3Store, stub: Stubber) -> None:
    """A batch is answered 200 even where nothing was deleted."""
    errors = [{"Key": "vol1/config", "Code": "AccessDenied", "Message": "no"}, {"Key": "k", "Code": "NoSuchKey"}]
    stub.add_response("delete_objects", {"Errors": errors})
    with pytest.raises(RepositoryUnreachable, match=r"cannot delete 1 objects, the first config.*AccessDenied no"):
        silent.delete([NAME, "config"])


def test_one_failed_batch_does_not_stop_the_others(silent: S3Store, stub: Stubber) -> None:
    stub.add_client_error("delete_objects", "SlowDown", "", 503)
    stub.add_response("delete_objects", {})
    with pytest.raises(Transient):
        silent.delete([f"snapshots/{digest(number)}" for number in range(1002)])


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (EndpointConnectionError(endpoint_url="http://x"), Transient, "check the endpoint and the network"),
        (SSLError(endpoint_url="x", error=OSError("CERTIFICATE_VERIFY_FAILED")), RepositoryUnreachable, "set ca_file"),
        (SSLError(endpoint_url="x", error=OSError("EOF occurred")), Transient, "EOF"),
        (NoCredentialsError(), RepositoryUnreachable, "no credentials for s3://b.*set credentials_file"),
    ],
)
def test_what_boto3_says_is_explained(error: Exception, kind: type[SnapvolError], said: str) -> None:
    found = explained(error, "cannot read config", "s3://b")
    assert type(found) is kind
    assert said.partition(".*")[0] in str(found)
    assert "\n" not in str(found)


def test_nobody_listens(tmp_path: Path, moto: MotoS3) -> None:
    settings = RepositorySettings(
        url="s3://bkt/x", endpoint="http://127.0.0.1:9", credentials_file=moto.settings("s3://b").credentials_file
    )
    with pytest.raises(Transient, match="check the endpoint"):
        S3Store(settings).size("config")


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://bu cket/x", "s3://b/", "s3://../x"])
def test_urls_without_a_bucket_are_refused(moto: MotoS3, url: str) -> None:
    """T16."""
    with pytest.raises(SettingsError, match="does not name a bucket"):
        S3Store(moto.settings(url))


def test_settings_are_checked(moto: MotoS3, tmp_path: Path) -> None:
    """T16, T43."""
    file = tmp_path / "credentials"
    with pytest.raises(SettingsError, match="valid: auto, path, virtual"):
        S3Store(RepositorySettings(url="s3://bkt/x", addressing="pth"))
    with pytest.raises(SettingsError, match="cannot read credentials_file"):
        S3Store(RepositorySettings(url="s3://bkt/x", credentials_file=file))
    file.write_text(CREDENTIALS)
    file.chmod(0o644)
    with pytest.raises(Refused, match=f"{file} can be read by others; chmod 600 {file}"):
        S3Store(RepositorySettings(url="s3://bkt/x", credentials_file=file))
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="check profile"):
        S3Store(RepositorySettings(url="s3://bkt/x", credentials_file=file, profile="other"))
    with pytest.raises(SettingsError, match=r"ca_file .* does not exist"):
        S3Store(RepositorySettings(url="s3://bkt/x", ca_file=tmp_path / "none"))


def test_a_profile_is_used(moto: MotoS3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "credentials"
    file.write_text("[backup]\naws_access_key_id = AKIABACKUP\naws_secret_access_key = s\n")
    file.chmod(0o600)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    settings = RepositorySettings(url=f"s3://{bucket}", endpoint=moto.endpoint, credentials_file=file, profile="backup")
    sent = _signed(S3Store(settings))
    assert "Credential=AKIABACKUP/" in sent["Authorization"]


def test_the_environment_is_used_without_a_file(moto: MotoS3, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    sent = _signed(S3Store(RepositorySettings(url=f"s3://{bucket}", endpoint=moto.endpoint)))
    assert "Credential=AKIAENV/" in sent["Authorization"]
    assert sent["X-Amz-Security-Token"] == "token"


def _signed(store: S3Store) -> dict[str, str]:
    """Return the headers of a PUT."""
    seen: dict[str, str] = {}

    def look(request: Any, **_: object) -> None:
        if request.method == "PUT":
            seen.update({key: value.decode() if isinstance(value, bytes) else value
                         for key, value in request.headers.items()})  # fmt: skip
            seen["url"] = request.url

    store._client.meta.events.register("before-send.s3", look)
    store.put(NAME, bytearray(b"x"))
    return seen


def test_other_servers_get_no_checksums_they_may_reject(store: S3Store) -> None:
    """Rule 8. The signature covers the body's SHA-256, so nothing is lost."""
    sent = _signed(store)
    assert not [
        header for header in sent if header.lower().startswith(("x-amz-checksum", "x-amz-sdk", "x-amz-trailer"))
    ]
    assert sent["X-Amz-Content-SHA256"] == sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("endpoint", "addressing", "host"),
    [
        ("http://server.test:8000", "auto", "http://server.test:8000/bkt/"),
        ("http://server.test:8000", "path", "http://server.test:8000/bkt/"),
        ("http://server.test:8000", "virtual", "http://bkt.server.test:8000/"),
        ("", "auto", "https://bkt.s3."),
        ("https://s3.eu-west-1.amazonaws.com", "auto", "https://s3.eu-west-1.amazonaws.com/bkt/"),
        ("", "path", "https://s3."),
    ],
)
def test_addressing(endpoint: str, addressing: str, host: str, moto: MotoS3) -> None:
    settings = RepositorySettings(
        url="s3://bkt/x",
        endpoint=endpoint,
        addressing=addressing,
        region="eu-west-1",
        credentials_file=moto.settings("s3://b").credentials_file,
    )
    url = S3Store(settings)._client.generate_presigned_url("head_object", Params={"Bucket": "bkt", "Key": "k"})
    assert url.startswith(host)


def test_no_secret_is_shown(moto: MotoS3, bucket: str, caplog: pytest.LogCaptureFixture) -> None:
    """T42."""
    caplog.set_level(logging.DEBUG, logger="snapvol")
    store = S3Store(moto.settings(f"s3://{bucket}/x"))
    store.put(NAME, b"x")
    with pytest.raises(NotFound) as caught:
        store.get("config")
    assert "secretsecret" not in f"{caught.value}{store!r}{vars(store)}{caplog.text}"
