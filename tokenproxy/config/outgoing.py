"""``proxy`` of a route or a provider: which outgoing proxy its connections take."""

from __future__ import annotations

from tokenproxy.config import addresses
from tokenproxy.config.lines import Keys
from tokenproxy.config.models import ProxyTable, RouteProxyTable
from tokenproxy.config.reading import Reading
from tokenproxy.core.outgoing import OutgoingProxy


def outgoing_proxy(table: ProxyTable, keys: Keys, reading: Reading) -> OutgoingProxy | None:
    """None where the table says none, or something wrong, which is told then."""
    report = reading.report
    if not table.url:
        if table.model_fields_set and report.sound(*keys):
            report.problem(
                (*keys, "url"), 'is missing: the proxy\'s address, such as "http://outgoing.example:3128"'
            )
        return None
    at = (*keys, "url")
    try:
        parts = addresses.url(table.url)
    except ValueError as wrong:
        told = str(wrong)
        if "user name" in told:
            told += "; give them as username and password beside it"
        report.problem(at, told)
        return None
    if parts.path.strip("/"):
        report.problem(at, "must not have a path")
    password = reading.secret(table.password, (*keys, "password")) if table.password else ""
    if bool(table.username) != bool(table.password):
        lacking = "password" if table.username else "username"
        report.problem((*keys, lacking), "is missing: a proxy takes both or neither")
    if ":" in table.username:
        report.problem((*keys, "username"), "must not hold a colon (RFC 7617)")
    ca_file = table.ca_file if isinstance(table, RouteProxyTable) else ""
    if ca_file and not (reading.base / ca_file).is_file():
        report.problem((*keys, "ca_file"), f"no such file: {reading.base / ca_file}")
    if ca_file and parts.scheme == "http":
        report.warning((*keys, "ca_file"), "has no effect: the proxy is http://")
    return OutgoingProxy(
        scheme=parts.scheme,
        host=(parts.hostname or "").lower(),
        port=addresses.port_of(parts),
        username=table.username,
        password=password,
        ca_file=str(reading.base / ca_file) if ca_file else "",
    )
