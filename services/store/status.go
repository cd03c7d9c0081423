package store

import (
	"context"
	"database/sql"
	"encoding/json"
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
