-- The tables of migrations/sqlite, for any number of replicas. Names sort by their bytes, as everywhere else.

CREATE TABLE schema_version (
    version     integer PRIMARY KEY,
    applied_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One row. The store's own name goes into every seal, so that a row of another store does not open here.
CREATE TABLE store (
    id          text PRIMARY KEY,
    key_check   bytea,
    checks      bigint NOT NULL DEFAULT 0,
    moved_to    text                                    -- where its logins are now: this store is not to be used
);

INSERT INTO store (id) VALUES (replace(gen_random_uuid()::text, '-', ''));

CREATE TABLE account (
    account             text COLLATE "C" PRIMARY KEY,   -- NAME or NAME/SUB
    config_table        text COLLATE "C" NOT NULL GENERATED ALWAYS AS (split_part(account, '/', 1)) STORED,
    bound_to            text NOT NULL,                  -- token endpoint's origin and the client that obtained the tokens

    state               text NOT NULL,                  -- core.account.State, and so on down to retry_at
    reason              text NOT NULL,
    since               timestamptz,
    fails               integer NOT NULL,
    error               text NOT NULL,
    retry_at            timestamptz,

    gen                 bigint NOT NULL CHECK (gen > 0 OR (gen = 0 AND sealed IS NULL)),
    sealed              bytea,                          -- the token set; NULL: forgotten, or not there yet
    prev_sealed         bytea,                          -- the refresh token spent for this generation, until it has worked
    expires_at          timestamptz,
    refresh_expires_at  timestamptz,
    renewed_at          timestamptz,

    lease_owner         text,                           -- replica, "/", and what tells its claims apart
    lease_until         timestamptz,                    -- by this database's clock
    fence               bigint NOT NULL DEFAULT 0,      -- grows whenever the right to write tokens changes hands
    in_flight_since     timestamptz,
    found_in_flight     timestamptz,                    -- the mark that the newest claim found

    changed_at          timestamptz NOT NULL DEFAULT clock_timestamp()  -- for those who cannot listen
) WITH (fillfactor = 90);

CREATE INDEX account_in_flight ON account (in_flight_since) WHERE in_flight_since IS NOT NULL;
CREATE INDEX account_state ON account (config_table, state);
CREATE INDEX account_idle ON account (config_table, renewed_at, account)
 WHERE sealed IS NOT NULL AND state <> 'login_required';
CREATE INDEX account_changed ON account (changed_at);

CREATE TABLE state (
    account     text COLLATE "C" NOT NULL,              -- NAME or NAME/SUB
    path        text COLLATE "C" NOT NULL,
    sealed      bytea NOT NULL,                         -- the value, when it ends and who may read it
    PRIMARY KEY (account, path)
);

-- Who is alive: a lease of a replica that was not seen for two and a half heartbeats holds nobody up.
CREATE TABLE replica (
    id          text PRIMARY KEY,
    name        text NOT NULL,                          -- host and process, for people
    version     text NOT NULL,
    beat        interval NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What others must hear of: new tokens, none any more, another standing or registration, and the end of a lease. What
-- is sent is a generation and a name, never anything that is sealed.

CREATE FUNCTION account_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_at := clock_timestamp();
    RETURN NEW;
END
$$;

CREATE FUNCTION account_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tokenproxy_' || (SELECT id FROM store), 'account ' || NEW.gen || ' ' || NEW.account);
    RETURN NULL;
END
$$;

CREATE TRIGGER account_changes BEFORE UPDATE ON account FOR EACH ROW
  WHEN ((OLD.gen, OLD.sealed IS NULL, OLD.bound_to, OLD.state, OLD.reason, OLD.retry_at, OLD.lease_until IS NULL)
        IS DISTINCT FROM
        (NEW.gen, NEW.sealed IS NULL, NEW.bound_to, NEW.state, NEW.reason, NEW.retry_at, NEW.lease_until IS NULL))
  EXECUTE FUNCTION account_changes();

CREATE TRIGGER account_changed AFTER UPDATE ON account FOR EACH ROW
  WHEN ((OLD.gen, OLD.sealed IS NULL, OLD.bound_to, OLD.state, OLD.reason, OLD.retry_at)
        IS DISTINCT FROM
        (NEW.gen, NEW.sealed IS NULL, NEW.bound_to, NEW.state, NEW.reason, NEW.retry_at)
        OR (OLD.lease_until IS NOT NULL AND NEW.lease_until IS NULL))
  EXECUTE FUNCTION account_changed();

CREATE TRIGGER account_made AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION account_changed();

CREATE FUNCTION state_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tokenproxy_' || (SELECT id FROM store), 'state 0 ' || coalesce(NEW.account, OLD.account));
    RETURN NULL;
END
$$;

CREATE TRIGGER state_changed AFTER INSERT OR UPDATE OR DELETE ON state FOR EACH ROW EXECUTE FUNCTION state_changed();

-- Forgetting sets the tokens to NULL, and nothing else does: state goes in the same step.
CREATE FUNCTION state_forgotten() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM state WHERE account = NEW.account;
    RETURN NULL;
END
$$;

CREATE TRIGGER state_forgotten AFTER UPDATE OF sealed ON account FOR EACH ROW
  WHEN (NEW.sealed IS NULL) EXECUTE FUNCTION state_forgotten();
