-- +goose Up
-- At central: first_number is the number of a run's first message. Unlike that of the last one it stays, so that runs are listed by it.
ALTER TABLE run_records ADD COLUMN first_number INTEGER NOT NULL DEFAULT 0;
UPDATE run_records SET first_number =
    coalesce((SELECT min(number) FROM status WHERE status.site = run_records.site AND status.run = run_records.id), number);
CREATE UNIQUE INDEX run_records_first ON run_records (first_number);
DROP INDEX run_records_number;
DROP INDEX run_records_computer;
CREATE INDEX run_records_computer ON run_records (computer, first_number);

-- +goose Down
DROP INDEX run_records_computer;
DROP INDEX run_records_first;
ALTER TABLE run_records DROP COLUMN first_number;
CREATE INDEX run_records_number ON run_records (number);
CREATE INDEX run_records_computer ON run_records (computer, number);
