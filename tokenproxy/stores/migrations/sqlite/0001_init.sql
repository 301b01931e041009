-- Times are seconds since the epoch, UTC.

CREATE TABLE schema_version (
    version     INTEGER PRIMARY KEY,
    applied_at  REAL NOT NULL
) STRICT;

CREATE TABLE meta (
    name        TEXT PRIMARY KEY,
    value       ANY NOT NULL
) STRICT;

-- The store's own name goes into every seal, so that a row of another store does not open here.
INSERT INTO meta (name, value) VALUES ('store_id', lower(hex(randomblob(16)))), ('checks', 0);

CREATE TABLE account (
    account             TEXT PRIMARY KEY,           -- NAME or NAME/SUB
    bound_to            TEXT NOT NULL,              -- token endpoint's origin and the client that obtained the tokens

    state               TEXT NOT NULL,              -- core.account.State, and so on down to retry_at
    reason              TEXT NOT NULL,
    since               REAL,
    fails               INTEGER NOT NULL,
    error               TEXT NOT NULL,
    retry_at            REAL,

    gen                 INTEGER NOT NULL CHECK (gen > 0),
    sealed              BLOB,                       -- the token set; NULL: forgotten
    prev_sealed         BLOB,                       -- the refresh token spent for this generation, until it has worked
    expires_at          REAL,
    refresh_expires_at  REAL,
    renewed_at          REAL,

    lease_owner         TEXT,
    lease_until         REAL,
    fence               INTEGER NOT NULL DEFAULT 0, -- grows whenever the right to write tokens changes hands
    in_flight_since     REAL,
    found_in_flight     REAL                        -- the mark that the newest claim found; RETURNING shows new values only
) STRICT;

CREATE INDEX account_in_flight ON account (in_flight_since) WHERE in_flight_since IS NOT NULL;
