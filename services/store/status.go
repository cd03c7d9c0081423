package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"branchpoint/provisioning"
)

// AppendStatus stores messages, with what they say of their runs, and returns how many were new. A message whose site and id
// are known is left as it is.
func (s *Store) AppendStatus(ctx context.Context, received time.Time, messages []provisioning.StatusMessage) (int, error) {
	added := 0
	err := s.update(ctx, "store status messages", func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, `INSERT INTO status (site, id, run, computer, received_at, message) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (site, id) DO NOTHING`)
		if err != nil {
			return err
		}
		defer insert.Close()
		about := runBatch{}
		for _, m := range messages {
			noted := m
			m.Facts = nil // they stand in the run's record
			text, err := encode(m)
			if err != nil {
				return err
			}
			r, err := insert.ExecContext(ctx, m.Site, m.ID, m.Run, m.Computer, stamp(received), text)
			if err != nil {
				return err
			}
			n, err := r.RowsAffected()
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
			added++
			number, err := r.LastInsertId()
			if err != nil {
				return err
			}
			if err := about.note(ctx, tx, &noted, number); err != nil {
				return err
			}
		}
		return about.put(ctx, tx)
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

// errEnough ends the reading of rows.
var errEnough = errors.New("enough")

// Status returns every message of the runs that f chooses: of those that were first reported last. Where there are more, it
// returns the Before of those that follow, else 0.
func (s *Store) Status(ctx context.Context, f provisioning.StatusFilter) ([]provisioning.StatusMessage, uint64, error) {
	if f.Runs <= 0 {
		f.Runs = defaultRuns
	}
	out := []provisioning.StatusMessage{}
	var next int64
	err := s.view(ctx, "read status messages", func(tx *sql.Tx) error {
		chosen := [][2]string{}
		var last int64
		err := rows(ctx, tx, func(r *sql.Rows) error {
			var site, run, computer string
			var first int64
			if err := r.Scan(&first, &site, &run, &computer); err != nil {
				return err
			}
			if f.Sees != nil && !f.Sees(site, computer) {
				return nil
			}
			if len(chosen) == f.Runs {
				next = last
				return errEnough
			}
			last, chosen = first, append(chosen, [2]string{site, run})
			return nil
		}, `SELECT first_number, site, id, computer FROM run_records WHERE (?1 = '' OR computer = ?1) AND (?2 = '' OR id = ?2) AND (?3 = '' OR task_sequence = ?3)
			AND (?4 = 0 OR first_number < ?4) ORDER BY first_number DESC`, f.Computer, f.Run, f.TaskSequence, int64(f.Before))
		if err != nil && !errors.Is(err, errEnough) {
			return err
		}
		keys, err := encode(chosen)
		if err != nil {
			return err
		}
		return rows(ctx, tx, func(r *sql.Rows) error {
			var text string
			if err := r.Scan(&text); err != nil {
				return err
			}
			m, err := decode[provisioning.StatusMessage](text)
			out = append(out, m)
			return err
		}, `WITH chosen AS (SELECT value ->> 0 AS site, value ->> 1 AS run FROM json_each(?))
			SELECT message FROM status JOIN chosen USING (site, run) ORDER BY number`, keys)
	})
	return out, uint64(next), err
}
