-- +goose Up
-- At central: one row for each run that sites have reported, made of its status messages as they arrive; number is that of the
-- last one. site_runs is what other sites are told.
CREATE TABLE run_records (
    site          TEXT NOT NULL,
    id            TEXT NOT NULL,
    number        INTEGER NOT NULL,
    computer      TEXT NOT NULL,
    advertisement TEXT NOT NULL,
    task_sequence TEXT NOT NULL,
    record        TEXT NOT NULL,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX run_records_number ON run_records (number);
CREATE INDEX run_records_computer ON run_records (computer, number);
CREATE INDEX run_records_advertisement ON run_records (advertisement);

-- +goose Down
DROP TABLE run_records;
