from __future__ import annotations

import json
from hashlib import sha256

import msgspec
import pytest

from snapvol.errors import (
    AlreadyExists,
    Damaged,
    NotFound,
    Refused,
    RepositoryError,
    RepositoryUnreachable,
    Unsupported,
    UsageError,
    WrongPassword,
)
from snapvol.repository import Repository, config, keys
from snapvol.repository.sealing import MasterKey
from snapvol.stores.base import Store, Transient
from snapvol.stores.memory import MemoryStore
from snapvol.stores.retry import RetryingStore
from support.faults import Faulty, nth
from support.repositories import CHEAP, PASSWORD, backed_up, created, opened


def key_files(store: MemoryStore) -> list[str]:
    return [name for name in store.objects if name.startswith("keys/")]


def replace_key(store: MemoryStore, **changes: object) -> str:
    """Leave one key file, changed, under its right name."""
    text = store.objects[key_files(store)[0]]
    for name in key_files(store):
        del store.objects[name]
    changed = json.dumps(json.loads(text) | changes).encode()
    name = f"keys/{sha256(changed).hexdigest()}"
    store.objects[name] = changed
    return name


def test_the_recovery_key_opens_it() -> None:
    """T33."""
    store = MemoryStore()
    repository, recovery = Repository.create(store, PASSWORD, cost=CHEAP)
    assert [len(group) for group in recovery.split("-")] == [5] * 6
    assert Repository.open(store, recovery).id == repository.id
    assert recovery.encode() not in b"".join(store.objects.values())
    assert Repository.create(MemoryStore(), PASSWORD, cost=CHEAP)[1] != recovery


def test_a_wrong_password_is_said(memory: MemoryStore) -> None:
    """T32, T42: at once, and without repeating it."""
    with pytest.raises(WrongPassword, match="opens none of the 2 keys of memory") as caught:
        Repository.open(memory, "swordfish")
    assert "swordfish" not in repr(caught.value)


@pytest.mark.parametrize("password", ["ü" * 40, " ", "a\nb", "x" * 5000])
def test_any_password_but_an_empty_one_will_do(memory: MemoryStore, password: str) -> None:
    with opened(memory) as repository:
        repository.add_key(password, cost=CHEAP)
    Repository.open(memory, password)


def test_an_empty_password_is_refused(memory: MemoryStore) -> None:
    with pytest.raises(UsageError, match="the password is empty"):
        opened(memory).add_key("")
    store = MemoryStore()
    with pytest.raises(UsageError):
        Repository.create(store, "")
    assert store.objects == {}


def test_no_repository_is_said() -> None:
    """T32."""
    with pytest.raises(NotFound, match="no repository at memory; make one: snapvol repo init"):
        Repository.open(MemoryStore(), PASSWORD)


def test_a_missing_key_file_is_said(memory: MemoryStore) -> None:
    """T32: not as a wrong password."""
    memory.delete(key_files(memory))
    with pytest.raises(RepositoryError, match="memory has no key file") as caught:
        Repository.open(memory, PASSWORD)
    assert not isinstance(caught.value, WrongPassword)


def test_another_repositorys_key_is_said(memory: MemoryStore) -> None:
    """T32: its password is right, and yet."""
    other = MemoryStore()
    Repository.create(other, "their password", cost=CHEAP)
    memory.objects |= {name: other.objects[name] for name in key_files(other)}
    with pytest.raises(Damaged, match=r"opens a key at memory, but not the repository's config.*another repository's"):
        Repository.open(memory, "their password")
    assert Repository.open(memory, PASSWORD).id == opened(memory).id


def test_the_same_password_on_both_opens_the_right_one(memory: MemoryStore) -> None:
    """T32."""
    other = MemoryStore()
    Repository.create(other, PASSWORD, cost=CHEAP)
    memory.objects |= {name: other.objects[name] for name in key_files(other)}
    for _ in range(3):
        assert Repository.open(memory, PASSWORD).id == opened(memory).id


def test_a_storage_that_fails_is_not_a_missing_repository(memory: MemoryStore) -> None:
    """T27."""
    for operation, name in (("size", "config"), ("list", "keys/"), ("get", "keys/"), ("get", "config")):
        store = Faulty(memory, nth(operation, [1], Transient("503"), name))
        with pytest.raises(RepositoryUnreachable):
            Repository.open(store, PASSWORD)


def test_a_repository_is_not_made_twice(memory: MemoryStore) -> None:
    before = dict(memory.objects)
    with pytest.raises(AlreadyExists, match="memory already holds a repository"):
        Repository.create(memory, "other", cost=CHEAP)
    assert memory.objects == before


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_a_create_that_fails_leaves_no_repository(turn: int) -> None:
    """T14."""
    store = MemoryStore()
    with pytest.raises(Transient):
        Repository.create(Faulty(store, nth("put", [turn], Transient("503"))), PASSWORD, cost=CHEAP)
    with pytest.raises(NotFound):
        Repository.open(store, PASSWORD)
    Repository.create(store, PASSWORD, cost=CHEAP)
    opened(store)


def test_keys_are_listed_and_removed(memory: MemoryStore) -> None:
    with opened(memory) as repository:
        added = repository.add_key("second", cost=CHEAP)
        listed = repository.list_keys()
        assert [key.username for key in listed][1] == "recovery"
        assert [key.id for key in listed if key.in_use] == [repository.key_id]
        assert listed[2].id == added
        repository.remove_key(added[:10])
        with pytest.raises(WrongPassword):
            Repository.open(memory, "second")


def test_no_password_is_removed_that_would_be_missed(memory: MemoryStore) -> None:
    repository = opened(memory)
    with pytest.raises(Refused, match="is the key in use"):
        repository.remove_key(repository.key_id)
    with pytest.raises(NotFound, match="no key of memory is called 'xyz'"):
        repository.remove_key("xyz")
    with pytest.raises(NotFound):
        repository.remove_key("")
    other = next(key.id for key in repository.list_keys() if not key.in_use)
    repository.remove_key(repository.key_id, even_in_use=True)
    with pytest.raises(Refused, match="is the last key of memory"):
        repository.remove_key(other, even_in_use=True)
    assert len(key_files(memory)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"N": 2**40}, {"N": 3}, {"N": 0}, {"N": -2}, {"r": 10**6}, {"p": 10**9}, {"r": 0}, {"N": 2**21},
        {"salt": "%%%"}, {"data": "not base64!"}, {"kdf": "argon2"}, {"created": "yesterday"}, {"N": "many"},
    ],
)  # fmt: skip
def test_hostile_key_files_cost_nothing(memory: MemoryStore, changes: dict[str, object]) -> None:
    """T44: a key file that asks scrypt for gigabytes or hours."""
    name = replace_key(memory, **changes)
    with pytest.raises(Damaged, match=name):
        Repository.open(memory, PASSWORD)


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff\xfe", b"[" * 100_000, b"{" + b" " * 70_000])
def test_a_damaged_key_file_does_not_hide_the_others(memory: MemoryStore, content: bytes) -> None:
    """T30, T41."""
    memory.objects[f"keys/{sha256(content).hexdigest()}"] = content
    memory.objects[f"keys/{'0' * 64}"] = b"{}"
    opened(memory)
    with pytest.raises(Damaged, match="keys/"):
        Repository.open(memory, "wrong")


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"version": 1, "id": "a" * 64, "chunker_polynomial": "1"}, Unsupported),
        ({"version": 3, "id": "a" * 64, "chunker_polynomial": "1"}, Unsupported),
        ({"version": 2, "id": "a", "chunker_polynomial": "1"}, Damaged),
        ({"version": "2"}, Damaged),
        ([], Damaged),
    ],
)
def test_a_config_that_we_do_not_know(memory: MemoryStore, document: object, error: type[Exception]) -> None:
    key = next(keys.opened(memory, PASSWORD))[1]
    memory.objects["config"] = key.seal(msgspec.json.encode(document))
    with pytest.raises(error):
        Repository.open(memory, PASSWORD)


def test_two_that_make_a_repository_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose config is not there in the end takes its keys away again: stock restic would stumble over them."""
    store = MemoryStore()
    write = config.write

    def late(target: Store, key: MasterKey, settings: config.Config) -> None:
        monkeypatch.undo()
        created(store)
        write(target, key, settings)

    monkeypatch.setattr(config, "write", late)
    with pytest.raises(AlreadyExists, match="somebody else made a repository"):
        created(store)
    assert len(key_files(store)) == 2
    opened(store)


def test_a_config_whose_answer_was_lost_is_ours() -> None:
    """T27: the repeated PUT finds the first one's object."""
    faulty = Faulty(MemoryStore(), after=nth("put", [1], Transient("reset"), "config"))
    with created(RetryingStore(faulty, longest_wait=0.01)) as repository:
        assert opened(faulty).id == repository.id


@pytest.mark.parametrize("left", ["snapshots/", "index/", "data/"])
def test_a_repository_that_lost_its_config_is_not_overwritten(memory: MemoryStore, left: str) -> None:
    """T30: its keys are what can still save it."""
    backed_up(memory, [b"data"])
    del memory.objects["config"]
    memory.delete([name for name in memory.objects if not name.startswith((left, "keys/"))])
    before = dict(memory.objects)
    with pytest.raises(AlreadyExists, match=r"has lost its config; bring config back"):
        created(memory)
    assert memory.objects == before
