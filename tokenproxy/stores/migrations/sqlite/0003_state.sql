-- What an application keeps under a login's name and names in its requests (placeholders). A login may have state and
-- no row of its own in account: one that only captures has no tokens.

CREATE TABLE state (
    account     TEXT NOT NULL,                      -- NAME or NAME/SUB
    path        TEXT NOT NULL,
    sealed      BLOB NOT NULL,                      -- the value, when it ends and who may read it
    PRIMARY KEY (account, path)
) STRICT;

-- Forgetting sets the tokens to NULL, and nothing else does: state goes in the same step.
CREATE TRIGGER state_forgotten AFTER UPDATE OF sealed ON account WHEN NEW.sealed IS NULL
BEGIN
    DELETE FROM state WHERE account = NEW.account;
END;
