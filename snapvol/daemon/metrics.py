"""What Prometheus reads: the state of volumes, pools and jobs at the moment of asking, and how fast we answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from snapvol import __version__
from snapvol.api import JobState
from snapvol.service.service import Service

TEXT = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """All metrics of this daemon."""

    def __init__(self, service: Service) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._answers = Histogram(
            "snapvol_request_seconds",
            "From a request's headers to its answer.",
            ("socket", "endpoint"),
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._registry.register(_State(service))

    def answered(self, socket: str, endpoint: str, seconds: float) -> None:
        """Note that a request was answered; ``endpoint`` is one of a fixed set, never what a client made up."""
        self._answers.labels(socket, endpoint).observe(seconds)

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service

    def describe(self) -> Iterable[Metric]:
        return ()  # the registry asks only for clashes of names, and it is ours alone

    def collect(self) -> Iterable[Metric]:
        yield _gauge("snapvol_info", "The version of this daemon.", ("version",), [((__version__,), 1)])
        yield from self._volumes()
        yield from self._pools()
        states = Counter(job.state for job in self._service.jobs.list())
        counts = [((state.value,), states[state]) for state in JobState]
        yield _gauge("snapvol_jobs", "Jobs by state, as far as history goes.", ("state",), counts)

    def _volumes(self) -> Iterable[Metric]:
        infos = self._service.volumes()
        states = Counter((info.pool, "damaged" if info.damaged else info.state.value) for info in infos)
        yield _gauge("snapvol_volumes", "Volumes by state.", ("pool", "state"), states.items())
        used = [((info.name, info.pool), info.used) for info in infos if info.used is not None]
        yield _gauge("snapvol_volume_used_bytes", "What a volume's contents take.", ("volume", "pool"), used)
        points = [((info.name,), info.snapshots) for info in infos]
        yield _gauge("snapvol_volume_snapshots", "Snapshots of a volume.", ("volume",), points)
        backups = [((info.name,), info.last_backup.time.timestamp()) for info in infos if info.last_backup]
        text = "When a volume was last backed up; time() less this is what a lost machine would cost."
        yield _gauge("snapvol_volume_last_backup_timestamp_seconds", text, ("volume",), backups)

    def _pools(self) -> Iterable[Metric]:
        pools = self._service.pools()
        for name, text, value in (
            ("ok", "Whether volumes can be created, written and snapshotted.", lambda pool: int(pool.ok)),
            ("size_bytes", "What a pool holds in all.", lambda pool: pool.size),
            ("free_bytes", "What can still be written.", lambda pool: pool.free),
        ):
            yield _gauge(f"snapvol_pool_{name}", text, ("pool",), [((pool.name,), value(pool)) for pool in pools])
        sizes = [((pool.name,), pool.metadata_size) for pool in pools if pool.metadata_size is not None]
        yield _gauge("snapvol_pool_metadata_size_bytes", "What its own bookkeeping may take.", ("pool",), sizes)
        free = [((pool.name,), pool.metadata_free) for pool in pools if pool.metadata_free is not None]
        yield _gauge("snapvol_pool_metadata_free_bytes", "What is left of that.", ("pool",), free)


def _gauge(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
