"""The table of states: complete, closed, and the only thing that changes a state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenproxy.core.account import TRANSITIONS, Event, Reason, Standing, State, advance
from tokenproxy.oauth.refusals import SENTENCES, next_step, refusal_of, sentence

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)

GOOD = {Event.ADOPTED, Event.RENEWED, Event.REBOUND, Event.FORGOTTEN}
"""What leads out of ``login_required``."""

standings = st.builds(
    Standing,
    state=st.sampled_from(State),
    reason=st.sampled_from(Reason),
    since=st.none() | st.just(NOW - timedelta(days=1)),
    fails=st.integers(0, 50),
    error=st.sampled_from(["", "invalid_grant: gone"]),
    retry_at=st.none() | st.just(LATER),
)


def test_every_state_has_a_row_of_known_events() -> None:
    """A state without a row would be one that an account never leaves."""
    assert set(TRANSITIONS) == set(State)
    assert {type(event) for row in TRANSITIONS.values() for event in row} == {Event}


@pytest.mark.parametrize("state", State)
def test_new_tokens_and_a_logout_lead_out_of_every_state(state: State) -> None:
    """Whatever went wrong, an import mends it, and a logout ends it."""
    assert TRANSITIONS[state][Event.ADOPTED] is State.OK
    assert TRANSITIONS[state][Event.FORGOTTEN] is State.NEW


@pytest.mark.parametrize("state", [state for state in State if state is not State.NEW])
def test_every_state_with_tokens_knows_every_event(state: State) -> None:
    """An event that falls through the table would leave a stale reason on the status page."""
    assert set(TRANSITIONS[state]) == set(Event)
    assert TRANSITIONS[state][Event.RENEWED] is State.OK
    assert TRANSITIONS[state][Event.REFUSED] is State.LOGIN_REQUIRED


@pytest.mark.parametrize("event", [event for event in Event if event not in GOOD])
def test_only_new_tokens_or_the_operator_lead_out_of_login_required(event: Event) -> None:
    """An outage or a reload must not make us ask a provider again that has ended the grant."""
    assert TRANSITIONS[State.LOGIN_REQUIRED][event] is State.LOGIN_REQUIRED


@given(standing=standings, event=st.sampled_from(Event))
def test_the_table_decides_and_nothing_else(standing: Standing, event: Event) -> None:
    """``advance`` gives the table's state, or the very same standing where the table is silent."""
    after = advance(standing, event, now=NOW, reason=Reason.PROVIDER_DOWN, error="said", retry_at=LATER)
    wanted = TRANSITIONS[standing.state].get(event)
    if wanted is None:
        assert after is standing
    else:
        assert after.state is wanted


@given(standing=standings, event=st.sampled_from(Event))
def test_since_tells_when_the_state_began(standing: Standing, event: Event) -> None:
    """ "Degraded for three hours" is the line an operator looks for; a further failure must not reset it."""
    after = advance(standing, event, now=NOW)
    if after.state is standing.state and standing.since is not None:
        assert after.since == standing.since
    elif after is not standing:
        assert after.since == NOW


@given(standing=standings)
def test_failures_in_a_row_are_counted_and_forgiven(standing: Standing) -> None:
    """The back-off doubles with them."""
    if standing.state is State.NEW:
        return
    down = advance(standing, Event.PROVIDER_DOWN, now=NOW, reason=Reason.PROVIDER_DOWN)
    assert down.fails == standing.fails + 1
    well = advance(down, Event.RENEWED, now=NOW)
    assert (well.fails, well.error, well.reason, well.retry_at) == (0, "", Reason.NONE, None)


@pytest.mark.parametrize("event", [Event.PROVIDER_DOWN, Event.ANSWER_LOST, Event.REGISTRATION_REFUSED])
def test_the_reason_for_a_login_outlives_a_later_failure(event: Event) -> None:
    """An operator's ``refresh`` during an outage must not turn "the grant is over" into "the provider is down"."""
    ended = Standing(State.LOGIN_REQUIRED, Reason.REFUSED, NOW, 1, "invalid_grant")
    after = advance(ended, event, now=NOW, reason=Reason.PROVIDER_DOWN, error="status 503")
    assert (after.state, after.reason, after.error) == (State.LOGIN_REQUIRED, Reason.REFUSED, "invalid_grant")


def test_a_reload_ends_the_pause_and_keeps_the_reason() -> None:
    """What was wrong stays told until a renewal works, but that one may be tried at once."""
    wrong = Standing(State.MISCONFIGURED, Reason.CLIENT_REFUSED, NOW, 3, "invalid_client", LATER)
    after = advance(wrong, Event.CONFIG_CHANGED, now=NOW)
    assert after == Standing(State.DEGRADED, Reason.CLIENT_REFUSED, NOW, 0, "invalid_client", None)


def test_a_rebind_in_doubt_keeps_saying_so() -> None:
    """The answer is still lost; "well" would be a lie."""
    lost = Standing(State.IN_DOUBT, Reason.ANSWER_LOST, NOW, 1, "the provider cut the connection")
    after = advance(lost, Event.REBOUND, now=NOW)
    assert (after.state, after.reason) == (State.IN_DOUBT, Reason.ANSWER_LOST)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence(reason: Reason) -> None:
    """No error without what happened, to which account."""
    assert "crm/anna" in SENTENCES[reason].format(account="crm/anna")


@given(standing=standings)
def test_a_refusal_says_what_to_do_or_when(standing: Standing) -> None:
    """What happens by itself and when, or the one command for the person."""
    refusal = refusal_of("crm", standing, NOW)
    if refusal is None:
        assert standing.retry_at is None or standing.retry_at <= NOW
        return
    assert refusal.next_step or refusal.retry_after
    assert refusal.message == sentence("crm", standing)
    assert refusal.next_step == next_step("crm", standing)
    assert refusal.reason == standing.reason.value
