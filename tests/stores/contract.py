"""What every store promises (``core.interfaces.Store``), as stories; each store's tests run all of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.stores.values import BOUND, GONE, LEASE, LOST, NOW, OK, adopt, claim, commit, tokens
from tokenproxy.core.account import Reason, Standing, State
from tokenproxy.core.interfaces import MOST_STATE, Idle, StateValue, Store, Summary

LATER = NOW + timedelta(minutes=1)


class StoreContract:
    """Subclass with a fixture ``store``: an empty, open store."""

    async def test_an_adopted_token_set_comes_back_as_it_was(self, store: Store) -> None:
        """Every field counts: the scope that was asked for, say, is what the next refresh must repeat."""
        assert await adopt(store)

        record = await store.load("crm/anna")
        assert record is not None
        assert record.tokens == tokens()
        assert (record.account, record.bound_to, record.generation) == ("crm/anna", BOUND, 1)
        assert (record.standing, record.renewed_at) == (OK, NOW)
        assert (record.in_flight_since, record.previous) == (None, None)

    async def test_an_account_that_is_not_there_is_none_and_gets_no_row(self, store: Store) -> None:
        """An unknown name must leave nothing behind."""
        assert await store.load("nobody") is None
        assert await store.claim("nobody", generation=0, now=NOW, lease=LEASE) is None
        assert not await store.forget("nobody", standing=GONE)
        await store.stand("nobody", LOST)
        await store.rebind("nobody", bound_to=BOUND, standing=OK)
        await store.settled("nobody", generation=1)

        assert await store.summaries() == []

    async def test_a_renewal_stores_the_new_pair_and_keeps_the_spent_refresh_token(
        self, store: Store
    ) -> None:
        """Until the new pair has worked, the spent one may be the only one that the provider knows."""
        await adopt(store)

        assert await commit(store, await claim(store))

        record = await store.load("crm/anna")
        assert record is not None
        assert record.tokens == tokens(2)
        assert record.previous == "planted-refresh-1"
        assert record.in_flight_since is None
        await store.settled("crm/anna", generation=1)  # said late, of an older pair: not this one's business
        assert await previous_of(store) == "planted-refresh-1"
        await store.settled("crm/anna", generation=2)
        assert await previous_of(store) is None

    async def test_one_claim_at_a_time(self, store: Store) -> None:
        """Two renewals at once would send one refresh token twice, which may cost the login (RFC 9700 4.14)."""
        await adopt(store)

        claims = await asyncio.gather(
            *(store.claim("crm/anna", generation=1, now=NOW, lease=LEASE) for _ in range(20))
        )

        assert sum(each is not None for each in claims) == 1

    async def test_a_claim_needs_the_stored_generation(self, store: Store) -> None:
        """Who asks for a renewal of a token set that is already replaced must load the newer one instead."""
        await adopt(store)
        await commit(store, await claim(store))

        assert await store.claim("crm/anna", generation=1, now=NOW, lease=LEASE) is None
        assert await store.claim("crm/anna", generation=3, now=NOW, lease=LEASE) is None
        assert await store.claim("crm/anna", generation=2, now=NOW, lease=LEASE) is not None

    async def test_the_mark_is_there_before_anything_is_sent(self, store: Store) -> None:
        """A crash between sending and storing is seen at the next start by this mark alone."""
        await adopt(store)
        await claim(store)

        record = await store.load("crm/anna")
        assert record is not None
        assert record.in_flight_since == NOW
        assert await store.in_doubt() == ["crm/anna"]

    async def test_marks_come_newest_first(self, store: Store) -> None:
        """The provider's grace may be 10 s: the newest has the best chance, the oldest the worst."""
        for minute, name in enumerate(["b", "a", "c", "d"]):
            await adopt(store, name)
            if name != "d":
                await claim(store, name, at=NOW + timedelta(minutes=minute))

        assert await store.in_doubt() == ["c", "a", "b"]

    async def test_a_lease_that_ran_out_is_taken_over_with_its_mark(self, store: Store) -> None:
        """The successor must know that a refresh token may have been spent already."""
        await adopt(store)
        first = await claim(store)

        assert await store.claim("crm/anna", generation=1, now=NOW + LEASE / 2, lease=LEASE) is None
        second = await claim(store, at=NOW + LEASE)

        assert first.found_in_flight is None
        assert second.found_in_flight == NOW
        assert second.fence > first.fence

    async def test_a_lease_can_be_prolonged_by_its_holder_alone(self, store: Store) -> None:
        """A second request under one claim needs its time; who lost the lease must not send it."""
        await adopt(store)
        claimed = await claim(store)

        assert await store.prolong(claimed, now=NOW + LEASE / 2, lease=LEASE)
        assert await store.claim("crm/anna", generation=1, now=NOW + LEASE, lease=LEASE) is None
        successor = await claim(store, at=NOW + LEASE * 2)
        assert not await store.prolong(claimed, now=NOW + LEASE * 2, lease=LEASE)
        assert await commit(store, successor)
        assert not await store.prolong(successor, now=NOW + LEASE * 2, lease=LEASE)

    async def test_what_nobody_is_at_is_found(self, store: Store) -> None:
        """A renewal in doubt is repeated at once, but not while its holder lives, nor before its back-off is over."""
        for minute, name in enumerate(["held", "lost", "over", "well"]):
            await adopt(store, name)
            if name != "well":
                await claim(store, name, at=NOW + timedelta(minutes=minute))
        at = NOW + timedelta(minutes=2)
        await store.give_up(
            await claim(store, "lost", at=at), standing=replace(LOST, retry_at=LATER), keep_mark=True
        )

        assert await store.abandoned(now=NOW + LEASE / 2, limit=9) == []
        assert await store.abandoned(now=at + LEASE / 2, limit=9) == ["lost", "held"]
        assert await store.abandoned(now=at + LEASE, limit=9) == ["lost", "over", "held"]
        assert await store.abandoned(now=at + LEASE, limit=1) == ["lost"]

    async def test_a_lost_lease_changes_nothing(self, store: Store) -> None:
        """A holder that was stopped and wakes up late must not overwrite its successor's newer pair."""
        await adopt(store)
        stopped = await claim(store)
        successor = await claim(store, at=NOW + LEASE)

        assert not await commit(store, stopped)
        assert not await store.give_up(stopped, standing=LOST, keep_mark=True)
        assert await commit(store, successor)
        before = await store.load("crm/anna")
        assert not await commit(store, stopped)
        assert not await store.give_up(stopped, standing=LOST, keep_mark=True)

        assert await store.load("crm/anna") == before

    async def test_a_late_answer_is_taken_while_nobody_else_was_there(self, store: Store) -> None:
        """The lease is over but the pair is the only living one: never drop what the provider has issued."""
        await adopt(store)
        claimed = await claim(store)
        await store.give_up(claimed, standing=LOST, keep_mark=True)

        assert await commit(store, claimed)

    async def test_a_commit_may_be_repeated_when_its_answer_was_lost(self, store: Store) -> None:
        """After a cut connection or a cancelled caller, asking again must not look like a lost lease."""
        await adopt(store)
        claimed = await claim(store)

        assert await commit(store, claimed)
        assert await commit(store, claimed)
        assert await generation_of(store) == 2
        await claim(store, generation=2)
        assert not await commit(store, claimed)

    async def test_a_commit_of_the_wrong_generation_is_a_mistake_of_ours(self, store: Store) -> None:
        """Generations count by one; a gap would make readers wait for what never comes."""
        await adopt(store)
        claimed = await claim(store)

        with pytest.raises(ValueError, match="succeed"):
            await store.commit(claimed, tokens(3), previous=None, standing=OK, now=NOW)

    async def test_giving_up_says_why_and_lets_the_next_one_try(self, store: Store) -> None:
        """Not sent: no mark stays, and the next renewal need not wait for the lease to end."""
        await adopt(store)

        assert await store.give_up(await claim(store), standing=LOST, keep_mark=False)

        record = await store.load("crm/anna")
        assert record is not None
        assert (record.standing, record.in_flight_since, record.tokens) == (LOST, None, tokens())
        assert (await claim(store)).found_in_flight is None

    async def test_giving_up_after_a_lost_answer_keeps_the_mark(self, store: Store) -> None:
        """The next renewal, maybe after a restart, must know that the token may be spent."""
        await adopt(store)

        assert await store.give_up(await claim(store), standing=LOST, keep_mark=True)

        assert await store.in_doubt() == ["crm/anna"]
        assert (await claim(store, at=LATER)).found_in_flight == NOW

    async def test_a_login_ends_a_renewal_under_way(self, store: Store) -> None:
        """What a person just brought is newer than any answer still on its way."""
        await adopt(store)
        claimed = await claim(store)

        assert await adopt(store, generation=2)

        assert not await commit(store, claimed)
        assert await store.in_doubt() == []
        assert (await claim(store, generation=2)).found_in_flight is None

    async def test_adopting_needs_the_generation_before(self, store: Store) -> None:
        """Two logins at once: one is told to look again, none is lost unseen."""
        assert not await adopt(store, generation=2)
        assert await store.load("crm/anna") is None
        results = await asyncio.gather(*(adopt(store) for _ in range(10)))

        assert sorted(results) == [False] * 9 + [True]
        assert not await adopt(store, generation=3)
        assert await generation_of(store) == 1

    async def test_adopting_binds_to_the_new_registration_and_drops_the_previous(self, store: Store) -> None:
        """The refresh token of another registration must never go to the new one."""
        await adopt(store)
        await commit(store, await claim(store))

        await store.adopt(
            "crm/anna", tokens(3), bound_to="https://other.example:443 b", standing=OK, now=LATER
        )

        record = await store.load("crm/anna")
        assert record is not None
        assert (record.bound_to, record.previous, record.renewed_at) == (
            "https://other.example:443 b",
            None,
            LATER,
        )

    async def test_forgetting_drops_every_secret_and_no_number_comes_twice(self, store: Store) -> None:
        """A request that still holds generation 2 must never take a later login's set for its own."""
        await adopt(store)
        await commit(store, await claim(store))

        assert await store.forget("crm/anna", standing=GONE)
        assert not await store.forget("crm/anna", standing=GONE)

        record = await store.load("crm/anna")
        assert record is not None
        assert (record.tokens, record.previous, record.generation, record.standing) == (None, None, 2, GONE)
        assert not await adopt(store)
        assert await adopt(store, generation=3)

    async def test_an_answer_does_not_bring_a_forgotten_account_back(self, store: Store) -> None:
        """Logged out means logged out, also for the renewal that was under way."""
        await adopt(store)
        claimed = await claim(store)

        await store.forget("crm/anna", standing=GONE)

        assert not await commit(store, claimed)
        record = await store.load("crm/anna")
        assert record is not None
        assert record.tokens is None

    async def test_standing_and_binding_change_without_the_tokens(self, store: Store) -> None:
        """``rebind`` is the operator's word that the tokens belong to the new registration: they must survive it."""
        await adopt(store)

        await store.stand("crm/anna", LOST)
        await store.rebind("crm/anna", bound_to="https://new.example:443 b", standing=OK)

        record = await store.load("crm/anna")
        assert record is not None
        assert (record.bound_to, record.standing, record.tokens) == (
            "https://new.example:443 b",
            OK,
            tokens(),
        )

    async def test_standings_survive_to_the_microsecond(self, store: Store) -> None:
        """``retry_at`` and the count of failures decide when a provider is asked again after a restart."""
        await adopt(store)
        await store.stand("crm/anna", LOST)

        record = await store.load("crm/anna")
        assert record is not None
        assert record.standing == LOST

    async def test_summaries_are_by_name_and_tell_no_secret(self, store: Store) -> None:
        """``status`` reads these; it must work, and be safe to print, whatever the key."""
        await adopt(store, "b")
        await adopt(store, "a/x")
        await claim(store, "b")
        await store.forget("a/x", standing=GONE)

        summaries = await store.summaries()

        assert summaries == [
            Summary("a/x", BOUND, 1, GONE, None, None, None, NOW, has_tokens=False),
            Summary(
                "b", BOUND, 1, OK, tokens().expires_at, tokens().refresh_expires_at, NOW, NOW, has_tokens=True
            ),
        ]
        assert "planted" not in repr(summaries)

    async def test_summaries_come_in_pages_and_by_table(self, store: Store) -> None:
        """A status of 100,000 logins must not be 100,000 objects at once."""
        names = ["crm", "crm-2", "crm-2/x", "crm.z", "crm/anna", "crm/bert", "crm0", "dms/anna"]
        for name in names:
            await adopt(store, name)

        pages, after = list[str](), ""
        while page := await store.summaries(after=after, limit=3):
            assert len(page) <= 3
            pages += [each.account for each in page]
            after = pages[-1]
        assert pages == names
        of_table = [each.account for each in await store.summaries(table="crm")]
        assert of_table == ["crm", "crm/anna", "crm/bert"]
        behind = await store.summaries(table="crm", after="crm/anna", limit=1)
        assert [each.account for each in behind] == ["crm/bert"]
        assert await store.summary("crm/bert") == behind[0]
        assert await store.summary("crm/carl") is None

    async def test_a_tally_counts_by_table_and_state(self, store: Store) -> None:
        """What a scrape is told about logins that nobody has used since the start."""
        assert await store.tally() == {}
        for name in ("crm/anna", "crm/bert", "crm/carl", "dms"):
            await adopt(store, name)
        await store.stand("crm/anna", LOST)
        await store.forget("dms", standing=GONE)

        assert await store.tally() == {
            "crm": {State.IN_DOUBT: 1, State.OK: 2},
            "dms": {State.NEW: 1},
        }

    async def test_those_in_a_state_are_found_among_many(self, store: Store) -> None:
        """Ten of 100,000 need somebody: they are wanted, and not the rest."""
        for name in ("crm", "crm/anna", "crm/bert", "crm/carl", "crm-2", "dms/anna"):
            await adopt(store, name)
        for name in ("crm/anna", "crm/carl", "crm-2"):
            await store.stand(name, LOST)
        await store.forget("crm/bert", standing=GONE)

        found = await store.in_states("crm", [State.IN_DOUBT, State.NEW], limit=10)
        assert {each.account for each in found} == {"crm/anna", "crm/bert", "crm/carl"}
        assert await store.summary("crm/bert") in found
        assert len(await store.in_states("crm", {State.IN_DOUBT}, limit=1)) == 1
        assert await store.in_states("crm", {State.MISCONFIGURED}, limit=10) == []
        assert await store.in_states("crm", (), limit=10) == []

    async def test_idle_logins_come_oldest_first_and_in_pages(self, store: Store) -> None:
        """Those that have waited longest are nearest to their end."""
        for minute, name in enumerate(["crm/c", "crm/a", "crm/b", "dms/a", "crm/d"]):
            await store.adopt(
                name, tokens(), bound_to=BOUND, standing=OK, now=NOW + timedelta(minutes=minute)
            )

        first = await store.idle("crm", before=NOW + timedelta(minutes=4), now=LATER, limit=2)
        then = await store.idle("crm", before=NOW + timedelta(minutes=4), now=LATER, limit=2, after=first[-1])

        assert first == [
            Idle("crm/c", NOW, tokens().expires_at),
            Idle("crm/a", NOW + timedelta(minutes=1), tokens().expires_at),
        ]
        assert [each.account for each in then] == ["crm/b"]
        assert await store.idle("nobody", before=LATER, now=LATER, limit=9) == []

    async def test_who_is_idle_at_the_same_moment_goes_by_name(self, store: Store) -> None:
        """A mass import stores many in one microsecond of a clock: a page must not lose the rest of them."""
        for name in ("crm/b", "crm/a", "crm/c"):
            await adopt(store, name)

        names, after = list[str](), None
        while page := await store.idle("crm", before=LATER, now=LATER, limit=1, after=after):
            after = page[-1]
            names.append(after.account)

        assert names == ["crm/a", "crm/b", "crm/c"]

    async def test_idle_are_only_those_that_could_be_renewed_now(self, store: Store) -> None:
        """Not the forgotten, not whom a person must help, and not whose back-off goes on."""
        for name in ("crm/gone", "crm/ended", "crm/waits", "crm/well"):
            await adopt(store, name)
        await store.forget("crm/gone", standing=GONE)
        await store.stand("crm/ended", Standing(State.LOGIN_REQUIRED, Reason.REFUSED, NOW))
        await store.stand("crm/waits", replace(LOST, retry_at=LATER))

        now = LATER - timedelta(seconds=1)
        assert [each.account for each in await store.idle("crm", before=LATER, now=now, limit=9)] == [
            "crm/well"
        ]
        later = await store.idle("crm", before=LATER, now=LATER, limit=9)
        assert [each.account for each in later] == ["crm/waits", "crm/well"]

    async def test_half_of_an_access_tokens_life(self, store: Store) -> None:
        """Where the access token renews itself, its own life is the limit, and each may have another one."""
        for name, hours in (("crm/long", 10), ("crm/short", 2), ("crm/ended", -1), ("crm/unknown", None)):
            ends = NOW + timedelta(hours=hours) if hours is not None else None
            await store.adopt(name, replace(tokens(), expires_at=ends), bound_to=BOUND, standing=OK, now=NOW)

        async def spent(minutes: int) -> list[str]:
            now = NOW + timedelta(minutes=minutes)
            return [each.account for each in await store.idle("crm", before=None, now=now, limit=9)]

        assert await spent(59) == ["crm/ended"]
        assert await spent(60) == ["crm/ended", "crm/short"]
        assert await spent(301) == ["crm/ended", "crm/long", "crm/short"]

    async def test_records_print_without_secrets(self, store: Store) -> None:
        """They reach logs and tracebacks."""
        await adopt(store)
        await commit(store, await claim(store))

        assert "planted" not in repr(await store.load("crm/anna"))

    async def test_sealing_anew_changes_nothing_that_is_seen(self, store: Store) -> None:
        """``key rotate`` must be invisible to everybody but the key's owner."""
        await adopt(store)
        await commit(store, await claim(store))
        before = await store.load("crm/anna")

        await store.reseal()

        assert await store.load("crm/anna") == before

    async def test_a_crowd_keeps_each_account_apart(self, store: Store) -> None:
        """Two hundred tasks on one connection: what one of them does is never lost by another's doing."""

        async def live(number: int) -> bool:
            name = f"crm/{number:03}"
            await adopt(store, name)
            for generation in range(1, 4):
                rivals = await asyncio.gather(
                    *(store.claim(name, generation=generation, now=NOW, lease=LEASE) for _ in range(3))
                )
                (winner,) = [each for each in rivals if each is not None]
                if not await commit(store, winner):
                    return False
            return True

        assert all(await asyncio.gather(*(live(number) for number in range(200))))
        assert {each.generation for each in await store.summaries()} == {4}
        assert len(await store.summaries()) == 200

    async def test_state_comes_back_as_it_was_put(self, store: Store) -> None:
        """Each login has its own, and one that only captures has no tokens to go with it."""
        token = StateValue("planted-state-1 \u00fc", LATER, backend=True)
        assert await store.state("crm/anna") == {}

        assert await store.put_state("crm/anna", "oauth2/token", token)
        assert await store.put_state("crm/anna", "note", StateValue(""))
        assert await store.put_state("crm/anna", "note", StateValue("planted-state-2"))
        assert await store.put_state("crm", "oauth2/token", StateValue("planted-state-3"))

        assert await store.state("crm/anna") == {
            "note": StateValue("planted-state-2"),
            "oauth2/token": token,
        }
        assert await store.state("crm") == {"oauth2/token": StateValue("planted-state-3")}
        assert await store.summaries() == []
        assert "planted" not in repr(await store.state("crm/anna"))

    async def test_state_is_dropped_by_name(self, store: Store) -> None:
        """A code that was exchanged is worth nothing, and should be nowhere."""
        await store.put_state("crm/anna", "oauth2/code", StateValue("planted"))
        await store.put_state("crm/anna", "oauth2/token", StateValue("planted"))

        assert await store.put_state("crm/anna", "oauth2/code", None)
        assert not await store.put_state("crm/anna", "oauth2/code", None)

        assert list(await store.state("crm/anna")) == ["oauth2/token"]

    async def test_a_name_holds_so_many_values_and_no_more(self, store: Store) -> None:
        """An application that makes up a path for every request must not fill the disk."""
        for number in range(MOST_STATE):
            assert await store.put_state("crm/anna", f"n/{number}", StateValue("x"))

        assert not await store.put_state("crm/anna", "one/more", StateValue("x"))
        assert await store.put_state("crm/anna", "n/0", StateValue("y"))
        assert await store.put_state("crm/bert", "one/more", StateValue("x"))
        assert len(await store.state("crm/anna")) == MOST_STATE

    async def test_forgetting_a_login_drops_its_state(self, store: Store) -> None:
        """Logged out means logged out, also for what an application kept; others keep theirs."""
        await adopt(store)
        for name in ("crm/anna", "crm/bert", "crm"):
            await store.put_state(name, "oauth2/token", StateValue("planted"))

        assert await store.forget("crm/anna", standing=GONE)
        assert await store.forget("crm/bert", standing=GONE)  # a login without tokens
        assert not await store.forget("crm/bert", standing=GONE)

        assert [await store.state(name) for name in ("crm/anna", "crm/bert")] == [{}, {}]
        assert list(await store.state("crm")) == ["oauth2/token"]
        assert await store.put_state("crm/anna", "oauth2/token", StateValue("new"))

    async def test_state_outlives_renewals_and_new_logins(self, store: Store) -> None:
        """Only forgetting drops it: what an application keeps is not of one generation."""
        await adopt(store)
        await store.put_state("crm/anna", "note", StateValue("kept"))

        await commit(store, await claim(store))
        await adopt(store, generation=3)
        await store.prepare("crm/anna", bound_to=BOUND, standing=OK)
        await store.reseal()

        assert await store.state("crm/anna") == {"note": StateValue("kept")}

    async def test_a_cancelled_caller_leaves_nothing_half_done(self, store: Store) -> None:
        """Its step happens wholly or not at all, and nobody else is held up by it."""
        await adopt(store)
        claimed = await claim(store)
        tasks = [asyncio.create_task(commit(store, claimed)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert await generation_of(store) in {1, 2}
        assert await commit(store, claimed)
        assert await adopt(store, "other")
        await store.check()

    async def test_a_first_token_set_is_claimed_for(self, store: Store) -> None:
        """An account that needs no person has a mark before its first token call, and generation 1 after it."""
        await store.prepare("crm", bound_to=BOUND, standing=OK)
        await store.prepare("crm", bound_to=BOUND, standing=OK)

        record = await store.load("crm")
        assert record is not None
        assert (record.generation, record.tokens, record.standing) == (0, None, OK)
        (summary,) = await store.summaries()
        assert not summary.has_tokens
        claimed = await store.claim("crm", generation=0, now=NOW, lease=LEASE)
        assert claimed is not None
        assert await store.in_doubt() == ["crm"]
        assert await store.commit(claimed, tokens(), previous=None, standing=OK, now=NOW)
        record = await store.load("crm")
        assert record is not None
        assert (record.tokens, record.previous) == (tokens(), None)

    async def test_preparing_loses_no_tokens_and_ends_no_count(self, store: Store) -> None:
        """A row with tokens stays; a forgotten one goes on counting, bound to whom the config names now."""
        await adopt(store)
        await store.prepare("crm/anna", bound_to="https://other.example:443 cl_2", standing=LOST)
        record = await store.load("crm/anna")
        assert record is not None
        assert (record.tokens, record.bound_to, record.standing) == (tokens(), BOUND, OK)

        late = await claim(store)
        await store.forget("crm/anna", standing=GONE)
        await store.prepare("crm/anna", bound_to="https://other.example:443 cl_2", standing=OK)
        record = await store.load("crm/anna")
        assert record is not None
        assert (record.tokens, record.bound_to) == (None, "https://other.example:443 cl_2")
        assert (record.generation, record.standing) == (1, OK)
        assert not await commit(store, late)  # what the old registration was given is not the new one's


async def previous_of(store: Store) -> str | None:
    record = await store.load("crm/anna")
    assert record is not None
    return record.previous


async def generation_of(store: Store) -> int:
    record = await store.load("crm/anna")
    assert record is not None
    return record.generation
