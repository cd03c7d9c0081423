-- +goose Up
-- Requests that had an effect, under the keys that their accounts gave them: sent again they get the same answer. An answer
-- that holds a secret is not kept; made names what was made then.
CREATE TABLE idempotency_keys (
    account    TEXT NOT NULL,
    key        TEXT NOT NULL,
    request    TEXT NOT NULL,
    at         TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    answer     TEXT NOT NULL,
    made       TEXT NOT NULL,
    PRIMARY KEY (account, key)
) STRICT;
CREATE INDEX idempotency_keys_expires ON idempotency_keys (expires_at);

-- +goose Down
DROP TABLE idempotency_keys;
