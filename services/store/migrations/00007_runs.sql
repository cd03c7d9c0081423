-- +goose Up
-- At central: the runs of all sites as their status messages say them, so that what has run on a computer at one site does
-- not run again at another. counts: it has begun to erase, or has ended.
CREATE TABLE site_runs (
    site   TEXT NOT NULL,
    id     TEXT NOT NULL,
    counts INTEGER NOT NULL,
    run    TEXT NOT NULL,
    PRIMARY KEY (site, id)
) STRICT;
CREATE INDEX site_runs_counts ON site_runs (counts) WHERE counts <> 0;

INSERT INTO site_runs (site, id, counts, run)
SELECT site, run, max(destructive OR code IN (11141, 11143)), json_object(
    'id', run, 'computer', min(computer), 'advertisement', min(advertisement), 'taskSequence', min(sequence),
    'state', CASE WHEN max(code = 11143) THEN 'succeeded' WHEN max(code = 11141) THEN 'failed' ELSE 'started' END,
    'spent', json(CASE WHEN max(destructive) THEN 'true' ELSE 'false' END), 'spentAt', min(CASE WHEN destructive THEN time END),
    'startedAt', min(time), 'updatedAt', max(time))
FROM (
    SELECT site, run, computer, coalesce(message ->> '$.code', 0) AS code, message ->> '$.time' AS time,
        message ->> '$.advertisement' AS advertisement, message ->> '$.taskSequence' AS sequence,
        coalesce(message ->> '$.code', 0) = 11133 AND coalesce(message ->> '$.action', '') IN ('partitionDisk', 'applyOperatingSystemImage') AS destructive
    FROM status
)
GROUP BY site, run;

-- +goose Down
DROP TABLE site_runs;
