"""S3 in this process, for unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from snapvol.settings import RepositorySettings

ACCOUNT = "123456789012"  # moto's
CREDENTIALS = "[default]\naws_access_key_id = AKIATESTTESTTEST\naws_secret_access_key = secretsecretsecret\n"


class MotoS3:
    """A server on 127.0.0.1.

    Attributes:
        endpoint: its URL.
    """

    def __init__(self, endpoint: str, place: Path) -> None:
        self.endpoint = endpoint
        self._credentials = place / "credentials"
        self._credentials.write_text(CREDENTIALS)
        self._credentials.chmod(0o600)

    def settings(self, url: str) -> RepositorySettings:
        """Return settings for ``url`` on this server."""
        return RepositorySettings(url=url, endpoint=self.endpoint, credentials_file=self._credentials)

    def bucket(self, name: str) -> None:
        """Make a bucket."""
        from moto.s3.models import s3_backends

        s3_backends[ACCOUNT]["aws"].create_bucket(name, "us-east-1")

    def fill(self, bucket: str, keys: list[str]) -> None:
        """Make objects of three bytes behind the server's back: thousands in no time."""
        from moto.s3.models import s3_backends

        for key in keys:
            s3_backends[ACCOUNT]["aws"].put_object(bucket, key, b"abc")

    def empty(self, bucket: str) -> None:
        """Remove all objects of a bucket."""
        from moto.s3.models import s3_backends

        s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.clear()

    def keys(self, bucket: str) -> set[str]:
        """Return all keys in a bucket."""
        from moto.s3.models import s3_backends

        return set(s3_backends[ACCOUNT]["aws"].buckets[bucket].keys.keys())


@contextmanager
def served(place: Path) -> Iterator[MotoS3]:
    """Serve S3 until the end of the block; ``place`` takes the credentials file."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield MotoS3(f"http://{host}:{port}", place)
    finally:
        server.stop()
