"""The admin API: every route in one table, and the small functions behind it.

A function's signature is its contract: parameters named in the path are names that were checked, ``query`` and
``body`` are records, the result is a record or a list of them. The server and the OpenAPI document both read it.
All of them run in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from snapvol.api import (
    BackupInfo,
    ChangeInfo,
    Event,
    Finding,
    Forecast,
    JobInfo,
    Plan,
    PolicyInfo,
    PoolInfo,
    SnapshotInfo,
    Status,
    TrashInfo,
    VolumeInfo,
)
from snapvol.daemon.records import (
    ByPolicy,
    Changes,
    DryRun,
    Emptying,
    Forgetting,
    Holder,
    Lines,
    Measuring,
    Mounted,
    Name,
    NameOrOwn,
    NewBackups,
    NewSnapshots,
    NewVolume,
    Nothing,
    OfRepository,
    OfVolume,
    Options,
    Points,
    Removal,
    Restore,
    Rollback,
    Size,
    Tag,
    Verification,
)
from snapvol.service.service import Service

HEARTBEAT = 2.0  # seconds between two lines of a stream in which nothing happens: shows each side that the other lives


# -- the whole --------------------------------------------------------------------------------------------------


def get_status(service: Service, query: OfVolume) -> Status:
    """Say what is protected, how much would be lost, and what needs attention."""
    return service.reports.status(query.volume)


def get_doctor(service: Service) -> list[Finding]:
    """Look for what is wrong with this machine or these settings."""
    return service.reports.doctor()


def get_config(service: Service) -> dict[str, Any]:
    """Show the effective settings and where each came from."""
    return service.config()


def list_pools(service: Service) -> list[PoolInfo]:
    """List the pools."""
    return service.pools()


# -- volumes ----------------------------------------------------------------------------------------------------


def list_volumes(service: Service) -> list[VolumeInfo]:
    """List the volumes, damaged ones too."""
    return service.volumes()


def create_volume(service: Service, body: NewVolume) -> VolumeInfo:
    """Create a volume: empty, from a snapshot or, filled by a job, from a backup."""
    return service.create_volume(body.name, body.options, body.labels)


def get_volume(service: Service, volume: str, query: Measuring) -> VolumeInfo:
    """Show one volume."""
    if query.measure:
        service.refresh_usage(volume)
    return service.volume(volume)


def remove_volume(service: Service, volume: str, query: Removal) -> Plan:
    """Move a volume to the trash."""
    return service.remove_volume(volume, dry_run=query.dry_run, permanent=query.permanent)


def set_options(service: Service, volume: str, body: Options) -> VolumeInfo:
    """Change a volume's options."""
    return service.set_options(volume, body.options)


def rename_volume(service: Service, volume: str, body: Name) -> VolumeInfo:
    """Give a volume another name."""
    return service.rename_volume(volume, body.name)


def resize_volume(service: Service, volume: str, body: Size) -> VolumeInfo:
    """Set how much a volume may hold."""
    return service.resize_volume(volume, body.size)


def mount_volume(service: Service, volume: str, body: Holder) -> Mounted:
    """Make a volume's contents available without Docker."""
    return Mounted(mountpoint=str(service.mount(volume, body.id)))


def unmount_volume(service: Service, volume: str, body: Holder) -> dict[str, Any]:
    """End one mount."""
    service.unmount(volume, body.id)
    return {}


def roll_back(service: Service, volume: str, body: Rollback) -> Plan:
    """Make a volume's contents those of its snapshot; what they were becomes a snapshot first."""
    return service.rollback(volume, body.snapshot, dry_run=body.dry_run)


def get_volume_log(service: Service, volume: str) -> list[Event]:
    """Tell what happened to a volume, oldest first."""
    return service.log(volume)


# -- snapshots --------------------------------------------------------------------------------------------------


def list_snapshots(service: Service) -> list[SnapshotInfo]:
    """List all snapshots, oldest first."""
    return service.snapshots(None)


def list_volume_snapshots(service: Service, volume: str) -> list[SnapshotInfo]:
    """List a volume's snapshots, oldest first."""
    return service.snapshots(volume)


def create_snapshots(service: Service, body: NewSnapshots) -> list[SnapshotInfo]:
    """Snapshot volumes, all at one instant where the storage can; all or none."""
    return service.snapshot(body.volumes, body.name, body.message)


def destroy_snapshot(service: Service, volume: str, snapshot: str, query: DryRun) -> Plan:
    """Destroy a snapshot."""
    return service.destroy_snapshot(volume, snapshot, dry_run=query.dry_run)


def hold_snapshot(service: Service, volume: str, snapshot: str, body: Tag) -> SnapshotInfo:
    """Keep a snapshot from being destroyed."""
    return service.hold(volume, snapshot, body.tag)


def release_snapshot(service: Service, volume: str, snapshot: str, body: Tag) -> SnapshotInfo:
    """Undo a hold."""
    return service.release(volume, snapshot, body.tag)


def get_diff(service: Service, query: Points) -> list[ChangeInfo]:
    """List the paths that differ between two points of a volume."""
    return service.diff(query.a, query.b)


# -- backups ----------------------------------------------------------------------------------------------------


def list_backups(service: Service, query: OfRepository) -> list[BackupInfo]:
    """List the backups in a repository."""
    return list(service.backups.list(query.volume, query.repository))


def create_backups(service: Service, body: NewBackups) -> list[JobInfo]:
    """Start backups, a job each."""
    return list(service.backups.back_up(body.objects, all=body.all, repository=body.repository))


def restore_backup(service: Service, body: Restore) -> JobInfo | Plan:
    """Start a restore; with ``dry_run`` say what it would do."""
    return service.backups.restore(
        body.backup,
        volume=body.volume,
        in_place=body.in_place,
        path=body.path,
        repository=body.repository,
        dry_run=body.dry_run,
    )


def verify_backups(service: Service, body: Verification) -> list[JobInfo]:
    """Start reading and checking backups, a job each."""
    return list(service.backups.verify(body.backups, body.repository))


def forget_backups(service: Service, body: Forgetting) -> Plan:
    """Take backups out of a repository."""
    return service.backups.forget(body.backups, body.repository, dry_run=body.dry_run, force=body.force)


# -- policies ---------------------------------------------------------------------------------------------------


def list_policies(service: Service) -> list[PolicyInfo]:
    """List the policies, with what they protect."""
    return service.policies.all()


def get_policy(service: Service, policy: str) -> PolicyInfo:
    """Show one policy."""
    return service.policies.show(policy)


def set_policy(service: Service, policy: str, body: Changes) -> PolicyInfo:
    """Make a policy, or change one that the settings file does not have."""
    return service.policies.set(policy, body.fields)


def remove_policy(service: Service, policy: str) -> dict[str, Any]:
    """Remove a policy; what it made stays."""
    service.policies.remove(policy)
    return {}


def run_policy(service: Service, policy: str, body: Nothing) -> list[JobInfo]:
    """Do now what a policy does by its schedules."""
    return service.policies.run(policy)


def simulate_policy(service: Service, policy: str) -> list[Forecast]:
    """Say what a policy will have kept in a day, in 30 days and in a year."""
    return service.policies.simulate(policy)


def forget_by_policy(service: Service, body: ByPolicy) -> Plan:
    """Take those backups out of a repository that policies made and keep no longer."""
    return service.protection.forget(body.repository, dry_run=body.dry_run)


# -- jobs -------------------------------------------------------------------------------------------------------


def list_jobs(service: Service) -> list[JobInfo]:
    """List the jobs, running ones and history, oldest first."""
    return list(service.jobs.list())


def get_job(service: Service, job: str) -> JobInfo:
    """Show one job, by its id or the beginning of it."""
    return service.jobs.get(job)


def get_job_log(service: Service, job: str) -> Lines:
    """Show what a job said."""
    return Lines(lines=list(service.jobs.log(job)))


def watch_job(service: Service, job: str) -> Iterator[JobInfo]:
    """Stream a job, a line of JSON for each change, until it has ended."""
    return service.jobs.watch(job, HEARTBEAT)


def cancel_job(service: Service, job: str, body: Nothing) -> JobInfo:
    """Stop a job."""
    return service.jobs.cancel(job)


def retry_job(service: Service, job: str, body: Nothing) -> JobInfo:
    """Do again what a job failed to do, as a new job."""
    return service.jobs.retry(job)


# -- trash ------------------------------------------------------------------------------------------------------


def list_trash(service: Service) -> list[TrashInfo]:
    """List the removed volumes that can be brought back, newest first."""
    return service.trash()


def undelete_volume(service: Service, ref: str, body: NameOrOwn) -> VolumeInfo:
    """Bring a removed volume back, by name or id."""
    return service.undelete(ref, body.name)


def empty_trash(service: Service, query: Emptying) -> Plan:
    """Remove what is in the trash for good."""
    return service.empty_trash(query.name, dry_run=query.dry_run)


Action = Callable[..., Any]

TABLE: tuple[tuple[str, str, Action], ...] = (
    ("GET", "/v1/status", get_status),
    ("GET", "/v1/doctor", get_doctor),
    ("GET", "/v1/config", get_config),
    ("GET", "/v1/pools", list_pools),
    ("GET", "/v1/volumes", list_volumes),
    ("POST", "/v1/volumes", create_volume),
    ("GET", "/v1/volumes/{volume}", get_volume),
    ("DELETE", "/v1/volumes/{volume}", remove_volume),
    ("PATCH", "/v1/volumes/{volume}", set_options),
    ("POST", "/v1/volumes/{volume}/rename", rename_volume),
    ("POST", "/v1/volumes/{volume}/resize", resize_volume),
    ("POST", "/v1/volumes/{volume}/mount", mount_volume),
    ("POST", "/v1/volumes/{volume}/unmount", unmount_volume),
    ("POST", "/v1/volumes/{volume}/rollback", roll_back),
    ("GET", "/v1/volumes/{volume}/log", get_volume_log),
    ("GET", "/v1/volumes/{volume}/snapshots", list_volume_snapshots),
    ("DELETE", "/v1/volumes/{volume}/snapshots/{snapshot}", destroy_snapshot),
    ("POST", "/v1/volumes/{volume}/snapshots/{snapshot}/hold", hold_snapshot),
    ("POST", "/v1/volumes/{volume}/snapshots/{snapshot}/release", release_snapshot),
    ("GET", "/v1/snapshots", list_snapshots),
    ("POST", "/v1/snapshots", create_snapshots),
    ("GET", "/v1/diff", get_diff),
    ("GET", "/v1/backups", list_backups),
    ("POST", "/v1/backups", create_backups),
    ("POST", "/v1/restores", restore_backup),
    ("POST", "/v1/verifications", verify_backups),
    ("POST", "/v1/forget", forget_backups),
    ("GET", "/v1/policies", list_policies),
    ("GET", "/v1/policies/{policy}", get_policy),
    ("PATCH", "/v1/policies/{policy}", set_policy),
    ("DELETE", "/v1/policies/{policy}", remove_policy),
    ("POST", "/v1/policies/{policy}/run", run_policy),
    ("GET", "/v1/policies/{policy}/simulation", simulate_policy),
    ("POST", "/v1/forget-by-policy", forget_by_policy),
    ("GET", "/v1/jobs", list_jobs),
    ("GET", "/v1/jobs/{job}", get_job),
    ("GET", "/v1/jobs/{job}/log", get_job_log),
    ("GET", "/v1/jobs/{job}/events", watch_job),
    ("POST", "/v1/jobs/{job}/cancel", cancel_job),
    ("POST", "/v1/jobs/{job}/retry", retry_job),
    ("GET", "/v1/trash", list_trash),
    ("POST", "/v1/trash/{ref}/undelete", undelete_volume),
    ("DELETE", "/v1/trash", empty_trash),
)
