"""``[issuers.*]``: whose tokens callers may prove themselves with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenproxy.config import addresses
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import IssuerTable
from tokenproxy.config.outgoing import outgoing_proxy
from tokenproxy.config.reading import Reading
from tokenproxy.config.validation import read
from tokenproxy.core.issuers import Issuer
from tokenproxy.core.outgoing import Way


def read_issuers(raw: Mapping[str, Any], reading: Reading) -> tuple[Issuer, ...]:
    """All issuers that are sound enough; mistakes are in the report."""
    found = [_issuer(name, table, reading) for name, table in reading.tables(raw, "issuers").items()]
    issuers = tuple(each for each in found if each is not None)
    taken: dict[str, str] = {}
    for each in issuers:
        first = taken.setdefault(each.issuer, each.name)
        if first != each.name:
            place = reading.report.place(("issuers", first))
            reading.report.problem(("issuers", each.name, "issuer"), f"is that of {place}")
    return issuers


def _issuer(name: str, table_raw: Any, reading: Reading) -> Issuer | None:
    keys: Keys = ("issuers", name)
    report = reading.report
    table = read(IssuerTable, table_raw, keys, report)
    if table is None:
        return None
    if not table.issuer and report.sound(*keys, "issuer"):
        report.problem((*keys, "issuer"), "is missing: what iss of its tokens is, letter by letter")
    if not table.audience and report.sound(*keys, "audience"):
        report.problem(
            (*keys, "audience"),
            "is missing: a word for this proxy that aud of its tokens holds, so that no other counts",
        )
    _check_place(table, keys, reading)
    way = Way(
        tls=reading.tls(table.tls, (*keys, "tls")),
        proxy=outgoing_proxy(table.proxy, (*keys, "proxy"), reading),
    )
    if table.token and report.sound(*keys, "token"):
        reading.secret(table.token, (*keys, "token"))
    if not table.issuer or not table.audience:
        return None
    return Issuer(
        name=name,
        issuer=table.issuer,
        audiences=tuple(table.audience),
        jwks_url=table.jwks_url,
        jwks_file=str(reading.base / table.jwks_file) if table.jwks_file else "",
        algorithms=tuple(table.algorithms),
        token=table.token,
        way=way,
    )


def _check_place(table: IssuerTable, keys: Keys, reading: Reading) -> None:
    """Where its keys are: at its own address, at another, or in a file."""
    report = reading.report
    if table.jwks_file:
        if table.jwks_url:
            report.problem((*keys, "jwks_file"), "and jwks_url exclude each other")
        if not (reading.base / table.jwks_file).is_file():
            report.problem((*keys, "jwks_file"), f"no such file: {reading.base / table.jwks_file}")
        return
    name = "jwks_url" if table.jwks_url else "issuer"
    text = table.jwks_url or table.issuer
    if not text or not report.sound(*keys, name):
        return
    try:
        parts = addresses.url(text)
    except ValueError as wrong:
        hint = "" if table.jwks_url else "; or say where its keys are with jwks_url or jwks_file"
        report.problem((*keys, name), f"{wrong}{hint}")
        return
    if addresses.plain_beyond_loopback(parts) and not table.insecure_http:
        report.problem((*keys, name), addresses.NEEDS_HTTPS)
