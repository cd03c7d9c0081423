-- +goose Up
-- At a branch: computers that were unknown until they were deployed, until a snapshot has them.
CREATE TABLE discovered (
    name     TEXT PRIMARY KEY,
    computer TEXT NOT NULL
) STRICT;

-- At a branch: what computers said of their hardware when their agents ran last.
CREATE TABLE branch_inventories (
    computer  TEXT PRIMARY KEY,
    inventory TEXT NOT NULL
) STRICT;

-- At a branch: approvals to go beyond the wipe cap, and the orders of central that were obeyed, by their sums.
CREATE TABLE allowances (
    id        TEXT PRIMARY KEY,
    allowance TEXT NOT NULL
) STRICT;

CREATE TABLE obeyed_orders (
    sum TEXT PRIMARY KEY
) STRICT;

-- At a branch: what waits for central beside status messages. What central has is deleted.
CREATE TABLE branch_reports (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id     TEXT NOT NULL UNIQUE,
    report TEXT NOT NULL
) STRICT;

-- At central: the ids of the reports of sites that were taken in, so that each counts once, and what is worth reading again.
CREATE TABLE site_reports (
    number      INTEGER PRIMARY KEY AUTOINCREMENT,
    site        TEXT NOT NULL,
    id          TEXT NOT NULL,
    kind        TEXT NOT NULL,
    received_at TEXT NOT NULL,
    report      TEXT NOT NULL,
    UNIQUE (site, id)
) STRICT;

-- +goose Down
DROP TABLE site_reports;
DROP TABLE branch_reports;
DROP TABLE obeyed_orders;
DROP TABLE allowances;
DROP TABLE branch_inventories;
DROP TABLE discovered;
