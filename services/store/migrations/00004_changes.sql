-- +goose Up
-- Who made a change, by which command, and what else is to be said of it.
ALTER TABLE changes ADD COLUMN made_by TEXT NOT NULL DEFAULT '';
ALTER TABLE changes ADD COLUMN command TEXT NOT NULL DEFAULT 'apply';
ALTER TABLE changes ADD COLUMN note TEXT NOT NULL DEFAULT '';

-- A document that was deleted has a last revision that says so, and may come again with the next one.
ALTER TABLE documents ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
CREATE INDEX documents_change ON documents (change);

-- Orders of people: to let what has run on a computer run again, or to let more disks of a site be erased. One sequence
-- numbers both.
CREATE TABLE orders (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    at       TEXT NOT NULL,
    given_by TEXT NOT NULL,
    computer TEXT NOT NULL,
    site     TEXT NOT NULL,
    wipes    INTEGER NOT NULL,
    expires  TEXT NOT NULL
) STRICT;

-- What each computer last said of its hardware.
CREATE TABLE inventories (
    computer  TEXT PRIMARY KEY,
    at        TEXT NOT NULL,
    inventory TEXT NOT NULL
) STRICT;

-- Machines that sites cannot tell apart, as their branches report them; resolved ones stay until they are seen again.
CREATE TABLE conflicts (
    site       TEXT NOT NULL,
    id         TEXT NOT NULL,
    first_seen TEXT NOT NULL,
    last_seen  TEXT NOT NULL,
    resolved   INTEGER NOT NULL DEFAULT 0,
    conflict   TEXT NOT NULL,
    PRIMARY KEY (site, id)
) STRICT;

-- +goose Down
DROP TABLE conflicts;
DROP TABLE inventories;
DROP TABLE orders;
DROP INDEX documents_change;
ALTER TABLE documents DROP COLUMN deleted;
ALTER TABLE changes DROP COLUMN note;
ALTER TABLE changes DROP COLUMN command;
ALTER TABLE changes DROP COLUMN made_by;
