"""What a report of LVM means: whose is what, what a kill has left, and what is damaged."""

from __future__ import annotations

import json
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from snapvol.backends import lvmreport, lvmtags
from snapvol.backends.lvminventory import Inventory, identity, name_for
from snapvol.backends.lvmreport import LogicalVolume
from snapvol.backends.lvmtags import FRESH, GONE, Record, Role
from snapvol.errors import StorageFailed
from snapvol.model import Damage, Snapshot, Volume

WHEN = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
# As `lvs` 2.03.16 prints it: everything is text, and what does not apply is empty.
LINE = {
    "lv_name": "web_1",
    "lv_uuid": "nzQ2f5-yycA-V6oC-rh0P-VFae-T8Jc-p4raUK",
    "lv_tags": "a=1,b=2",
    "lv_size": "1073741824",
    "segtype": "thin",
    "pool_lv": "pool",
    "thin_id": "1",
    "transaction_id": "0",
    "lv_health_status": "",
    "lv_metadata_size": "",
    "chunk_size": "0",
    "zero": "zero",
    "vg_name": "vg-0",
    "vg_uuid": "0Sfu2S-iNrj-uXbS-suWM-fHys-ayTW-Y5KJY5",
    "vg_extent_size": "4194304",
}
POOL_LINE = LINE | {
    "lv_name": "pool",
    "lv_uuid": "vPU7Jy-RxX7-c9cn-kWhN-5XSc-Cjbm-cv5oPk",
    "lv_tags": "snapvol.pool=ours",
    "segtype": "thin-pool",
    "pool_lv": "",
    "thin_id": "",
    "transaction_id": "24",
    "lv_metadata_size": "33554432",
    "chunk_size": "65536",
}


def report(*lines: dict[str, str]) -> str:
    return json.dumps({"report": [{"lv": list(lines)}]})


(POOL,) = lvmreport.parse(report(POOL_LINE))
(PLAIN,) = lvmreport.parse(report(LINE))


def lv(name: str, record: Record | None, *marks: str, pool: str = "ours", thin_id: int = 1) -> LogicalVolume:
    tags = [lvmtags.POOL + pool, *(lvmtags.encode(record) if record else ["snapvol.record=0/1/zz"]), *marks]
    return replace(PLAIN, name=name, uuid=f"uuid-{name}", lv_tags=",".join(tags), thin_id=thin_id)


def volume(name: str, generation: int = 1, deleted: datetime | None = None, role: Role = Role.VOLUME) -> Record:
    made = Volume(id=f"id-{name}", name=name, created=WHEN, deleted=deleted)
    return Record(role=role, filesystem="ext4", volume=made, generation=generation)


def snapshot(of: str, name: str, group: str = "", minutes: int = 0) -> Record:
    made = Snapshot(volume=of, volume_id=f"id-{of}", name=name, id="", created=WHEN + timedelta(minutes=minutes))
    return Record(role=Role.SNAPSHOT, filesystem="ext4", snapshot=made, group=group)


def inventory(*lvs: LogicalVolume) -> Inventory:
    return Inventory([POOL, *lvs], "pool")


def test_a_report_is_read_with_its_types() -> None:
    assert (PLAIN.tags, PLAIN.lv_size, PLAIN.thin_id, PLAIN.chunk_size) == (("a=1", "b=2"), 1 << 30, 1, 0)
    assert PLAIN.device == "vg--0-web_1"
    assert (POOL.thin_id, POOL.chunk_size, POOL.lv_metadata_size) == (None, 65536, 32 << 20)
    assert lvmreport.parse_disks('{"report": [{"vg": [{"pv_name": "/dev/a"}, {"pv_name": "/dev/b"}]}]}') == [
        "/dev/a",
        "/dev/b",
    ]


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"report": 5}', report({"lv_name": "x"}), report(LINE | {"lv_size": "x"})]
)
def test_a_report_that_is_not_understood_is_not_taken_for_nothing(text: str) -> None:
    with pytest.raises(StorageFailed, match="is not understood"):
        lvmreport.parse(text)


def test_only_ours_are_listed() -> None:
    """T6."""
    foreign = replace(PLAIN, name="theirs", uuid="t")
    other_pool = replace(lv("elsewhere", volume("elsewhere")), pool_lv="pool2")
    other_snapvol = lv("others", volume("others"), pool="another")
    found = inventory(foreign, other_pool, other_snapvol, lv("web_1", volume("web")))
    assert [it.name for it in found.volumes("fast", trash=False)] == ["web"]
    assert [it.name for it in found.strays] == ["others"]
    assert found.id == "ours"


def test_the_trash_is_apart() -> None:
    found = inventory(lv("a", volume("a")), lv("b", volume("b", deleted=WHEN)))
    assert [it.name for it in found.volumes("fast", trash=False)] == ["a"]
    assert [it.name for it in found.volumes("fast", trash=True)] == ["b"]


def test_the_highest_generation_is_the_contents() -> None:
    """After a rollback that was killed before it removed what it replaced."""
    old, new = lv("old", volume("web")), lv("new", volume("web", 2))
    found = inventory(new, old)
    assert found.contents()["id-web"].lv == new
    remove, commit = found.unfinished()
    assert [item.lv for item in remove] == [old]
    assert commit == []


def test_what_is_not_committed_is_removed() -> None:
    """T14."""
    kept = lv("web", volume("web"))
    half = [
        lv("fresh", volume("fresh"), FRESH),
        lv("staged", volume("web", role=Role.STAGED)),
        lv("snapshot", snapshot("web", "s1", "g1"), FRESH),
    ]
    found = inventory(kept, *half)
    assert [item.lv for item in found.unfinished()[0]] == half
    assert found.snapshots("id-web") == []
    assert [it.name for it in found.volumes("fast", trash=False)] == ["web"]
    assert found.staged("id-web") is not None


def test_of_snapshots_made_together_one_commits_all() -> None:
    one, two = lv("one", snapshot("web", "s1", "g1")), lv("two", snapshot("db", "s1", "g1"), FRESH)
    other = lv("other", snapshot("db", "s2", "g2"), FRESH)
    remove, commit = inventory(lv("w", volume("web")), lv("d", volume("db")), one, two, other).unfinished()
    assert [item.lv for item in commit] == [two]
    assert [item.lv for item in remove] == [other]


def test_a_removal_that_has_begun_is_finished_and_seen_by_nobody() -> None:
    gone = [lv("web", volume("web"), GONE), lv("s", snapshot("web", "s1")), lv("t", volume("web", role=Role.STAGED))]
    found = inventory(*gone)
    assert found.volumes("fast", trash=False) == []
    assert [item.lv for item in found.unfinished()[0]] == gone


def test_damage_is_told_and_never_removed() -> None:
    """T41."""
    found = inventory(lv("broken", None), lv("web", volume("web")))
    damage = next(it for it in found.volumes("fast", trash=False) if isinstance(it, Damage))
    assert (damage.name, damage.pool) == ("broken", "fast")
    assert "cut short or altered" in damage.reason
    assert found.unfinished() == ([], [])


def test_snapshots_whose_volume_was_removed_by_others_are_told() -> None:
    found = inventory(lv("a", snapshot("web", "s2")), lv("b", snapshot("web", "s1")))
    (damage,) = found.volumes("fast", trash=False)
    assert isinstance(damage, Damage)
    assert damage.name == "web"
    assert damage.reason == "its logical volume is missing; what is left of it: snapshots s1, s2"
    assert found.unfinished() == ([], [])


def test_a_copy_of_a_volume_is_not_a_second_one() -> None:
    found = inventory(lv("copy", volume("web"), thin_id=7), lv("web_1", volume("web"), thin_id=2))
    assert found.contents()["id-web"].lv.name == "web_1"
    assert [it.name for it in found.volumes("fast", trash=False)] == ["web", "copy"]
    assert found.unfinished() == ([], [])


def test_snapshots_are_listed_oldest_first_and_known_by_both_names() -> None:
    found = inventory(lv("w", volume("web")), lv("a", snapshot("web", "z", minutes=2)), lv("b", snapshot("web", "a")))
    assert [item.snapshot("shop").full_name for item in found.snapshots("id-web")] == ["shop@a", "shop@z"]
    first = found.snapshots("id-web")[0]
    assert first.snapshot("web").id == identity(first.lv) == "uuid-b/1/0"


def test_what_is_still_being_made_is_not_seen() -> None:
    making = {"web"}
    found = Inventory([POOL, lv("web", volume("web"))], "pool", making)
    assert found.contents() == {}
    assert found.volumes("fast", trash=False) == []
    making.clear()
    assert list(found.contents()) == ["id-web"]


def test_what_changes_is_noted() -> None:
    made = lv("web", volume("web"), FRESH)
    found = inventory(made)
    assert found.volumes("fast", trash=False) == []
    found.put(replace(made, lv_tags=made.lv_tags.replace(f",{FRESH}", "")))
    assert len(found.volumes("fast", trash=False)) == 1
    found.drop([made])
    assert found.items == []


@pytest.mark.parametrize(
    "name", ["a_tdata", "pvmove", "pvmove0", "snapshot5", "x_mimage_1", "n" * 255, "a-" * 120, "0"]
)
def test_names_that_lvm_forbids_are_mapped(name: str) -> None:
    """T4."""
    group = "group-with-many-hyphens-" * 2
    made = name_for(group, name, name)
    assert made != name_for(group, name, name)
    assert not any(word in made for word in ("_tdata", "pvmove", "_mimage"))
    assert not made.startswith(("-", "snapshot"))
    assert len(f"{group.replace('-', '--')}-{made.replace('-', '--')}") <= 120


def test_names_are_readable_where_they_can_be() -> None:
    assert name_for("vg0", "web", "before-upgrade").startswith("web_before-upgrade_")


def test_whoever_looks_while_something_changes_sees_all_of_it() -> None:
    """Operations on different volumes overlap: none fails, and no volume is missed, because of another's."""
    lvs = [lv(f"v{number}", volume(f"v{number}")) for number in range(40)]
    seen = inventory(*lvs)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            for known in lvs[:5]:
                seen.put(known)
            seen.put(added := lv("new", volume("new")))
            seen.drop([added])

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            assert set(seen.contents()) - {"id-new"} == {f"id-v{number}" for number in range(40)}
            assert len(seen.volumes("p", trash=False)) in (40, 41)
    finally:
        over.set()
        thread.join()
        sys.setswitchinterval(interval)
