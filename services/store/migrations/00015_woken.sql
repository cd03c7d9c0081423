-- +goose Up
-- At a branch: which computers were woken by Wake-on-LAN, for which advertisement, how often and when, so that a restart does
-- not wake them again.
CREATE TABLE woken (
    computer      TEXT NOT NULL,
    advertisement TEXT NOT NULL,
    woken         TEXT NOT NULL,
    PRIMARY KEY (computer, advertisement)
) STRICT;

-- +goose Down
DROP TABLE woken;
