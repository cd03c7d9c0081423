-- +goose Up
-- What a branch has one of: identity and snapshot.
CREATE TABLE branch_state (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

CREATE TABLE runs (
    id            TEXT PRIMARY KEY,
    computer      TEXT NOT NULL,
    started_at    TEXT NOT NULL,
    run           TEXT NOT NULL
) STRICT;

-- Status messages stay after they were delivered: they are the branch's own history of a run.
CREATE TABLE outbox (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    id        TEXT NOT NULL UNIQUE,
    run       TEXT NOT NULL,
    sequence  INTEGER NOT NULL,
    delivered INTEGER NOT NULL DEFAULT 0,
    message   TEXT NOT NULL
) STRICT;
CREATE INDEX outbox_undelivered ON outbox (number) WHERE delivered = 0;
CREATE INDEX outbox_run ON outbox (run, sequence);

-- +goose Down
DROP TABLE outbox;
DROP TABLE runs;
DROP TABLE branch_state;
