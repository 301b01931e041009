"""How a call to a provider can fail: before anything was sent, or with its answer lost."""

from __future__ import annotations

from typing import ClassVar

from tokenproxy.core.account import Event, Reason


class NotSentError(Exception):
    """Nothing of the request left this machine; its text is a phrase without addresses or secrets."""

    event: ClassVar[Event] = Event.PROVIDER_DOWN
    reason: ClassVar[Reason] = Reason.PROVIDER_DOWN


class OriginFailedError(NotSentError):
    """The file, command or variable that something is read from gives nothing."""

    reason = Reason.SOURCE_FAILED


class NotSignedError(NotSentError):
    """The account's key signs nothing: only the operator has another."""

    event = Event.REGISTRATION_REFUSED
    reason = Reason.CLIENT_REFUSED


class MisdirectedError(NotSentError):
    """The issuer's metadata must not be followed."""

    event = Event.REGISTRATION_REFUSED
    reason = Reason.REQUEST_REFUSED


class AnswerLostError(Exception):
    """The request was or may have been sent, and no whole answer came back."""
