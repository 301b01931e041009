-- Questions about all logins of one config table, answered from an index: with 100,000 rows of 1.5 kB each the table
-- itself is 200 MB.

ALTER TABLE account ADD COLUMN config_table TEXT
    GENERATED ALWAYS AS (substr(account, 1, instr(account || '/', '/') - 1)) VIRTUAL;

CREATE INDEX account_state ON account (config_table, state);

CREATE INDEX account_idle ON account (config_table, renewed_at, account, expires_at)
 WHERE sealed IS NOT NULL AND state <> 'login_required';
