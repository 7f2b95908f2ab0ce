"""zstd with the checks that untrusted input and a once faulty encoder call for."""

from __future__ import annotations

import threading

import zstandard

from snapvol.errors import Damaged, RepositoryError
from snapvol.stores.base import Buffer

FASTEST = 1  # the level below which frames become much larger
LARGE = 128 << 10  # bytes from which on another table pays
DENSE = 0.6  # stored bytes per byte above which there is little to gain

_threads = threading.local()  # a zstd context serves one thread at a time
_UNKNOWN = zstandard.CONTENTSIZE_UNKNOWN


def compress(data: Buffer, level: int) -> bytes:
    """Return ``data`` as one zstd frame that states its size."""
    return _compressor(level).compress(data)


def compress_large(data: Buffer, level: int) -> bytes:
    """Return the same as `compress`, in less time where a thread's last large piece told that there is little to gain.

    At the fastest level much of the time goes into looking for repetitions. In pages of databases, of which half is
    noise, a larger table and fewer looks find more of them, in four fifths of the time; in text they find fewer.
    """
    if level != FASTEST or len(data) < LARGE:
        return compress(data, level)
    frame = (_skimmer() if getattr(_threads, "dense", False) else _compressor(level)).compress(data)
    _threads.dense = len(frame) > DENSE * len(data)
    return frame


def decompress(frame: Buffer, size: int, what: str) -> bytes:
    """Return the ``size`` bytes that ``frame`` holds; no more memory is taken than that.

    Args:
        frame: a zstd frame.
        size: what an index or header says that it holds; the caller has checked that it is sensible.
        what: names the object in errors.

    Raises:
        Damaged: the frame is broken or holds more or fewer bytes.
    """
    try:
        stated = zstandard.frame_content_size(frame)
        if stated not in (_UNKNOWN, -1, size):
            raise Damaged(f"{what} decompresses to {stated} bytes, not {size}")
        plain = _decompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Damaged(f"{what} cannot be decompressed: {error}") from error
    if len(plain) != size:
        raise Damaged(f"{what} decompresses to {len(plain)} bytes, not {size}")
    return plain


def decompress_up_to(frame: Buffer, limit: int, what: str) -> bytes:
    """Return what ``frame`` holds, whose size nobody else states.

    Raises:
        Damaged: the frame is broken or holds more than ``limit`` bytes.
    """
    parts = []
    total = 0
    try:
        stated = zstandard.frame_content_size(frame)
        with _decompressor().stream_reader(frame) as reader:
            while part := reader.read(1 << 20):
                total += len(part)
                if total > limit:
                    raise Damaged(f"{what} decompresses to more than {limit} bytes")
                parts.append(part)
    except (zstandard.ZstdError, MemoryError) as error:
        raise Damaged(f"{what} cannot be decompressed: {error}") from error
    if stated not in (_UNKNOWN, -1, total):
        raise Damaged(f"{what} decompresses to {total} bytes, not {stated}")
    return b"".join(parts)


def check_round_trip(frame: bytes, data: Buffer) -> None:
    """Make sure that ``frame`` decompresses to ``data``: an encoder's bug once corrupted backups silently.

    Raises:
        RepositoryError: it does not.
    """
    if _decompressor().decompress(frame, max_output_size=len(data)) != data:
        raise RepositoryError("zstd compressed data that it does not decompress to the same bytes", "check the memory")


def _compressor(level: int) -> zstandard.ZstdCompressor:
    contexts: dict[int, zstandard.ZstdCompressor] = _threads.__dict__.setdefault("compressors", {})
    context = contexts.get(level)
    if context is None:
        context = contexts[level] = zstandard.ZstdCompressor(level=level)
    return context


def _skimmer() -> zstandard.ZstdCompressor:
    context: zstandard.ZstdCompressor | None = getattr(_threads, "skimmer", None)
    if context is None:
        tuned = zstandard.ZstdCompressionParameters.from_level(
            FASTEST, strategy=zstandard.STRATEGY_FAST, hash_log=15, min_match=6, target_length=1
        )
        context = _threads.skimmer = zstandard.ZstdCompressor(compression_params=tuned)
    return context


def _decompressor() -> zstandard.ZstdDecompressor:
    context: zstandard.ZstdDecompressor | None = getattr(_threads, "decompressor", None)
    if context is None:
        # 128 MiB: the largest window that zstd itself opens unasked.
        context = _threads.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
    return context
