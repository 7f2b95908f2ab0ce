"""Random sequences of operations, against a model that fits on a page: names, contents, snapshots, holds, trash."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from snapvol.errors import AlreadyExists, Refused
from snapvol.model import Snapshot, Volume
from support.scale import scaled
from support.storage import VARIANTS, Pool, Variant, contents, parameters

NAMES = st.sampled_from(["vol1", "vol10", "Vol1", "data"])
SNAPSHOTS = st.sampled_from(["s1", "s2", "data"])
TEXTS = st.text(st.characters(codec="ascii", exclude_characters="\r"), max_size=8)
WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
EXAMPLES = {
    "memory": 60,
    "directory-xfs": 12,
    "directory-ext4-full": 6,
    "btrfs": 12,
    "lvm-ext4": 12,
    "lvm-xfs": 6,
    "zfs": 12,
}

Files = dict[str, bytes]


class Expected:
    """What the model holds of one volume."""

    def __init__(self, volume: Volume, files: Files) -> None:
        self.volume = volume
        self.files = files
        self.snapshots: dict[str, tuple[Snapshot, Files]] = {}

    @property
    def held(self) -> bool:
        return any(snapshot.holds for snapshot, _ in self.snapshots.values())


class Sequences(RuleBasedStateMachine):
    """Every rule does one thing to the pool and the same to the model."""

    make: Callable[[], Pool]

    def __init__(self) -> None:
        super().__init__()
        self.pool = type(self).make()
        self.live: dict[str, Expected] = {}
        self.trash: list[Expected] = []

    def teardown(self) -> None:
        self.pool.clear()
        assert self.pool.leaks() == []
        self.pool.backend.close()

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        volume = self.pool.record(name)
        if name in self.live:
            with pytest.raises(AlreadyExists):
                self.pool.backend.create(volume)
        else:
            self.pool.backend.create(volume)
            self.live[name] = Expected(replace(volume, pool="pool"), {})

    @precondition(lambda self: self.live)
    @rule(data=st.data(), file=st.sampled_from(["f", "g"]), text=TEXTS)
    def write(self, data: st.DataObject, file: str, text: str) -> None:
        expected = self.pick(data)
        self.pool.put(expected.volume, **{file: text})
        expected.files = {**expected.files, file: text.encode()}

    @precondition(lambda self: self.live)
    @rule(data=st.data(), name=SNAPSHOTS, both=st.booleans())
    def snapshot(self, data: st.DataObject, name: str, both: bool) -> None:
        chosen = list(self.live.values()) if both else [self.pick(data)]
        volumes = [expected.volume for expected in chosen]
        if any(name in expected.snapshots for expected in chosen):
            with pytest.raises(AlreadyExists):
                self.pool.backend.snapshot(volumes, name)
            return
        for expected, snapshot in zip(chosen, self.pool.backend.snapshot(volumes, name), strict=True):
            expected.snapshots[name] = (snapshot, expected.files)

    @precondition(lambda self: self.snapshotted())
    @rule(data=st.data(), name=NAMES)
    def clone(self, data: st.DataObject, name: str) -> None:
        _, snapshot, files = self.pick_snapshot(data)
        volume = self.pool.record(name)
        if name in self.live:
            with pytest.raises(AlreadyExists):
                self.pool.backend.create(volume, source=snapshot)
        else:
            self.pool.backend.create(volume, source=snapshot)
            self.live[name] = Expected(replace(volume, pool="pool"), files)

    @precondition(lambda self: self.snapshotted())
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        expected, snapshot, files = self.pick_snapshot(data)
        self.pool.backend.rollback(expected.volume, snapshot)
        expected.files = files

    @precondition(lambda self: self.snapshotted())
    @rule(data=st.data(), held=st.booleans())
    def hold(self, data: st.DataObject, held: bool) -> None:
        expected, snapshot, files = self.pick_snapshot(data)
        change = self.pool.backend.hold if held else self.pool.backend.release
        change(snapshot, "t")
        expected.snapshots[snapshot.name] = (replace(snapshot, holds=("t",) if held else ()), files)

    @precondition(lambda self: self.snapshotted())
    @rule(data=st.data())
    def destroy_snapshot(self, data: st.DataObject) -> None:
        expected, snapshot, _ = self.pick_snapshot(data)
        if snapshot.holds:
            with pytest.raises(Refused, match="t"):
                self.pool.backend.destroy_snapshot(snapshot)
        else:
            self.pool.backend.destroy_snapshot(snapshot)
            del expected.snapshots[snapshot.name]

    @precondition(lambda self: self.live)
    @rule(data=st.data(), text=TEXTS, adopt=st.booleans())
    def restore(self, data: st.DataObject, text: str, adopt: bool) -> None:
        expected = self.pick(data)
        (self.pool.backend.stage(expected.volume) / "f").write_text(text)
        if adopt:
            self.pool.backend.adopt_stage(expected.volume)
            expected.files = {"f": text.encode()}
        else:
            self.pool.backend.discard_stage(expected.volume)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), name=NAMES)
    def rename(self, data: st.DataObject, name: str) -> None:
        expected = self.pick(data)
        if name in self.live:
            with pytest.raises(AlreadyExists):
                self.pool.backend.rename(expected.volume, name)
            return
        del self.live[expected.volume.name]
        self.place(expected, self.pool.backend.rename(expected.volume, name))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        expected = self.live.pop(self.pick(data).volume.name)
        self.pool.backend.trash(expected.volume, WHEN)
        expected.volume = replace(expected.volume, deleted=WHEN)
        self.trash.append(expected)

    @precondition(lambda self: self.trash)
    @rule(data=st.data(), name=NAMES)
    def undelete(self, data: st.DataObject, name: str) -> None:
        expected = data.draw(st.sampled_from(self.trash))
        if name in self.live:
            with pytest.raises(AlreadyExists):
                self.pool.backend.undelete(expected.volume, name)
            return
        self.trash.remove(expected)
        self.place(expected, self.pool.backend.undelete(expected.volume, name))

    @precondition(lambda self: self.live or self.trash)
    @rule(data=st.data())
    def destroy(self, data: st.DataObject) -> None:
        expected = data.draw(st.sampled_from([*self.live.values(), *self.trash]))
        if expected.held:
            with pytest.raises(Refused, match="t"):
                self.pool.backend.destroy(expected.volume)
            return
        self.pool.backend.destroy(expected.volume)
        if expected.volume.deleted:
            self.trash.remove(expected)
        else:
            del self.live[expected.volume.name]

    @rule()
    def restart(self) -> None:
        self.pool.reopen()

    @invariant()
    def everything_is_as_expected(self) -> None:
        listed = [*self.pool.backend.volumes(), *self.pool.backend.trashed()]
        expected = [*self.live.values(), *self.trash]
        assert {volume.id: volume for volume in listed if isinstance(volume, Volume)} == {
            one.volume.id: one.volume for one in expected
        }
        for one in expected:
            found = {snapshot.name: snapshot for snapshot in self.pool.snapshots(one.volume)}
            assert found == {name: snapshot for name, (snapshot, _) in one.snapshots.items()}
            for snapshot, files in one.snapshots.values():
                with self.pool.backend.open_snapshot(snapshot) as tree:
                    assert contents(tree.root) == files
        for one in self.live.values():
            assert self.pool.get(one.volume) == one.files

    def place(self, expected: Expected, volume: Volume) -> None:
        expected.volume = volume
        expected.snapshots = {
            name: (replace(snapshot, volume=volume.name), files)
            for name, (snapshot, files) in expected.snapshots.items()
        }
        self.live[volume.name] = expected

    def pick(self, data: st.DataObject) -> Expected:
        return self.live[data.draw(st.sampled_from(sorted(self.live)))]

    def snapshotted(self) -> list[tuple[Expected, Snapshot, Files]]:
        return [(one, *pair) for one in self.live.values() for pair in one.snapshots.values()]

    def pick_snapshot(self, data: st.DataObject) -> tuple[Expected, Snapshot, Files]:
        choices = self.snapshotted()
        return choices[data.draw(st.integers(0, len(choices) - 1))]


@pytest.mark.parametrize("variant", parameters({name: VARIANTS[name] for name in EXAMPLES if name in VARIANTS}))
def test_any_sequence_of_operations(
    opening: Callable[[Variant], Pool], variant: Variant, request: pytest.FixtureRequest
) -> None:
    """T1, T2, T17, T18 among them."""

    class Machine(Sequences):
        make = staticmethod(lambda: opening(variant))

    examples, steps = scaled(EXAMPLES[request.node.callspec.id]), scaled(25, 10)
    run_state_machine_as_test(
        Machine, settings=hypothesis.settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    )
