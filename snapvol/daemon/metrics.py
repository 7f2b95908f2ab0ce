"""What Prometheus reads: the state of volumes, pools and jobs at the moment of asking, and how fast we answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from snapvol import __version__
from snapvol.api import JobState, Level, Status
from snapvol.model import State
from snapvol.service.service import Service

TEXT = CONTENT_TYPE_LATEST
JOBS = ("backup", "restore", "verify")
KINDS = ("housekeeping", "job", "notification", "other", "ping", "pool", "repository", "snapshot", "volume")
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
        ProcessCollector(registry=self._registry)

    def answered(self, socket: str, endpoint: str, seconds: float) -> None:
        """Note that a request was answered; ``endpoint`` is one of a fixed set, never what a client made up."""
        self._answers.labels(socket, endpoint).observe(seconds)

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.Lock()
        self._counted = {job.id for job in service.jobs.list() if job.state.ended}
        ends = [state.value for state in JobState if state.ended]
        # All begin at 0: of a counter that is not there before its first event, Prometheus misses that event.
        self._ended = Counter({(kind, end): 0 for kind in JOBS for end in ends})

    def describe(self) -> Iterable[Metric]:
        return ()  # the registry asks only for clashes of names, and it is ours alone

    def collect(self) -> Iterable[Metric]:
        yield _gauge("snapvol_build_info", "The version of this daemon.", ("version",), [((__version__,), 1)])
        yield from self._volumes()
        yield from self._pools()
        yield from self._jobs()
        yield from _status(self._service.reports.status())
        text = "When a task of the housekeeping last ended; one that is stuck falls behind."
        ends = [((task,), moment) for task, moment in self._service.pulse.ends().items()]
        yield _gauge("snapvol_housekeeping_last_end_timestamp_seconds", text, ("task",), ends)

    def _jobs(self) -> Iterable[Metric]:
        jobs = self._service.jobs.list()
        states = Counter(job.state for job in jobs)
        counts = [((state.value,), states[state]) for state in JobState]
        yield _gauge("snapvol_jobs", "Jobs by state, as far as history goes.", ("state",), counts)
        with self._lock:
            ended = {job.id: (job.kind, job.state.value) for job in jobs if job.state.ended}
            self._ended.update(ended[id] for id in ended.keys() - self._counted)
            self._counted = set(ended)
            totals = dict(self._ended)
        text = "Jobs that ended since the daemon began, by kind and outcome."
        family = CounterMetricFamily("snapvol_jobs_ended", text, labels=("kind", "state"))
        for labels, total in totals.items():
            family.add_metric(labels, total)
        yield family

    def _volumes(self) -> Iterable[Metric]:
        every = self._service.volumes()
        states = Counter((info.pool, "damaged" if info.damaged else info.state.value) for info in every)
        infos = {info.name: info for info in reversed(every)}.values()  # of two with one name, the first has it
        yield _gauge("snapvol_volumes", "Volumes by state.", ("pool", "state"), states.items())
        used = [((info.name, info.pool), info.used) for info in infos if info.used is not None]
        yield _gauge("snapvol_volume_used_bytes", "What a volume's contents take.", ("volume", "pool"), used)
        points = [((info.name,), info.snapshots) for info in infos]
        yield _gauge("snapvol_volume_snapshots", "Snapshots of a volume.", ("volume",), points)
        backups = [((info.name,), info.last_backup.time.timestamp()) for info in infos if info.last_backup]
        text = "When a volume was last backed up; time() less this is what a lost machine would cost."
        yield _gauge("snapvol_volume_last_backup_timestamp_seconds", text, ("volume",), backups)
        taken = [((info.name,), info.last_snapshot.timestamp()) for info in infos if info.last_snapshot]
        text = "When a volume's newest snapshot was taken."
        yield _gauge("snapvol_volume_last_snapshot_timestamp_seconds", text, ("volume",), taken)
        created = [((info.name,), info.created.timestamp()) for info in infos if info.created]
        yield _gauge("snapvol_volume_created_timestamp_seconds", "When a volume was made.", ("volume",), created)
        ready = [((info.name,), int(not info.damaged and info.state is State.READY)) for info in infos]
        text = "Whether a volume can be used: 0 while it is restored, where that failed, and where it is damaged."
        yield _gauge("snapvol_volume_ready", text, ("volume",), ready)
        policies = [((info.name,), 1) for info in infos if info.options.get("policy") == "none"]
        text = "1 for volumes that are to have no backups: policy=none."
        yield _gauge("snapvol_volume_unprotected", text, ("volume",), policies)

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


def _status(status: Status) -> Iterable[Metric]:
    levels = (Level.WARNING, Level.ERROR)
    counts = Counter((finding.level.value, kind(finding.subject)) for finding in status.findings)
    seen = {(level.value, subject): 0 for level in levels for subject in KINDS} | counts
    text = "What `snapvol status` says needs attention, by level and by what it is about."
    yield _gauge("snapvol_findings", text, ("level", "kind"), seen.items())
    asked = [((it.name,), int(it.ok)) for it in status.repositories if it.ok is not None]
    text = "Whether a repository opened when it was last asked; it is asked every quarter of an hour."
    yield _gauge("snapvol_repository_reachable", text, ("repository",), asked)


def kind(subject: str) -> str:
    """Return what a finding's subject is: one of `KINDS`, so that there are not as many labels as objects."""
    word = subject.partition(" ")[0]
    if " of '" in subject:
        return "job"  # "backup of 'web'"
    return word if word in KINDS else "other"


def _gauge(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family
