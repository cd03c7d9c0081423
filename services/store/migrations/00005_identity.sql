-- +goose Up
-- Who may speak with central, beside the built-in account. Passwords stand here as Argon2id hashes.
CREATE TABLE accounts (
    name       TEXT PRIMARY KEY,
    password   TEXT NOT NULL,
    disabled   INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    last_login TEXT NOT NULL
) STRICT;

CREATE TABLE api_tokens (
    hash       TEXT PRIMARY KEY,
    account    TEXT NOT NULL REFERENCES accounts (name) ON DELETE CASCADE,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    last_used  TEXT NOT NULL,
    UNIQUE (account, name)
) STRICT;

-- One row for each thing that was changed. What a change did to a document stands in documents: change names it.
CREATE TABLE audit (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    at        TEXT NOT NULL,
    account   TEXT NOT NULL,
    came_from TEXT NOT NULL,
    action    TEXT NOT NULL,
    kind      TEXT NOT NULL,
    name      TEXT NOT NULL,
    site      TEXT NOT NULL,
    change    INTEGER NOT NULL,
    before    TEXT NOT NULL,
    after     TEXT NOT NULL
) STRICT;
CREATE INDEX audit_name ON audit (kind, name);
CREATE INDEX audit_site ON audit (site);

-- Every certificate that was issued to a site, by the sum of its DER form.
CREATE TABLE site_certificates (
    sum        TEXT PRIMARY KEY,
    site       TEXT NOT NULL,
    key        TEXT NOT NULL,
    issued_at  TEXT NOT NULL,
    expires_at TEXT NOT NULL,
    revoked_at TEXT NOT NULL,
    why        TEXT NOT NULL
) STRICT;
CREATE INDEX site_certificates_site ON site_certificates (site);

-- When a site last spoke with central, which snapshot it had then, and the newest that it ever had; when it was revoked.
CREATE TABLE site_contacts (
    site        TEXT PRIMARY KEY,
    at          TEXT NOT NULL,
    epoch       INTEGER NOT NULL,
    number      INTEGER NOT NULL,
    root_pinned INTEGER NOT NULL,
    revoked_at  TEXT NOT NULL
) STRICT;

-- The root key's statements.
CREATE TABLE epochs (
    epoch     INTEGER PRIMARY KEY,
    payload   BLOB NOT NULL,
    signature BLOB NOT NULL
) STRICT;

ALTER TABLE enrolment_tokens ADD COLUMN approval INTEGER NOT NULL DEFAULT 0;
ALTER TABLE enrolment_tokens ADD COLUMN approved_by TEXT NOT NULL DEFAULT '';
ALTER TABLE enrolment_tokens ADD COLUMN revoked_at TEXT NOT NULL DEFAULT '';

-- A new branch's history is made of these.
CREATE INDEX status_site ON status (site, number);

-- +goose Down
DROP INDEX status_site;
ALTER TABLE enrolment_tokens DROP COLUMN revoked_at;
ALTER TABLE enrolment_tokens DROP COLUMN approved_by;
ALTER TABLE enrolment_tokens DROP COLUMN approval;
DROP TABLE epochs;
DROP TABLE site_contacts;
DROP TABLE site_certificates;
DROP TABLE audit;
DROP TABLE api_tokens;
DROP TABLE accounts;
