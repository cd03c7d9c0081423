-- +goose Up
-- At central: what the machines that appliances run on are recognised by, as each appliance last said it; key is the sum of its
-- public key. Rows of appliances that were replaced or revoked stay.
CREATE TABLE hosts (
    site     TEXT NOT NULL,
    key      TEXT NOT NULL,
    told_at  TEXT NOT NULL,
    hardware TEXT NOT NULL,
    PRIMARY KEY (site, key)
) STRICT;

-- +goose Down
DROP TABLE hosts;
