"""Claims on volumes: one operation each, no deadlock, nobody waits without being told."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapvol.errors import InUse
from snapvol.service.locks import Locks


def test_a_claimed_volume_says_what_is_being_done() -> None:
    locks = Locks()
    with locks.volumes("web", doing="backup job 12"):
        assert locks.doing("web") == "backup job 12"
        with pytest.raises(InUse, match=r"^another operation on 'web' is running: backup job 12, for \d+ s; try again"):
            locks.volumes("db", "web", wait=0).__enter__()
        with locks.volumes("db", wait=0):
            pass
    assert locks.doing("web") is None
    with locks.volumes("web", wait=0):
        pass


def test_a_failed_claim_of_several_keeps_none() -> None:
    locks = Locks()
    with locks.volumes("b"):
        with pytest.raises(InUse):
            locks.volumes("a", "b", "c", wait=0).__enter__()
        with locks.volumes("a", "c", wait=0):
            pass


def test_the_claim_is_given_up_when_the_operation_fails() -> None:
    locks = Locks()
    with pytest.raises(ZeroDivisionError), locks.volumes("a"):
        raise ZeroDivisionError
    with locks.volumes("a", wait=0):
        pass


def test_waiting_ends_when_the_claim_does() -> None:
    locks = Locks()
    holding = locks.volumes("a")
    holding.__enter__()
    threading.Timer(0.1, lambda: holding.__exit__(None, None, None)).start()
    begun = time.monotonic()
    with locks.volumes("a", wait=10):
        assert time.monotonic() - begun < 5


def test_mounts_go_on_beside_what_only_reads() -> None:
    locks = Locks()
    with locks.volumes("a", doing="a snapshot", mountable=True):
        with locks.mounting("a", wait=0), pytest.raises(InUse, match="a mount or unmount"):
            locks.mounting("a", wait=0).__enter__()
        with pytest.raises(InUse, match="a snapshot"):
            locks.volumes("a", wait=0, mountable=True).__enter__()
    with locks.volumes("a", doing="rollback"), pytest.raises(InUse, match="rollback"):
        locks.mounting("a", wait=0).__enter__()
    with locks.mounting("a"), pytest.raises(InUse, match="a mount or unmount"):
        locks.volumes("a", doing="rollback", wait=0).__enter__()


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4), min_size=2, max_size=8))
def test_claims_in_any_order_never_block_each_other_for_ever(wanted: list[list[str]]) -> None:
    locks = Locks()
    inside: dict[str, int] = dict.fromkeys("abcd", 0)

    def work(names: list[str]) -> None:
        for _ in range(5):
            with locks.volumes(*names, wait=20):
                for name in set(names):
                    inside[name] += 1
                    assert inside[name] == 1
                for name in set(names):
                    inside[name] -= 1

    with ThreadPoolExecutor(len(wanted)) as threads:
        list(threads.map(work, wanted))
