"""What `lvs` says of a thin pool that is well, for tests that need no LVM."""

from __future__ import annotations

from snapvol.backends.lvmreport import LogicalVolume

THIN_POOL = LogicalVolume(
    name="pool",
    uuid="vPU7Jy-RxX7-c9cn-kWhN-5XSc-Cjbm-cv5oPk",
    lv_tags="",
    lv_size=1 << 30,
    segtype="thin-pool",
    pool_lv="",
    thin_id=None,
    transaction_id=26,
    lv_health_status="",
    lv_metadata_size=32 << 20,
    chunk_size=65536,
    zero="zero",
    vg_name="vg0",
    vg_uuid="0Sfu2S-iNrj-uXbS-suWM-fHys-ayTW-Y5KJY5",
    vg_extent_size=4 << 20,
)
