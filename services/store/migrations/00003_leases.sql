-- +goose Up
CREATE TABLE leases (
    address TEXT PRIMARY KEY,
    lease   TEXT NOT NULL
) STRICT;

-- +goose Down
DROP TABLE leases;
