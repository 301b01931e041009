"""
The pages: accounts, one account, the last requests, and health.

What changes anything is a form with its session's key, and ends in a redirect, so that a reload repeats nothing.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from aiohttp import web

from tokenproxy.admin.dashboard import drawing, gate, views, words
from tokenproxy.admin.dashboard.door import Door, go, notice_of
from tokenproxy.admin.dashboard.gate import our_page
from tokenproxy.admin.dashboard.history import NO_ROUTE, Seen, routes_by_table
from tokenproxy.admin.dashboard.listing import MOST_ROWS, ROWS, Search, by_need, listed
from tokenproxy.admin.dashboard.live import Live
from tokenproxy.admin.dashboard.logging_in import LoggingIn
from tokenproxy.admin.dashboard.sessions import Notice, Session
from tokenproxy.admin.dashboard.sight import Examination, Sight
from tokenproxy.core.provider import table_of
from tokenproxy.core.routes import Route
from tokenproxy.errors import TokenproxyError
from tokenproxy.log import redact

URGENT: Final = 10
"""Accounts that need somebody, before a list that has several pages."""
_IN_ONE_GO: Final = 50
"""Accounts drawn before the loop does other things: 3 ms of work."""
_EVENTS: Final = 100
"""Of one account, on its page."""
_LEVELS: Final = ("bad", "warn", "good")
"""Of what doctor finds, in the order in which a person wants to read them."""
_LONGEST_WORD: Final = 200
_ACCOUNT: Final = "/accounts/{account:[^/]+(?:/[^/]+)?}"


class Dashboard:
    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._door = Door(sight)
        self._logging_in = LoggingIn(sight, self._door)
        self._examining = asyncio.Lock()
        self._examined: Examination | None = None
        self.live = Live(lambda: sight.health.draining)

    def routes(self) -> list[web.RouteDef]:
        page, form = self._door.page, self._door.form
        return [
            web.get("/", page(self._accounts)),
            web.get(_ACCOUNT, page(self._account)),
            web.post(_ACCOUNT, form(self._change)),
            web.get("/requests", page(self._requests)),
            web.get("/health", page(self._health)),
            web.post("/health", form(self._examine)),
            web.get("/events", self._events, allow_head=False),
            *self._logging_in.routes(),
            *self._door.routes(),
        ]

    def lets_in(self, request: web.Request) -> bool:
        """Whether a request may come from another site: a link to a page may, which is answered by none of what it shows."""
        return gate.from_elsewhere(request) and our_page(request.path) == request.path

    # -- accounts ----------------------------------------------------------------------------------------------------

    async def _accounts(self, request: web.Request, session: Session) -> web.StreamResponse:
        search, now = _search(request), self._sight.clock.now()
        overview = await self._sight.accounts.overview(rows=search.rows)
        whole = overview["total"] <= search.rows and not search.narrow and not search.after
        if whole:
            found, following, looked_at = by_need(overview["accounts"]), "", 0
        else:
            listing = await listed(self._sight.accounts, search)
            found, following, looked_at = listing.accounts, listing.next, listing.looked_at
        urgent = [] if whole or search.narrow or search.after else overview["accounts"]
        query = {
            "q": search.words,
            "state": search.state,
            "rows": "" if search.rows == ROWS else str(search.rows),
        }
        query = {name: value for name, value in query.items() if value}
        return await self._door.html(
            "accounts.html",
            request,
            session,
            rows=await self._rows(found, now),
            urgent=[views.account_view(status, now) for status in urgent[:URGENT]],
            more_urgent=max(0, len(urgent) - URGENT),
            counts=views.counts(overview["states"]),
            total=overview["total"],
            search=search,
            next=f"/?{urlencode({**query, 'after': following})}" if following else "",
            first=f"/?{urlencode(query)}" if search.after else "",
            looked_at=looked_at,
            narrowing=lambda state: (
                f"/?{urlencode({**({'q': search.words} if search.words else {}), 'state': state})}"
            ),
        )

    async def _rows(
        self, statuses: Sequence[Mapping[str, Any]], now: datetime
    ) -> list[tuple[views.AccountView, drawing.Sparkline | None, bool]]:
        """Each with the last hour of its table's routes, which the logins under one table share; None: it has no route."""
        routes = routes_by_table((route.name, route.account) for route in self._sight.routes())
        drawn: dict[str, drawing.Sparkline] = {}
        rows: list[tuple[views.AccountView, drawing.Sparkline | None, bool]] = []
        for status in statuses:
            account = views.account_view(status, now)
            table = table_of(account.name)
            if table in routes and table not in drawn:
                drawn[table] = drawing.sparkline(self._sight.history.minutes.of(routes[table]))
            rows.append((account, drawn.get(table), table != account.name))
            if len(rows) % _IN_ONE_GO == 0:
                await asyncio.sleep(0)
        return rows

    async def _account(self, request: web.Request, session: Session) -> web.StreamResponse:
        name, now, sight = request.match_info["account"], self._sight.clock.now(), self._sight
        account = views.account_view(await sight.accounts.status(name), now)
        table = table_of(name)
        routes = [route for route in sight.routes() if table_of(route.account) == table]
        hour = sight.history.minutes.of([route.name for route in routes])
        return await self._door.html(
            "account.html",
            request,
            session,
            account=account,
            holder=await sight.store.holder(name),
            events=[views.event_view(each, now) for each in sight.history.timeline.of(name, most=_EVENTS)],
            routes=[route.name for route in routes],
            shared=table != name or any("{" in route.account for route in routes),
            hour=drawing.counted(hour),
            spark=drawing.sparkline(hour),
            table=table,
        )

    async def _change(
        self, request: web.Request, session: Session, form: Mapping[str, str]
    ) -> web.StreamResponse:
        name = request.match_info["account"]
        work = {"renew": self._renew, "log-out": self._log_out}.get(form.get("do", ""))
        if work is None:
            raise web.HTTPBadRequest
        try:
            session.notices.append(await work(name))
        except TokenproxyError as error:
            session.notices.append(notice_of(error))
        return go(views.address_of(name))

    async def _renew(self, name: str) -> Notice:
        status = await self._sight.accounts.refresh(name)
        account = views.account_view(status, self._sight.clock.now())
        until = (
            f", good until {account.expires.clock} ({account.expires.distance})" if account.expires else ""
        )
        return Notice("good", f"Renewed: generation {account.generation}{until}.")

    async def _log_out(self, name: str) -> Notice:
        status = await self._sight.accounts.logout(name)
        if status.get("revoked") is False:
            return Notice(
                "warn", "Logged out here. The provider did not take the revocation: revoke the access there."
            )
        told = " and the provider was told" if status.get("revoked") else ""
        return Notice("good", f"Logged out: the tokens are dropped{told}.")

    # -- requests ----------------------------------------------------------------------------------------------------

    async def _requests(self, request: web.Request, session: Session) -> web.StreamResponse:
        history, now = self._sight.history, self._sight.clock.now()
        route, status = request.query.get("route"), request.query.get("status", "")
        seen = [each for each in history.recent.seen() if _wanted(each, route or None, status)]
        routes = self._sight.routes()
        refused = history.minutes.of([NO_ROUTE])
        return await self._door.html(
            "requests.html",
            request,
            session,
            requests=[views.request_view(each, history.moment(each.began), now) for each in seen],
            routes=await self._busiest(routes),
            names=sorted(each.name for each in routes)[:MOST_ROWS],
            route=route or "",
            chosen=status,
            refused=drawing.sparkline(refused) if refused.total else None,
        )

    async def _busiest(self, routes: Sequence[Route]) -> list[views.RouteView]:
        """Those with the most errors first, then those with the most requests; so many as a page shows."""
        hours = []
        for number, route in enumerate(routes):
            hours.append((route, self._sight.history.minutes.of([route.name])))
            if number % _IN_ONE_GO == 0:
                await asyncio.sleep(0)
        hours.sort(key=lambda each: (-each[1].failed, -each[1].total, each[0].name))
        return [views.route_view(route, hour) for route, hour in hours[:ROWS]]

    # -- health ------------------------------------------------------------------------------------------------------

    async def _health(self, request: web.Request, session: Session) -> web.StreamResponse:
        sight, now, seen = self._sight, self._sight.clock.now(), self._examined
        info, metrics = await sight.operations.info(), sight.metrics
        reloaded = metrics.last_reload_success
        try:
            replicas, trouble = await sight.store.replicas(), ""
        except TokenproxyError as error:
            replicas, trouble = (), views.sentence(redact(error.message))
        return await self._door.html(
            "health.html",
            request,
            session,
            info=info,
            python=platform.python_version(),
            since=views.time_of(now - timedelta(seconds=info["uptime"]), now),
            reloads=metrics.reloads,
            reloaded=views.time_of(datetime.fromtimestamp(reloaded, UTC) if reloaded else None, now),
            store=sight.store_name,
            unstored=sight.unstored(),
            operations=[views.operation_view(name, each) for name, each in metrics.store.seconds.items()],
            errors=[
                (operation, kind, count) for (operation, kind), count in sorted(metrics.store.errors.items())
            ],
            in_flight=sight.in_flight(),
            callers=metrics.callers_connected,
            replicas=[views.replica_view(each, now) for each in replicas],
            trouble=trouble,
            examined=views.time_of(seen.at, now) if seen is not None else None,
            examined_offline=seen is not None and seen.offline,
            troubles=[each for each in seen.findings if each.level != "good"] if seen is not None else (),
            well=[each for each in seen.findings if each.level == "good"] if seen is not None else (),
        )

    async def _examine(self, _: web.Request, session: Session, form: Mapping[str, str]) -> web.StreamResponse:
        """One at a time: it reads every row of the store, and may ask every provider."""
        offline = form.get("do") != "examine"
        if self._examining.locked():
            session.notices.append(
                Notice("warn", "Somebody else is looking already: reload this page in a moment.")
            )
            return go("/health")
        async with self._examining:
            found = sorted(await self._sight.examine(offline), key=lambda each: _LEVELS.index(each.level))
            self._examined = Examination(self._sight.clock.now(), offline, found)
        return go("/health#findings")

    # -- news ----------------------------------------------------------------------------------------------------------

    async def _events(self, request: web.Request) -> web.StreamResponse:
        session = self._door.session(request)
        if session is None:
            return web.Response(status=401, text="Sign in first.\n")
        history, topic = self._sight.history, request.query.get("page", "")

        async def stamp() -> object:
            newest = history.recent.newest() if topic == "requests" else None
            return history.timeline.count, newest, await self._logging_in.stands(topic)

        return await self.live.stream(request, stamp, lambda: self._door.lives(session))


def _search(request: web.Request) -> Search:
    rows = request.query.get("rows", "")
    return Search(
        words=request.query.get("q", "").strip()[:_LONGEST_WORD],
        state=request.query.get("state", "") if request.query.get("state", "") in words.STATES else "",
        after=request.query.get("after", "")[: _LONGEST_WORD * 2],
        rows=min(max(1, int(rows)), MOST_ROWS)
        if rows.isascii() and rows.isdigit() and len(rows) < 6
        else ROWS,
    )


def _wanted(seen: Seen, route: str | None, status: str) -> bool:
    if route is not None and seen.route != route:
        return False
    if status == "refused":
        return bool(seen.code)
    return not status or str(seen.status)[:1] == status[:1]
