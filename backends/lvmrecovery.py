"""Finishing or undoing what a kill or a power cut has left in a pool of thin volumes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from snapvol.backends import devicemapper, freeze, lvmfilesystem
from snapvol.backends.failures import explained
from snapvol.backends.lvminventory import Inventory, Item
from snapvol.backends.lvmtags import FRESH, SETTLED, Role
from snapvol.backends.lvmtools import Tools
from snapvol.errors import SnapvolError

log = logging.getLogger(__name__)


class Recovery:
    """One round over all that is in a pool; what cannot be mended is told, and keeps nothing else from it.

    Args:
        pool: the pool's name, for messages.
        tools: LVM's programs.
        thin: what device-mapper calls the thin pool.
        inventory: what there is; kept up to date.
        settle: makes LVM note what has come to the thin pool.
    """

    def __init__(
        self, pool: str, tools: Tools, thin: str, inventory: Inventory, settle: Callable[[], None] = lambda: None
    ) -> None:
        self._pool = pool
        self._tools = tools
        self._thin = thin
        self._inventory = inventory
        self._settle_pool = settle

    def run(self) -> None:
        """Mend everything."""
        self._let_go_on()
        self._settle_pool()
        remove, commit = self._inventory.unfinished()
        if commit:
            self._try_all(lambda items: self._tools.retag([item.lv.name for item in items], remove=[FRESH]), commit)
        self._remove([item for item in remove if not item.gone])
        if commit or remove:
            self._renew()
            self._remove_marked()
        self._deactivate()
        newest = self._inventory.newest()
        if newest is not None and newest.record is not None and newest.record.role is Role.SNAPSHOT:
            self._try(self._settle, newest)
        for item in self._inventory.contents().values():
            self._try(self._fill, item)

    def _renew(self) -> None:
        found = {lv.uuid: lv for lv in self._tools.report()}
        self._inventory.drop([item.lv for item in self._inventory.items if item.lv.uuid not in found])
        for lv in found.values():
            self._inventory.put(lv)

    def _try(self, mend: Callable[[Item], None], item: Item) -> None:
        self._try_all(lambda items: mend(items[0]), [item])

    def _try_all(self, mend: Callable[[list[Item]], None], items: list[Item]) -> None:
        names = ", ".join(item.lv.name for item in items)
        try:
            with explained(f"{names} is left as it is"):
                mend(items)
        except SnapvolError as error:
            log.warning("pool '%s': %s", self._pool, error)

    def _let_go_on(self) -> None:
        """Let devices go on that were halted for a snapshot."""
        for device in (self._thin, *(item.lv.device for item in self._inventory.items)):
            try:
                with explained(f"{device} is left as it is"):
                    if devicemapper.suspended(device):
                        devicemapper.resume(device)
            except SnapvolError as error:
                log.warning("pool '%s': %s", self._pool, error)

    def _remove(self, items: list[Item]) -> None:
        if not items:
            return
        try:
            self._tools.remove([item.lv.name for item in items])
        except SnapvolError:
            for item in items:
                self._try(self._remove_one, item)

    def _remove_marked(self) -> None:
        """Remove what says that a volume is gone, once nothing else of that volume is left: else nobody would know."""
        marked = [item for item in self._inventory.items if item.gone and item.record is not None]
        left = {item.of for item in self._inventory.items if not item.gone}
        removable = [item for item in marked if item.of not in left]
        if removable:
            self._remove(removable)
            self._renew()

    def _remove_one(self, item: Item) -> None:
        if self._inventory_lacks(item):
            return
        try:
            self._tools.remove([item.lv.name])
        except SnapvolError:
            if item.lv.thin_id is None or item.lv.number is not None:
                raise
            # LVM cannot remove what the pool does not have.
            freeze.remake(self._thin, item.lv.thin_id)
            self._tools.remove([item.lv.name])

    def _inventory_lacks(self, item: Item) -> bool:
        return all(lv.uuid != item.lv.uuid for lv in self._tools.report())

    def _deactivate(self) -> None:
        """Take away the devices of snapshots that somebody was reading."""
        idle = [
            item
            for item in self._inventory.items
            if item.record is not None
            and item.record.role is Role.SNAPSHOT
            and item.lv.number is not None
            and devicemapper.openers(item.lv.device) == 0
        ]
        if idle:
            self._try_all(lambda items: self._tools.deactivate([item.lv.name for item in items]), idle)

    def _settle(self, item: Item) -> None:
        """See to it that the last snapshot can be read.

        A power cut while LVM makes a snapshot can leave it to the next activation of the pool to take it: of contents
        that are as they were then, but with a journal that nobody has replayed. Nothing else can have been under way.
        """
        assert item.record is not None
        # Who holds one has seen it made; it may have been backed up since, and must stay what it was then.
        if SETTLED in item.lv.tags or item.snapshot("").holds:
            return
        self._tools.activate(item.lv.name)
        try:
            facts = lvmfilesystem.probe(item.lv.path)
            if facts is not None and facts.unclean:
                self._replay(item, facts.kind)
        finally:
            with suppress(SnapvolError):
                self._tools.deactivate([item.lv.name])
        self._tools.retag([item.lv.name], add=[SETTLED])

    def _replay(self, item: Item, kind: str) -> None:
        full = f"{self._tools.group}/{item.lv.name}"
        self._tools.change("lvchange", "--permission", "rw", full)
        try:
            with lvmfilesystem.mounted(item.lv.path, kind):
                pass
        finally:
            self._tools.change("lvchange", "--permission", "r", full)

    def _fill(self, item: Item) -> None:
        """Grow a file system whose device has grown."""
        if item.lv.number is not None:  # else when it is mounted
            lvmfilesystem.fill(item.lv.path, item.lv.lv_size, item.lv.vg_extent_size)
