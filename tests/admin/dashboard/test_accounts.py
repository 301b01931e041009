"""The list of accounts and the page of one: honest words, what to do, and nothing that an account's text could break out of."""

from __future__ import annotations

import time
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from tests.admin.dashboard.visitor import Seen, Visitor
from tests.admin.program import NOON, Program
from tokenproxy import log
from tokenproxy.admin.dashboard import words
from tokenproxy.admin.dashboard.history import HEARD, History
from tokenproxy.core.account import State
from tokenproxy.errors import ProviderUnavailableError, StoreError

NASTY = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


class Rows(HTMLParser):
    """The words of each row of the list."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr" and dict(attrs).get("id", "").startswith("row-"):  # type: ignore[union-attr]
            self.rows.append([])
            self._in = True

    def handle_endtag(self, tag: str) -> None:
        self._in = self._in and tag != "tr"

    def handle_data(self, data: str) -> None:
        if self._in and data.strip():
            self.rows[-1].append(" ".join(data.split()))

    @property
    def names(self) -> list[str]:
        return [row[0] for row in self.rows]


def many(program: Program, count: int) -> None:
    program.rows.clear()
    for number in range(count):
        program.put(
            f"books/user{number:04}",
            state="ok",
            live=True,
            provider="plain",
            grant="authorization_code",
            identity=f"user{number:04}@example.com",
            renewed_at="2026-11-22T11:38:00Z",
            expires_at="2026-11-22T12:38:00Z",
        )


async def test_a_row_says_until_when_and_what_to_do(visitor: Visitor, program: Program) -> None:
    """A person must see within a second whether to do anything; who needs somebody comes first."""
    program.put(
        "books",
        state="ok",
        live=True,
        provider="plain",
        renewed_at="2026-11-22T11:08:00Z",
        expires_at="2026-11-22T12:38:00Z",
    )
    program.put(
        "erp/anna",
        identity="anna@example.com",
        state="login_required",
        detail="the provider ended the grant (invalid_grant)",
        next_step="tokenproxy login erp/anna",
        renewed_at="2026-11-22T09:12:00+00:00",
    )
    program.put(
        "mail",
        state="misconfigured",
        grant="client_credentials",
        detail="the provider refuses the client",
        next_step="correct [accounts.mail], then: tokenproxy reload",
    )
    program.put("roster", state="degraded", retry_at="2026-11-22T12:00:40Z", detail="no tokens right now")
    program.put(
        "crm",
        state="login_required",
        live=True,
        next_step="tokenproxy login crm",
        renewed_at="2026-11-22T11:08:00Z",
        expires_at="2026-11-22T12:38:00Z",
    )

    page = await visitor.open("/")
    rows = Rows(page.text).rows

    assert rows[0][0] == "crm"
    assert "38 min at most" in " ".join(rows[0])
    rows = rows[1:]
    assert rows[0][:4] == [
        "erp/anna",
        "anna@example.com",
        "login required",
        "The provider ended the grant (invalid_grant).",
    ]
    assert rows[0][-1] == "Log in"
    assert "3 h ago" in rows[0]
    assert 'href="/log-in?account=erp%2Fanna"' in page.text
    assert rows[1][0] == "mail"
    assert rows[1][-1] == "correct [accounts.mail], then: tokenproxy reload"
    assert rows[2][0] == "roster"
    assert " ".join(rows[2]).endswith("nothing: tried again in 40 s")
    assert rows[3] == ["books", "plain", "ok", "38 min", "52 min ago", "no requests", "nothing"]
    assert page.text.count('<rect class="left" width="42"') == 1


@pytest.mark.parametrize("state", [state.value for state in State])
async def test_every_state_has_words_and_a_sign(visitor: Visitor, program: Program, state: str) -> None:
    """Never a bare identifier, and never colour alone."""
    program.put("books", state=state)

    for target in ("/", "/accounts/books"):
        page = await visitor.open(target)
        kind, said = words.STATES[state]
        assert said in page.seen.text
        assert f'<use href="#sign-{kind}"/>' in page.text
    assert set(words.STATES) == set(words.ORDER) == {each.value for each in State}


async def test_nothing_from_a_provider_becomes_markup(
    visitor: Visitor, program: Program, history: History
) -> None:
    """Identities, scopes and error texts come from outside; so does the path of a request."""
    texts = ("identity", "provider", "detail", "next_step", "scope", "grant")
    program.put("books", state="degraded", **dict.fromkeys(texts, NASTY))
    history.timeline.hear("renewal_failed", {"account": "books", "detail": NASTY})
    history.recent.rows.append((1000.0, NASTY, NASTY, NASTY, NASTY, f"/{NASTY}", 503, NASTY, 0.1, 0.1, 1))
    program.fails = None

    for target in (
        "/",
        "/accounts/books",
        "/requests",
        f"/log-in?account={NASTY.replace(' ', '%20')}",
        "/?q=%3Cscript%3E",
    ):
        page = await visitor.open(target)
        assert page.status == 200
        assert "<script>alert" not in page.text
        assert "{{7*7}}" in page.text or "q=" in target
        assert page.seen.tags.isdisjoint({"img", "iframe", "object"})
        assert page.seen.inline == []
        assert page.text.count("<script") == 1


async def test_errors_are_pages_too(visitor: Visitor, program: Program) -> None:
    """A page that shows nothing looks as if all were well."""
    program.fails = StoreError("the store cannot be read: <disk> full", next_step="make room")

    page = await visitor.open("/")

    assert page.status == 503
    assert page.headers["Content-Type"].startswith("text/html")
    assert "The store cannot be read: <disk> full. Next: make room" in page.seen.text
    program.fails = None
    page = await visitor.open("/accounts/nobody")
    assert page.status == 404
    assert "There is no account nobody." in page.seen.text


async def test_renewing_says_what_came_of_it_once(visitor: Visitor, program: Program) -> None:
    answer = await visitor.send("/accounts/books", do="renew")
    assert (answer.status, answer.headers["Location"]) == (303, "/accounts/books")
    assert program.rows["books"]["generation"] == 4

    live = await visitor.open("/accounts/books", Tokenproxy_Live="1")
    assert "Renewed: generation 4" not in live.text, "what our script asks for is not for eyes"
    assert (
        "Renewed: generation 4, good until 2026-11-22 12:38:00 UTC (in 38 min)."
        in (await visitor.open("/accounts/books")).seen.text
    )
    assert "Renewed: generation 4" not in (await visitor.open("/accounts/books")).text


async def test_a_renewal_that_fails_says_why(visitor: Visitor, program: Program) -> None:
    key = (await visitor.open("/log-in")).form_key
    program.fails = ProviderUnavailableError(
        "the provider <is> down", account="books", next_step="tokenproxy status"
    )
    assert (await visitor.send("/accounts/books", key=key, do="renew")).status == 303
    program.fails = None

    page = await visitor.open("/accounts/books")
    assert "The provider <is> down. tokenproxy status" in page.seen.text
    assert 'role="alert"' in page.text


async def test_logging_out_asks_first_and_says_whether_the_provider_knows(
    visitor: Visitor, program: Program
) -> None:
    """The button is behind another one, without scripts too."""
    page = await visitor.open("/accounts/books")
    assert '<details id="log-out">' in page.text
    assert page.text.index("<summary") < page.text.index('value="log-out"')

    await visitor.send("/accounts/books", do="log-out")
    assert "Logged out: the tokens are dropped." in (await visitor.open("/accounts/books")).seen.text
    assert program.rows["books"]["state"] == "new"
    assert (await visitor.send("/accounts/books", do="what")).status == 400


async def test_a_thousand_accounts_are_readable(visitor: Visitor, program: Program) -> None:
    """A hundred on a page, counted by state, those that need somebody above all of them."""
    many(program, 1000)
    program.rows["books/user0700"] |= {
        "state": "login_required",
        "next_step": "tokenproxy login books/user0700",
    }

    page = await visitor.open("/")

    assert "1,000 logins" in page.seen.text
    assert "1 login required" in page.seen.text
    assert "999 ok" in page.seen.text
    assert page.text.index("books/user0700") < page.text.index("books/user0000")
    names = Rows(page.text).names
    assert names == [f"books/user{number:04}" for number in range(100)]
    seen = set(names)
    while 'rel="next"' in page.text:
        following = page.text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
        page = await visitor.open(following)
        assert not seen & set(Rows(page.text).names)
        seen |= set(Rows(page.text).names)
    assert len(seen) == 1000


async def test_a_thousand_accounts_take_less_than_300_ms(visitor: Visitor, program: Program) -> None:
    """
    On one page, which is ten times what a page shows. It is the time that the process works, with this test's own asking in
    it: what else the machine does is not the page's.
    """
    many(program, 1000)
    await visitor.open("/")
    took = []
    for _ in range(3):
        begun = time.process_time()
        page = await visitor.open("/?rows=1000")
        took.append(time.process_time() - begun)
        assert len(Rows(page.text).rows) == 1000

    assert min(took) < 0.3, took


async def test_accounts_are_found_by_name_person_provider_and_state(
    visitor: Visitor, program: Program
) -> None:
    many(program, 300)
    program.put("erp", state="new", provider="acme")
    program.rows["books/user0042"] |= {"state": "degraded"}

    async def found(query: str) -> list[str]:
        return Rows((await visitor.open(f"/?{query}")).text).names

    assert await found("q=USER0123") == ["books/user0123"]
    assert await found("q=0007%40example") == ["books/user0007"]
    assert await found("q=acme") == ["erp"]
    assert await found("state=degraded") == ["books/user0042"]
    assert await found("state=new&q=books") == []
    assert len(await found("q=user")) == 100
    assert len(await found("q=user&after=books/user0250")) == 49
    assert "Nothing fits." in (await visitor.open("/?q=nobody-at-all")).seen.text
    for odd in ("state=nonsense", "rows=0", "rows=x", "rows=99999999", "after=%00", "q=%F0%9F%98%80"):
        assert (await visitor.open(f"/?{odd}")).status == 200


async def test_a_search_among_very_many_can_be_gone_on_with(visitor: Visitor, program: Program) -> None:
    """No page looks through a hundred thousand at once."""
    many(program, 6000)
    page = await visitor.open("/?q=user5999")
    assert "Nothing among the 5,000 that were looked at fits." in page.seen.text
    following = page.text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert Rows((await visitor.open(following)).text).names == ["books/user5999"]


async def test_without_an_account_it_says_how_to_begin(visitor: Visitor, program: Program) -> None:
    program.rows.clear()

    assert "[accounts.NAME]" in (await visitor.open("/")).seen.text


async def test_a_timeline_tells_what_happened(visitor: Visitor, history: History) -> None:
    history.timeline.hear(
        "token_renewed",
        {"account": "books", "trigger": "on_401", "generation": 4, "seconds": 0.21, "waiters": 12},
    )
    history.timeline.hear("token_renewed", {"account": "other", "generation": 9})
    history.timeline.hear("config_reloaded", {"routes": 2, "restart_needed": ["server.loop"]})
    history.timeline.hear("login_failed", {"account": "books", "login": "abc", "reason": "provider_refused"})

    said = (await visitor.open("/accounts/books")).seen.text

    assert "Renewed after an upstream refused the token, in 210 ms, generation 4, 12 requests waited" in said
    assert "Config reloaded restart needed for ['server.loop']" in said
    assert "Login failed provider refused" in said
    assert "generation 9" not in said


def test_every_event_that_is_heard_exists_and_has_words() -> None:
    assert set(log.EVENTS) >= HEARD
    assert set(words._EVENTS) == HEARD


def test_distances_read_as_people_say_them() -> None:
    said = [
        words.distance(NOON + timedelta(seconds=each), NOON)
        for each in (0, 59, 150, 7000, 7300, 200_000, -150, -1)
    ]

    assert said == ["now", "in 59 s", "in 2 min", "in 117 min", "in 2 h", "in 2 d", "2 min ago", "1 s ago"]


async def test_a_page_reads_without_its_style(visitor: Visitor) -> None:
    """Headings, tables with headers, labels: what a screen reader goes by."""
    page = await visitor.open("/")
    seen = Seen(page.text)
    assert {"h1", "table", "caption", "th", "nav", "main", "label"} <= seen.tags
    assert '<html lang="en">' in page.text
    assert 'aria-current="page"' in page.text
    assert 'scope="col"' in page.text
