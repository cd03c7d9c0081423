-- +goose Up
CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT;

-- One row for each revision of each document; the newest revision is in force. Every apply that changed something is
-- one change.
CREATE TABLE changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    at     TEXT NOT NULL
) STRICT;

CREATE TABLE documents (
    kind     TEXT NOT NULL,
    name     TEXT NOT NULL,
    revision INTEGER NOT NULL,
    change   INTEGER NOT NULL REFERENCES changes (number),
    text     TEXT NOT NULL,
    PRIMARY KEY (kind, name, revision)
) STRICT;

CREATE TABLE snapshots (
    site      TEXT PRIMARY KEY,
    epoch     INTEGER NOT NULL,
    number    INTEGER NOT NULL,
    core      TEXT NOT NULL,
    payload   BLOB NOT NULL,
    signature BLOB NOT NULL,
    problem   TEXT NOT NULL
) STRICT;

CREATE TABLE enrolment_tokens (
    hash        TEXT PRIMARY KEY,
    site        TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    expires_at  TEXT NOT NULL,
    key         TEXT NOT NULL,
    certificate BLOB
) STRICT;

-- A site cannot take another's message ids: they are unique within a site.
CREATE TABLE status (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    site        TEXT NOT NULL,
    id          TEXT NOT NULL,
    run         TEXT NOT NULL,
    computer    TEXT NOT NULL,
    received_at TEXT NOT NULL,
    message     TEXT NOT NULL,
    UNIQUE (site, id)
) STRICT;
CREATE INDEX status_run ON status (site, run);
CREATE INDEX status_computer ON status (computer);

-- +goose Down
DROP TABLE status;
DROP TABLE enrolment_tokens;
DROP TABLE snapshots;
DROP TABLE documents;
DROP TABLE changes;
DROP TABLE settings;
