"""The options ``zfs.PROPERTY``: what may be asked for, and how a dataset of ours is made."""

from __future__ import annotations

from collections.abc import Mapping

from snapvol.backends import zfsrecords
from snapvol.backends.zfstool import Value
from snapvol.errors import SnapvolError, UnknownOption, Unsupported, UsageError, nearest
from snapvol.model import Volume

PREFIX = "zfs."
# With these nothing but snapvol mounts a volume: not `zfs mount -a`, not zfs-mount.service, not `zpool import`.
_OURS = {"canmount": "noauto", "mountpoint": "legacy", "snapdir": "hidden"}
# Without these ZFS keeps no ACLs, and extended attributes in hidden directories; an administrator's choice stands.
_BETTER = {"acltype": "posixacl", "xattr": "sa"}
_KEY = ("encryption", "keyformat", "keylocation", "pbkdf2iters")
# Settled when a file system is made; a clone has what its origin has.
FIXED = (*_KEY, "casesensitivity", "normalization", "utf8only", "version")
_REFUSED = {
    "mountpoint": "snapvol mounts volumes where Docker looks for them",
    "canmount": "snapvol mounts volumes when Docker asks for it",
    "snapdir": "snapshots would show up inside the volume",
    "refquota": "that is the option 'size'",
    "readonly": "nothing could be written, not even by a restore; mount it read-only into the container",
    "sharenfs": "what Docker mounts is not shared by ZFS",
    "sharesmb": "what Docker mounts is not shared by ZFS",
    "zoned": "the file system would belong to a container",
    "jailed": "the file system would belong to a jail",
}
# What `zfs get` shows beside what can be set.
_FACTS = frozenset(
    (
        "type", "creation", "used", "available", "referenced", "compressratio", "mounted", "createtxg", "guid",
        "origin", "usedbysnapshots", "usedbydataset", "usedbychildren", "usedbyrefreservation", "objsetid",
        "refcompressratio", "written", "logicalused", "logicalreferenced", "filesystem_count", "snapshot_count",
        "encryptionroot", "keystatus", "receive_resume_token", "redact_snaps",
    )
)  # fmt: skip


def check(volume: Volume, known: Mapping[str, Value]) -> dict[str, str]:
    """Return the native properties that a volume's options ask for.

    What values they take only ZFS knows: see `explained`.

    Args:
        volume: it.
        known: the properties of a file system that this ZFS has.

    Raises:
        UnknownOption: this ZFS has no such property.
        Unsupported: it is snapvol's to set, or would do harm; says why.
        UsageError: a key that nobody could give when it is needed.
    """
    asked = {key.removeprefix(PREFIX): value for key, value in volume.options.items() if key.startswith(PREFIX)}
    what = f"volume '{volume.name}'"
    valid = sorted(name for name in known if name not in _FACTS and name not in _REFUSED and ":" not in name)
    for name in asked:
        if name in _REFUSED:
            raise Unsupported(f"{what}: option '{PREFIX}{name}' is not offered: {_REFUSED[name]}", "leave it out")
        if name.startswith(zfsrecords.SPACE):
            raise Unsupported(f"{what}: option '{PREFIX}{name}' is snapvol's own", "leave it out")
        if ":" not in name and name not in valid:
            hint = nearest(name, valid).replace("did you mean '", f"did you mean '{PREFIX}")
            raise UnknownOption(f"{what}: this ZFS has no property '{name}'", hint)
    _check_key(what, asked)
    return asked


def _check_key(what: str, asked: Mapping[str, str]) -> None:
    if asked.get("encryption", "off") == "off" or "keyformat" not in asked:
        return  # without a key of its own it has its parent's
    if not asked.get("keylocation", "prompt").startswith("file:///"):
        raise UsageError(
            f"{what}: nobody could type in the key when Docker mounts it",
            f"keep it in a file: {PREFIX}keylocation=file:///PATH",
        )


def for_new(asked: Mapping[str, str], parent: Mapping[str, Value], size: int | None) -> dict[str, str]:
    """Return the properties with which a file system is made.

    Args:
        asked: what `check` returned.
        parent: the properties of the parent dataset.
        size: its quota in bytes.
    """
    better = {
        name: value for name, value in _BETTER.items() if name in parent and parent[name].source in ("default", "-")
    }
    return {**better, **asked, **_OURS, **quota(size)}


def refuse_unlike(asked: Mapping[str, str], origin: Mapping[str, Value], what: str) -> None:
    """Check that a clone of ``origin`` can be what was asked for.

    Args:
        asked: what `check` returned.
        origin: the properties of the dataset that is cloned.
        what: what is being done, for the message.

    Raises:
        Unsupported: something was asked for that a clone has from its origin.
    """
    for name in FIXED:
        if name in asked and name not in ("keylocation", "pbkdf2iters") and asked[name] != origin[name].text:
            raise Unsupported(
                f"{what}: {name}={asked[name]} was asked for, its origin has {name}={origin[name].text},"
                " and a clone cannot differ in that",
                f"leave {PREFIX}{name} out, or restore a backup of the origin into a volume with it",
            )


def for_clone(asked: Mapping[str, str], parent: Mapping[str, Value], size: int | None) -> dict[str, str]:
    """Return the properties with which a clone is made; see `for_new`."""
    return for_new({name: value for name, value in asked.items() if name not in FIXED}, parent, size)


def carried(values: Mapping[str, Value]) -> dict[str, str]:
    """Return what was set on a dataset, by us, by hand or by `zfs receive`, as far as a clone in its place has it."""
    set_there = {
        name: value.text
        for name, value in values.items()
        if value.own is not None and name not in FIXED and name not in _FACTS and not name.startswith(zfsrecords.SPACE)
    }
    return {**set_there, **_OURS}


def quota(size: int | None) -> dict[str, str]:
    """Return the property that limits contents to ``size`` bytes; none where there is no limit."""
    return {} if size is None else {"refquota": str(size)}


def explained(volume: Volume, error: SnapvolError) -> SnapvolError:
    """Return ``error`` as the caller's fault, where ZFS has refused the value of an option of its own."""
    asked = [key.removeprefix(PREFIX) for key in volume.options if key.startswith(PREFIX)]
    for name in asked:
        _, quote, words = error.message.partition(f"'{name}' ")
        if quote:
            value = volume.options[f"{PREFIX}{name}"]
            return UsageError(f"volume '{volume.name}': {PREFIX}{name}={value}: it {words}", "see: man zfsprops")
    if any(name in _KEY for name in asked) and any(word in error.message for word in ("key", "Key", "ncrypt")):
        return UsageError(error.message, "see: man zfs-create; a raw key file holds 32 bytes")
    return error
