"""Who may do what, how often, and hashes of passwords."""

from __future__ import annotations

import pytest

from tokenproxy.core.callers import Bucket, Caller, Certificate, Login, Peer, Subject
from tokenproxy.core.passwords import PasswordHash


@pytest.mark.parametrize(
    ("accounts", "account", "may"),
    [
        (None, "books", True),
        (("books",), "books", True),
        (("books",), "books/anna", False),
        (("books/*",), "books/anna", True),
        (("books/*",), "books", False),
        (("books/*",), "bookshop/anna", False),
        (("books/anna",), "books/anna", True),
        (("books/anna",), "books/anna2", False),
        (("roster",), "books", False),
    ],
)
def test_accounts_of_a_caller(accounts: tuple[str, ...] | None, account: str, *, may: bool) -> None:
    assert Caller(name="app", accounts=accounts).may_use(account) == may


@pytest.mark.parametrize(
    ("accounts", "only"),
    [
        (None, ""),
        (("crm/anna",), "crm/anna"),
        (("crm/anna", "books"), "crm/anna"),
        (("crm/anna", "crm/bert"), ""),
        (("crm/*",), ""),
        (("crmx/anna",), ""),
    ],
)
def test_a_caller_with_one_login_need_not_name_it(accounts: tuple[str, ...] | None, only: str) -> None:
    assert Caller(name="app", accounts=accounts).only_login("crm") == only


def test_a_bucket_lets_a_burst_through_and_then_so_many_a_second() -> None:
    bucket = Bucket(2.0, 3)
    now = 1000.0
    assert [bucket.take(now) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(now) == pytest.approx(0.5)
    assert bucket.take(now + 0.4) == pytest.approx(0.1)
    assert bucket.take(now + 0.5) == 0.0
    assert bucket.take(now + 0.5) == pytest.approx(0.5)
    assert [bucket.take(now + 60) for _ in range(3)] == [0.0, 0.0, 0.0]  # no more than the burst is saved up
    assert bucket.take(now + 60) > 0


def test_a_bucket_whose_limits_change_forgets_nothing() -> None:
    bucket = Bucket(1.0, 0)
    assert bucket.burst == 1
    assert bucket.take(5.0) == 0.0
    bucket.configure(10.0, 0)
    assert bucket.burst == 10
    assert bucket.take(5.0) == pytest.approx(0.1)


def test_whose_a_token_is() -> None:
    subject = Subject(issuer="cluster", subjects=frozenset({"ns:books:*", "exact"}), claims={"azp": "app"})
    assert subject.closeness({"sub": "ns:books:job", "azp": "app"})
    assert subject.closeness({"sub": "exact", "azp": ["other", "app"]})
    assert not subject.closeness({"sub": "exactly", "azp": "app"})
    assert not subject.closeness({"sub": "exact"})
    assert not subject.closeness({"sub": ["exact"], "azp": "app"})
    assert Subject(issuer="cluster", claims={"azp": "app"}).closeness({"azp": "app"})


def test_whose_a_token_is_most_closely() -> None:
    """A whole text before the longest star, that before claims alone; a bare star says nothing."""

    def close(*subjects: str, **claims: str) -> tuple[bool, int, int]:
        subject = Subject(issuer="cluster", subjects=frozenset(subjects), claims=claims)
        found = subject.closeness({"sub": "ns:books:job", "azp": "app", "team": "b"})
        assert found is not None
        return found

    growing = [
        close("*"),
        close(azp="app"),
        close(azp="app", team="b"),
        close("ns:*", "other"),
        close("ns:*", azp="app"),
        close("ns:books:*", "*"),
        close("ns:books:job*"),
        close("ns:books:job", "*"),
        close("ns:books:job", azp="app"),
    ]
    assert growing == sorted(growing)
    assert len(set(growing)) == len(growing)
    assert close("*", azp="app") == close(azp="app")


def test_a_caller_s_ways_and_secrets() -> None:
    caller = Caller(
        name="app",
        keys=("k1",),
        login=Login(username="app", passwords=("pw",)),
        certificate=Certificate(cn=frozenset({"app"})),
        peer=Peer(users=frozenset({0})),
    )
    assert caller.ways == {"key", "basic", "certificate", "peer"}
    assert caller.secrets == ("k1", "pw")
    assert "k1" not in repr(caller)
    assert "'pw'" not in repr(caller)


PASSLIB = "$scrypt$ln=16,r=8,p=1$aM15713r3Xsvxbi31lqr1Q$nFNh2CVHVjNldFVKDHDlm4CbdRSCdEBsjjJxD+iCs5E"
"""Of "password", from passlib's documentation."""


def test_hashes_of_passwords() -> None:
    made = PasswordHash.made("secret pässword", salt=b"0123456789abcdef")
    assert PasswordHash.of(str(made)) == made
    assert made.matches("secret pässword".encode())
    assert not made.matches(b"secret password")
    assert PasswordHash.of(PASSLIB).matches(b"password")
    assert str(PasswordHash.of(PASSLIB)) == PASSLIB


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("hunter2", "no hash"),
        ("$argon2id$v=19$m=1,t=1,p=1$aaaa$bbbb", "no hash"),
        (PASSLIB.replace("ln=16", "ln=9"), "too weak"),
        (PASSLIB.replace("r=8", "r=0"), "too weak"),
        (PASSLIB.replace("p=1", "p=17"), "too weak"),
        (PASSLIB.replace("ln=16", "ln=17"), "more than 64 MiB"),
        (PASSLIB.replace("ln=16", "ln=99"), "more than 64 MiB"),
        (PASSLIB[:-22], "no hash"),
    ],
)
def test_hashes_that_are_none(text: str, phrase: str) -> None:
    """Weak ones, and those whose check would take all memory; what is wrong is not quoted."""
    with pytest.raises(ValueError, match=phrase) as refused:
        PasswordHash.of(text)
    assert text not in str(refused.value)


def test_one_that_began_earlier_takes_no_more_than_another() -> None:
    """A caller's password takes a while to be looked into; meanwhile another request of the same caller was let in."""
    bucket = Bucket(100, 10)

    assert bucket.take(100.0) == 0
    assert bucket.take(99.7) == 0
    assert bucket.take(100.0) == 0
