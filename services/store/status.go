package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"branchpoint/provisioning"
)

// AppendStatus stores messages and returns how many were new. A message whose site and id are known is left as it is.
func (s *Store) AppendStatus(ctx context.Context, received time.Time, messages []provisioning.StatusMessage) (int, error) {
	added := 0
	err := s.update(ctx, "store status messages", func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, `INSERT INTO status (site, id, run, computer, received_at, message) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (site, id) DO NOTHING`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, m := range messages {
			b, err := json.Marshal(m)
			if err != nil {
				return err
			}
			r, err := insert.ExecContext(ctx, m.Site, m.ID, m.Run, m.Computer, stamp(received), string(b))
			if err != nil {
				return err
			}
			n, err := r.RowsAffected()
			if err != nil {
				return err
			}
			added += int(n)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

// NoteRuns keeps what messages say of their runs, for the sites that the runs' computers may come to. Messages may come again.
func (s *Store) NoteRuns(ctx context.Context, messages []provisioning.StatusMessage) error {
	return s.update(ctx, "note runs", func(tx *sql.Tx) error {
		for _, m := range messages {
			if err := noteRun(ctx, tx, m); err != nil {
				return err
			}
		}
		return nil
	})
}

// noteRun keeps what a message says of its run, where it says something of it as a whole.
func noteRun(ctx context.Context, tx *sql.Tx, m provisioning.StatusMessage) error {
	switch m.Code {
	case provisioning.StatusPolicyReceived, provisioning.StatusSequenceStarted, provisioning.StatusSequenceDone, provisioning.StatusSequenceFailed:
	case provisioning.StatusStepStarted:
		if !provisioning.DestructiveAction(m.Action) {
			return nil
		}
	default:
		return nil
	}
	var text string
	var run provisioning.Run
	err := tx.QueryRowContext(ctx, `SELECT run FROM site_runs WHERE site = ? AND id = ?`, m.Site, m.Run).Scan(&text)
	if err == nil {
		run, err = decode[provisioning.Run](text)
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	run.Note(m)
	if text, err = encode(run); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT OR REPLACE INTO site_runs (site, id, counts, run) VALUES (?, ?, ?, ?)`,
		m.Site, m.Run, run.Spent || run.State != provisioning.RunStarted, text)
	return err
}

// siteRuns returns the runs of all sites that have begun to erase, or have ended.
func siteRuns(ctx context.Context, q querier) ([]provisioning.SiteRun, error) {
	var out []provisioning.SiteRun
	err := rows(ctx, q, func(r *sql.Rows) error {
		var x provisioning.SiteRun
		var text string
		if err := r.Scan(&x.Site, &text); err != nil {
			return err
		}
		var err error
		x.Run, err = decode[provisioning.Run](text)
		out = append(out, x)
		return err
	}, `SELECT site, run FROM site_runs WHERE counts <> 0`)
	return out, err
}

// defaultRuns is how many runs a status query answers with unless it says otherwise.
const defaultRuns = 100

// Status returns every message of the runs that f chooses, the newest runs by arrival.
func (s *Store) Status(ctx context.Context, f provisioning.StatusFilter) ([]provisioning.StatusMessage, error) {
	if f.Runs <= 0 {
		f.Runs = defaultRuns
	}
	return values[provisioning.StatusMessage](ctx, s, "status messages", `WITH chosen AS (
		SELECT site, run FROM status WHERE (?1 = '' OR computer = ?1) AND (?2 = '' OR run = ?2)
		GROUP BY site, run ORDER BY max(number) DESC LIMIT ?3
	) SELECT message FROM status JOIN chosen USING (site, run) ORDER BY number`, f.Computer, f.Run, f.Runs)
}
