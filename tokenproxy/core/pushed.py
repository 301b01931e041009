"""An authorization request that is handed in before the browser goes there (RFC 9126)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from tokenproxy.core.account import Event, Reason
from tokenproxy.core.provider import Account
from tokenproxy.core.replies import Failure, decode, refusal
from tokenproxy.core.steps import Flow
from tokenproxy.core.token_request import as_form, asked


def pushed(
    account: Account, params: Mapping[str, str], *, now: datetime, dpop_key: str | None = None
) -> Flow[str | Failure]:
    """
    The ``request_uri`` for ``params``, which the browser carries with ``client_id`` in their place, once and at once.

    ``params`` are the authorization request's; they are renamed as the profile says.
    """
    provider = account.provider
    if not provider.par_url:
        raise ValueError(f"{provider.name} takes no pushed authorization requests")
    asking = {"client_id": account.registration.client_id, **params}
    reply = yield from asked(as_form(account), asking, url=provider.par_url, now=now, dpop_key=dpop_key)
    refused = refusal(reply, provider=provider)
    if refused is not None:
        return refused
    uri = (decode(reply, provider.answer) or {}).get("request_uri")
    if not isinstance(uri, str) or not uri:
        text = f"status {reply.status} without a request_uri"
        return Failure(Event.PROVIDER_DOWN, Reason.BAD_ANSWER, text)
    return uri
