"""The key file: made once, replaced whole, readable by us alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.stores.values import KEY, adopt
from tokenproxy.errors import StoreError
from tokenproxy.stores import (
    create_key_file,
    finish_key_file,
    new_key,
    open_store,
    parse_keys,
    read_key_file,
    rotate_key_file,
    store_exists,
    store_path,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokenproxy.key"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_key_file_is_ours_alone(path: Path) -> None:
    """Whatever the umask: who has this file and the store has every login."""
    before = os.umask(0)
    try:
        text = create_key_file(path)
    finally:
        os.umask(before)

    assert mode(path) == 0o600
    assert read_key_file(path) == parse_keys(text)


def test_a_key_file_is_never_overwritten(path: Path) -> None:
    """It may be the only key that opens the store."""
    text = create_key_file(path)

    with pytest.raises(StoreError, match="is there already"):
        create_key_file(path)
    assert path.read_text() == f"{text}\n"


def test_a_rotation_puts_the_new_key_first_and_in_the_end_keeps_it_alone(path: Path) -> None:
    """Between the two, and whenever it breaks off, every row opens."""
    old = create_key_file(path)

    new = rotate_key_file(path)
    assert read_key_file(path) == parse_keys(f"{new}\n{old}")
    assert finish_key_file(path) == 1
    assert finish_key_file(path) == 0

    assert read_key_file(path) == parse_keys(new)
    assert mode(path) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_rotation_follows_a_link_and_keeps_a_group_s_permission(path: Path) -> None:
    """The service may read the key through its group; after a rotation by root it still must."""
    create_key_file(path)
    path.chmod(0o640)
    link = path.parent / "link.key"
    link.symlink_to(path)

    rotate_key_file(link)

    assert link.is_symlink()
    assert mode(path) == 0o640
    assert len(read_key_file(path)) == 2


def test_a_rotation_keeps_the_owner(path: Path) -> None:
    """``sudo tokenproxy key rotate`` must not lock the service out."""
    if os.geteuid() != 0:
        pytest.skip("giving a file away needs root")
    create_key_file(path)
    os.chown(path, 10001, 10002)

    rotate_key_file(path)

    assert (path.stat().st_uid, path.stat().st_gid) == (10001, 10002)


@pytest.mark.parametrize("text", [b"", b"not a key\n", b"\xff\xfe\x00"])
def test_what_is_no_key_file_is_left_alone(path: Path, text: bytes) -> None:
    """A wrong path in the config must not make a key file of a certificate."""
    path.write_bytes(text)

    for change in (rotate_key_file, finish_key_file, read_key_file):
        with pytest.raises(StoreError):
            change(path)
    assert path.read_bytes() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_key_file_is_one_sentence(path: Path) -> None:
    """With the path and what to look at."""
    with pytest.raises(StoreError, match="cannot be read: no such file or directory") as missing:
        read_key_file(path)
    assert str(path.parent) in missing.value.next_step


async def test_an_existing_store_is_seen(tmp_path: Path) -> None:
    """With a store but no key nothing may start: a new key would open none of it."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    assert not store_exists(url)
    assert not store_exists("memory:")

    store = await open_store(url, [KEY])
    await adopt(store)
    await store.close()

    assert store_exists(url)
    assert store_path(url) == tmp_path / "store.db"


@pytest.mark.parametrize(
    "url", ["", "store.db", "mysql://db/x", "sqlite", "sqlite:", "sqlite:///x", "sqlite::memory:"]
)
async def test_an_unknown_store_is_one_sentence(url: str) -> None:
    """That names the ones there are, or the form that was meant."""
    with pytest.raises(StoreError) as refused:
        await open_store(url, [parse_keys(new_key())[0]])

    assert "sqlite:" in f"{refused.value} {refused.value.next_step}"
