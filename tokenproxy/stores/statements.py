"""
What a store of rows asks its database, each durable step in one statement.

Most of it is the SQL that SQLite and PostgreSQL share; where they differ, the module of each has its own words. Values
are ``:names``. A generation, a fence or the very bytes that were read guard what must not be overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SUMMARY: Final = """
SELECT account, bound_to, state, reason, since, fails, error, retry_at, gen, expires_at, refresh_expires_at,
       renewed_at, in_flight_since, sealed IS NOT NULL AS has_tokens
  FROM account
"""
_SUMMARIES: Final = f"{SUMMARY} WHERE account > :after ORDER BY account LIMIT :limit"
# The names of a table lie between NAME and NAME0 ("0" follows "/"), and few others do (NAME-2).
_SUMMARIES_OF_TABLE: Final = f"""{SUMMARY}
 WHERE account > :after AND account >= :table AND account < :table || '0' AND config_table = :table
 ORDER BY account LIMIT :limit
"""
_IN_DOUBT: Final = """
SELECT account FROM account WHERE in_flight_since IS NOT NULL ORDER BY in_flight_since DESC, account
"""
# The generation after the claim's own is there when this very commit was done before and its answer got lost (every
# other writer of tokens raises the fence): then it is true again.
_COMMIT: Final = """
UPDATE account
   SET gen = :gen + 1, sealed = :sealed, prev_sealed = :prev_sealed,
       expires_at = :expires_at, refresh_expires_at = :refresh_expires_at, renewed_at = :now,
       state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at,
       lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account = :account AND fence = :fence AND gen IN (:gen, :gen + 1)
RETURNING gen
"""
_GIVE_UP: Final = """
UPDATE account
   SET state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at,
       lease_owner = NULL, lease_until = NULL,
       in_flight_since = CASE WHEN :keep_mark THEN in_flight_since END, found_in_flight = NULL
 WHERE account = :account AND fence = :fence AND gen = :gen
RETURNING gen
"""
_ADOPT: Final = """
INSERT INTO account (account, bound_to, gen, sealed, expires_at, refresh_expires_at, renewed_at,
                     state, reason, since, fails, error, retry_at)
SELECT :account, :bound_to, :gen, :sealed, :expires_at, :refresh_expires_at, :now,
       :state, :reason, :since, :fails, :error, :retry_at
 WHERE :gen = 1 OR EXISTS (SELECT 1 FROM account WHERE account = :account)
ON CONFLICT (account) DO UPDATE
   SET bound_to = excluded.bound_to, gen = excluded.gen, sealed = excluded.sealed, prev_sealed = NULL,
       expires_at = excluded.expires_at, refresh_expires_at = excluded.refresh_expires_at,
       renewed_at = excluded.renewed_at, state = excluded.state, reason = excluded.reason, since = excluded.since,
       fails = excluded.fails, error = excluded.error, retry_at = excluded.retry_at,
       fence = account.fence + 1, lease_owner = NULL, lease_until = NULL, in_flight_since = NULL,
       found_in_flight = NULL
 WHERE account.gen = excluded.gen - 1
RETURNING gen
"""
_STAND: Final = """
UPDATE account
   SET state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at
 WHERE account = :account
"""
# Only where there is no token set: what a store holds is never lost to a mere look.
_PREPARE: Final = """
INSERT INTO account (account, bound_to, gen, state, reason, since, fails, error, retry_at)
VALUES (:account, :bound_to, 0, :state, :reason, :since, :fails, :error, :retry_at)
ON CONFLICT (account) DO UPDATE
   SET bound_to = excluded.bound_to, state = excluded.state, reason = excluded.reason, since = excluded.since,
       fails = excluded.fails, error = excluded.error, retry_at = excluded.retry_at, fence = account.fence + 1,
       lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account.sealed IS NULL
"""
_REBIND: Final = """
UPDATE account
   SET bound_to = :bound_to,
       state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at
 WHERE account = :account
"""
_SETTLED: Final = """
UPDATE account SET prev_sealed = NULL WHERE account = :account AND gen = :gen AND prev_sealed IS NOT NULL
"""
_FORGET: Final = """
UPDATE account
   SET sealed = NULL, prev_sealed = NULL, expires_at = NULL, refresh_expires_at = NULL,
       state = :state, reason = :reason, since = :since, fails = :fails, error = :error, retry_at = :retry_at,
       fence = fence + 1, lease_owner = NULL, lease_until = NULL, in_flight_since = NULL, found_in_flight = NULL
 WHERE account = :account AND (sealed IS NOT NULL OR in_flight_since IS NOT NULL)
RETURNING gen
"""

# The first five bytes of a seal tell its version and key (cipher.py).
_COUNT_TO_RESEAL: Final = """
SELECT count(*) AS number FROM account
 WHERE substr(sealed, 1, 5) <> :prefix OR substr(prev_sealed, 1, 5) <> :prefix
"""
_NEXT_TO_RESEAL: Final = """
SELECT account FROM account
 WHERE account > :after AND (substr(sealed, 1, 5) <> :prefix OR substr(prev_sealed, 1, 5) <> :prefix)
 ORDER BY account LIMIT 256
"""
_READ_TO_RESEAL: Final = """
SELECT gen, sealed, prev_sealed FROM account
 WHERE account = :account AND (substr(sealed, 1, 5) <> :prefix OR substr(prev_sealed, 1, 5) <> :prefix)
"""

_READ_STATE: Final = "SELECT path, sealed FROM state WHERE account = :account ORDER BY path"
_PUT_STATE: Final = """
INSERT INTO state (account, path, sealed)
SELECT :account, :path, :sealed
 WHERE (SELECT count(*) FROM state WHERE account = :account AND path <> :path) < :most
ON CONFLICT (account, path) DO UPDATE SET sealed = excluded.sealed
RETURNING path
"""
_DROP_STATE: Final = "DELETE FROM state WHERE account = :account AND path = :path RETURNING path"
_FORGET_STATE: Final = "DELETE FROM state WHERE account = :account RETURNING path"
_COUNT_STATE_TO_RESEAL: Final = "SELECT count(*) AS number FROM state WHERE substr(sealed, 1, 5) <> :prefix"
_NEXT_STATE_TO_RESEAL: Final = """
SELECT account, path FROM state
 WHERE (account, path) > (:account, :path) AND substr(sealed, 1, 5) <> :prefix
 ORDER BY account, path LIMIT 256
"""
_READ_STATE_TO_RESEAL: Final = """
SELECT sealed FROM state WHERE account = :account AND path = :path AND substr(sealed, 1, 5) <> :prefix
"""
_RESEAL_STATE: Final = """
UPDATE state SET sealed = :sealed WHERE account = :account AND path = :path AND sealed = :old_sealed RETURNING path
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Statements:
    """By what it is for; those without a default are said in each database's own words."""

    in_states: str
    tally: str
    idle_since: str
    half_spent: str
    abandoned: str
    claim: str
    prolong: str
    reseal: str
    check: str
    store_id: str
    read_key_check: str
    first_key_check: str
    """Where there is none yet."""
    set_key_check: str
    read_moved: str
    set_moved: str
    damage: str
    """Rows with a column ``value`` that says "ok"; else what is wrong with the database's own pages."""

    load: str = "SELECT *, sealed IS NOT NULL AS has_tokens FROM account WHERE account = :account"
    summary: str = f"{SUMMARY} WHERE account = :account"
    summaries: str = _SUMMARIES
    summaries_of_table: str = _SUMMARIES_OF_TABLE
    in_doubt: str = _IN_DOUBT
    commit: str = _COMMIT
    give_up: str = _GIVE_UP
    adopt: str = _ADOPT
    stand: str = _STAND
    prepare: str = _PREPARE
    rebind: str = _REBIND
    settled: str = _SETTLED
    forget: str = _FORGET
    count_to_reseal: str = _COUNT_TO_RESEAL
    next_to_reseal: str = _NEXT_TO_RESEAL
    read_to_reseal: str = _READ_TO_RESEAL

    read_state: str = _READ_STATE
    put_state: str = _PUT_STATE
    drop_state: str = _DROP_STATE
    forget_state: str = _FORGET_STATE
    count_state_to_reseal: str = _COUNT_STATE_TO_RESEAL
    next_state_to_reseal: str = _NEXT_STATE_TO_RESEAL
    read_state_to_reseal: str = _READ_STATE_TO_RESEAL
    reseal_state: str = _RESEAL_STATE
