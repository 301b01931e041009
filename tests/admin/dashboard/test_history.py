"""What is remembered: how much, how long, and that it costs next to nothing."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

from tests.admin.dashboard.visitor import Visitor
from tests.admin.program import NOON
from tests.simulators import FakeClock
from tokenproxy import log
from tokenproxy.admin.dashboard import drawing
from tokenproxy.admin.dashboard.history import EVENTS, MINUTES, NO_ROUTE, REQUESTS, History, Hour
from tokenproxy.metrics import Metrics

ASSETS = Path(__file__).parents[3] / "tokenproxy/admin/dashboard/assets"


def test_an_hour_is_sixty_minutes_of_differences() -> None:
    metrics, clock = Metrics(), FakeClock(NOON)
    history = History(metrics, clock)
    route = metrics.route("books")
    for minute in range(70):
        route.requests[2, "ok"] += minute
        route.requests[5, "proxy_error"] += minute == 65
        history.minutes.sample()
    route.count(200, "ok")
    route.count(503, "login_required")
    route.count(404, "ok")

    hour = history.minutes.of(["books"])

    assert hour.requests == (*range(11, 65), 66, *range(66, 70), 3)
    assert hour.errors[54] == 1
    assert (len(hour.requests), hour.requests[-1], hour.errors[-1]) == (MINUTES, 3, 1)
    assert history.minutes.of(["books", "nothing"]) == hour
    assert history.minutes.of([]).total == history.minutes.of(["nothing"]).total == 0


def test_what_was_refused_before_a_route_was_found_is_a_series_too() -> None:
    metrics = Metrics()
    history = History(metrics, FakeClock(NOON))
    metrics.refused["no_route"] = 3

    assert (history.minutes.of([NO_ROUTE]).total, history.minutes.of([NO_ROUTE]).failed) == (3, 3)


async def test_it_is_sampled_once_a_minute() -> None:
    metrics, clock = Metrics(), FakeClock(NOON)
    history = History(metrics, clock)
    running = asyncio.create_task(history.run())
    metrics.route("books").count(200, "ok")
    await clock.advance(60)
    metrics.route("books").count(200, "ok")
    await clock.advance(59)

    assert history.minutes.of(["books"]).requests[-2:] == (1, 1)
    running.cancel()


def test_routine_pushes_no_trouble_out() -> None:
    history = History(Metrics(), FakeClock(NOON))
    history.timeline.hear("login_required", {"account": "erp", "detail": "over"})
    for number in range(2 * EVENTS):
        history.timeline.hear("token_renewed", {"account": f"crm/{number}", "generation": 1})

    assert [each.name for each in history.timeline.of("erp", most=10)] == ["login_required"]
    assert len(history.timeline.of("crm/3999", most=10)) == 1
    assert history.timeline.of("crm/1", most=10) == []


def test_only_what_a_timeline_tells_is_kept() -> None:
    history = History(Metrics(), FakeClock(NOON))
    history.timeline.hear("request", {"account": "books", "path": "/x"})

    assert history.timeline.count == 0


def test_an_event_s_secrets_are_hidden() -> None:
    """As in the log, whose fields they are, before it has redacted them."""
    history = History(Metrics(), FakeClock(NOON))
    log.register_secret("s3cret-of-the-provider")
    history.timeline.hear(
        "renewal_failed",
        {"account": "books", "detail": "it said s3cret-of-the-provider, Bearer abcdefgh12345"},
    )
    log.forget("s3cret-of-the-provider")

    assert history.timeline.of("books", most=1)[0].fields["detail"] == "it said [redacted], Bearer [redacted]"


def test_whoever_listens_to_the_log_hears_every_event_until_the_end() -> None:
    heard: list[str] = []
    end = log.listen(lambda name, fields: heard.append(f"{name} {fields['account']}"))
    logger = logging.getLogger("tokenproxy.heard")
    logger.setLevel("CRITICAL")
    log.event(logger, "token_renewed", account="books")
    end()
    log.event(logger, "token_renewed", account="crm")

    assert heard == ["token_renewed books"]


async def test_the_last_requests_are_metadata_and_can_be_filtered(
    visitor: Visitor, history: History, clock: FakeClock
) -> None:
    rows = history.recent.rows
    for number in range(REQUESTS + 50):
        rows.append(
            (
                clock.monotonic() - 300 + number,
                "books",
                "books",
                "",
                "GET",
                f"/books/{number}",
                200,
                "",
                0.083,
                0.08,
                1,
            )
        )
    rows.append(
        (
            clock.monotonic() - 2,
            "crm",
            "crm/anna",
            "night-job",
            "POST",
            "/crm/x",
            503,
            "login_required",
            0.0004,
            0.0,
            0,
        )
    )
    rows.append((clock.monotonic() - 1, "", "", "", "GET", "/nowhere", 404, "no_route", 0.0004, 0.0, 0))
    rows.append((clock.monotonic(), "books", "books", "", "GET", "/books/gone", 0, "", 3.2, 3.1, 2))

    page = await visitor.open("/requests")
    said = page.seen.text
    assert page.text.count('data-label="Took"') == REQUESTS
    assert (
        said.index("/books/gone") < said.index("/nowhere") < said.index("/crm/x") < said.index("/books/249")
    )
    assert "POST /crm/x by night-job" in said
    assert "503 login_required Somebody must log the account in" in said
    assert "404 no_route No route takes this request" in said
    assert "left The caller left before any answer 3.2 s 3.1 s 2" in said
    assert "200 83 ms 80 ms 1" in said

    async def shown(query: str) -> list[str]:
        return re.findall(r"<code>\w+ (/\S*)</code>", (await visitor.open(f"/requests?{query}")).text)

    assert await shown("route=crm") == ["/crm/x"]
    assert await shown("status=4") == ["/nowhere"]
    assert await shown("status=refused") == ["/nowhere", "/crm/x"]
    assert await shown("status=0") == ["/books/gone"]
    assert await shown("route=crm&status=2") == []


def test_a_minute_under_way_draws_no_fall() -> None:
    """It is not less because it is not over; a rise is news."""
    falling = drawing.sparkline(Hour((5,) * 59 + (1,), (0,) * 60))
    rising = drawing.sparkline(Hour((5,) * 59 + (9,), (0,) * 59 + (9,)))

    assert len(falling.line.split()) == 59
    assert rising.line.split()[-1] == "118,2"
    assert rising.errors == ((118, 2),)
    assert falling.words == "296 requests, 0 errors"


def test_a_bar_is_what_is_left_of_a_token_s_life() -> None:
    from datetime import timedelta

    def left(minutes: int) -> int | None:
        return drawing.left(NOON + timedelta(minutes=minutes), NOON - timedelta(minutes=30), NOON)

    assert [left(30), left(0), left(-10), left(90)] == [50, 0, 0, 75]
    assert drawing.left(NOON, None, NOON) is drawing.left(None, NOON, NOON) is None


# -- colours ----------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """WCAG 2.1, relative luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_aa_in_both_schemes() -> None:
    """WCAG 2.1, 1.4.3 and 1.4.11: 4.5 for text, 3 for what is drawn and for the borders of controls."""
    light, dark = re.findall(r":root \{(.*?)\}", (ASSETS / "page.css").read_text(), re.DOTALL)
    kinds = ("good", "warn", "bad", "none")
    text = [
        *((ink, paper) for ink in ("ink", "soft", "link") for paper in ("page", "paper")),
        ("ink", "none-paper"), ("soft", "none-paper"), ("on-accent", "accent"),
        *((kind, f"{kind}-paper") for kind in kinds), ("bad", "paper"),
    ]  # fmt: skip
    drawn = [
        ("edge", "paper"), ("edge", "page"), ("focus", "page"), ("focus", "paper"), ("accent", "paper"),
        ("bar", "paper"), ("bar", "none-paper"), ("bar-low", "paper"), ("bar-low", "none-paper"),
        ("spark", "paper"), ("spark", "spark-area"), ("fault", "paper"), ("fault", "spark-area"),
    ]  # fmt: skip
    for scheme in (light, dark):
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", scheme))
        for pairs, least in ((text, 4.5), (drawn, 3.0)):
            for ink, paper in pairs:
                found = contrast(colours[ink], colours[paper])
                assert found >= least, f"{ink} {colours[ink]} on {paper} {colours[paper]}: {found:.2f}"


def test_what_a_browser_is_given_is_small() -> None:
    """Vendored frameworks would be 110 kB; and nothing is fetched from elsewhere."""
    assert sum(path.stat().st_size for path in ASSETS.iterdir()) < 30_000
    for path in ASSETS.iterdir():
        assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org/2000/svg)", path.read_text()), path.name
