"""What the store does not take: on the disk when ``put`` returns, sealed, and there after a crash."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.interfaces import Claim, Unstored
from tokenproxy.core.tokens import TokenSet
from tokenproxy.errors import SealError, StoreError
from tokenproxy.stores.spool import FileSpool, spool_folders

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def unstored(account: str = "crm/anna", *, generation: int = 2, token: str = "planted-access") -> Unstored:
    return Unstored(
        claim=Claim(account, generation - 1, fence=7),
        bound_to="https://idp.example client",
        tokens=TokenSet(
            access_token=token,
            refresh_token="planted-refresh",
            scope="read",
            issued_at=NOW,
            expires_at=NOW + timedelta(hours=1),
            captured={"instance_url": "https://eu.example"},
            generation=generation,
        ),
        previous="planted-previous",
        standing=Standing(State.OK, Reason.NONE, NOW),
    )


def spool(*folders: Path, key: bytes = KEY, store: str = "sqlite:/a.db") -> FileSpool:
    return FileSpool(folders, [key], store=store)


async def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = unstored()
    await spool(tmp_path / "spool").put(kept)

    assert await spool(tmp_path / "spool").waiting() == [kept]


async def test_the_newest_takes_the_place_of_what_waits(tmp_path: Path) -> None:
    one = spool(tmp_path / "spool")
    await one.put(unstored(generation=2))
    await one.put(unstored(generation=3))
    await one.put(unstored("crm/ben"))

    assert sorted((kept.claim.account, kept.tokens.generation) for kept in await one.waiting()) == [
        ("crm/anna", 3),
        ("crm/ben", 2),
    ]
    await one.drop("crm/anna")
    await one.drop("crm/nobody")
    assert [kept.claim.account for kept in await one.waiting()] == ["crm/ben"]


async def test_where_one_place_fails_the_next_is_taken(tmp_path: Path) -> None:
    """What ails the store's disk ails what lies beside it."""
    (tmp_path / "in-the-way").touch()
    one = spool(tmp_path / "in-the-way" / "spool", tmp_path / "in-the-way", tmp_path / "spool")
    await one.put(unstored())

    assert [kept.tokens.generation for kept in await one.waiting()] == [2]
    assert len(list((tmp_path / "spool").iterdir())) == 1
    await one.drop("crm/anna")
    assert await one.waiting() == []


async def test_of_two_places_the_newer_set_counts(tmp_path: Path) -> None:
    await spool(tmp_path / "a").put(unstored(generation=3))
    await spool(tmp_path / "b").put(unstored(generation=2))

    assert [kept.tokens.generation for kept in await spool(tmp_path / "a", tmp_path / "b").waiting()] == [3]


async def test_where_no_place_takes_it_a_sentence_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="no folder of the spool takes a file") as caught:
        await spool(tmp_path / "file").put(unstored())

    assert "store.spool" in caught.value.next_step
    assert "planted" not in str(caught.value)


async def test_nothing_of_it_can_be_read_by_others(tmp_path: Path) -> None:
    await spool(tmp_path / "spool").put(unstored())

    (file,) = (tmp_path / "spool").iterdir()
    assert (file.stat().st_mode & 0o777, (tmp_path / "spool").stat().st_mode & 0o777) == (0o600, 0o700)
    assert b"planted" not in file.read_bytes()
    assert "anna" not in file.name


async def test_a_folder_that_others_can_write_is_none_of_ours(tmp_path: Path) -> None:
    """In /var/tmp anybody may have made it first, or put a link there."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    for folder in (tmp_path / "theirs", tmp_path / "link"):
        with pytest.raises(StoreError):
            await spool(folder).put(unstored())
        assert await spool(folder).waiting() == []
    assert list((tmp_path / "elsewhere").iterdir()) == []
    await spool(tmp_path / "elsewhere").put(unstored())
    await spool(tmp_path / "link").drop("crm/anna")
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


@pytest.mark.parametrize("change", ["another key", "another store", "another name", "altered", "cut"])
async def test_what_does_not_open_is_told_and_not_passed_over(change: str, tmp_path: Path) -> None:
    """Without it the store's spent refresh token would be sent."""
    await spool(tmp_path).put(unstored())
    (file,) = tmp_path.glob("*.sealed")
    found = spool(
        tmp_path,
        key=OTHER if change == "another key" else KEY,
        store="sqlite:/b.db" if change == "another store" else "sqlite:/a.db",
    )
    if change == "another name":
        file.rename(file.with_name("0" * 32 + ".sealed"))
    elif change == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    elif change == "cut":
        os.truncate(file, 20)

    with pytest.raises(SealError) as caught:
        await found.waiting()
    assert str(tmp_path) in str(caught.value)
    assert caught.value.next_step


async def test_a_new_key_seals_what_waits_too(tmp_path: Path) -> None:
    """A rotation of keys drops the old one at its end."""
    one = spool(tmp_path / "spool")
    await one.put(unstored())
    one.use_keys([OTHER, KEY])

    assert await one.reseal() == 1
    assert await spool(tmp_path / "spool", key=OTHER).waiting() == [unstored()]


async def test_a_half_written_file_is_not_taken_for_one(tmp_path: Path) -> None:
    """A crash in the middle of a write leaves the file of before, or none."""
    one = spool(tmp_path / "spool")
    await one.put(unstored())
    (tmp_path / "spool" / "tmpabc").write_bytes(b"half")

    assert await one.waiting() == [unstored()]


async def test_what_the_store_takes_while_it_is_read_does_not_wait(tmp_path: Path) -> None:
    """Its name was there a moment ago: here one that leads nowhere."""
    one = spool(tmp_path / "spool")
    await one.put(unstored())
    (tmp_path / "spool" / "0gone.sealed").symlink_to("nowhere")

    assert await one.waiting() == [unstored()]


def test_two_stores_have_two_spools(tmp_path: Path) -> None:
    beside, elsewhere = spool_folders(tmp_path / "a.db", None)

    assert beside.parent == tmp_path
    assert elsewhere.parent != tmp_path
    assert elsewhere != spool_folders(tmp_path / "b.db", None)[1]
    assert spool_folders(tmp_path / "a.db", tmp_path / "named") == (tmp_path / "named",)


def test_nothing_of_it_is_in_its_repr() -> None:
    assert "planted" not in repr(replace(unstored(), previous="planted-previous"))
