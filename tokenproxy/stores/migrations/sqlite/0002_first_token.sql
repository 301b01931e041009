-- A row may wait for its first token set, which an account that needs no person obtains by itself: generation 0.
-- SQLite changes a CHECK only in a new table.

CREATE TABLE account_2 (
    account             TEXT PRIMARY KEY,
    bound_to            TEXT NOT NULL,

    state               TEXT NOT NULL,
    reason              TEXT NOT NULL,
    since               REAL,
    fails               INTEGER NOT NULL,
    error               TEXT NOT NULL,
    retry_at            REAL,

    gen                 INTEGER NOT NULL CHECK (gen > 0 OR (gen = 0 AND sealed IS NULL)),
    sealed              BLOB,
    prev_sealed         BLOB,
    expires_at          REAL,
    refresh_expires_at  REAL,
    renewed_at          REAL,

    lease_owner         TEXT,
    lease_until         REAL,
    fence               INTEGER NOT NULL DEFAULT 0,
    in_flight_since     REAL,
    found_in_flight     REAL
) STRICT;

INSERT INTO account_2 (account, bound_to, state, reason, since, fails, error, retry_at, gen, sealed, prev_sealed,
                       expires_at, refresh_expires_at, renewed_at, lease_owner, lease_until, fence, in_flight_since,
                       found_in_flight)
SELECT account, bound_to, state, reason, since, fails, error, retry_at, gen, sealed, prev_sealed,
       expires_at, refresh_expires_at, renewed_at, lease_owner, lease_until, fence, in_flight_since,
       found_in_flight
  FROM account;

DROP TABLE account;
ALTER TABLE account_2 RENAME TO account;

CREATE INDEX account_in_flight ON account (in_flight_since) WHERE in_flight_since IS NOT NULL;
