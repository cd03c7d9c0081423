package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"branchpoint/provisioning"
)

// Commit stores a branch's change, all of it or nothing. Runs, inventories and allowances replace earlier ones with the same
// key; messages, reports and obeyed orders that are stored already stay as they are.
func (s *Store) Commit(ctx context.Context, c provisioning.BranchChange) error {
	return s.update(ctx, "store the branch's records", func(tx *sql.Tx) error {
		if c.Snapshot != nil {
			if err := put(ctx, tx, `INSERT OR REPLACE INTO branch_state (value, name) VALUES (CAST(? AS BLOB), ?)`, c.Snapshot, stateSnapshot); err != nil {
				return err
			}
		}
		for _, r := range c.Runs {
			if err := putRun(ctx, tx, r); err != nil {
				return err
			}
		}
		for _, m := range c.Messages {
			if err := put(ctx, tx, `INSERT INTO outbox (message, id, run, sequence) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING`, m, m.ID, m.Run, m.Sequence); err != nil {
				return err
			}
		}
		for _, d := range c.Discovered {
			if err := put(ctx, tx, `INSERT OR REPLACE INTO discovered (computer, name) VALUES (?, ?)`, d, d.Name); err != nil {
				return err
			}
		}
		for _, name := range c.Forget {
			if _, err := tx.ExecContext(ctx, `DELETE FROM discovered WHERE name = ?`, name); err != nil {
				return err
			}
		}
		for name, v := range c.Inventories {
			if err := put(ctx, tx, `INSERT OR REPLACE INTO branch_inventories (inventory, computer) VALUES (?, ?)`, v, name); err != nil {
				return err
			}
		}
		for _, a := range c.Allowances {
			if err := put(ctx, tx, `INSERT OR REPLACE INTO allowances (allowance, id) VALUES (?, ?)`, a, a.ID); err != nil {
				return err
			}
		}
		if err := commitWoken(ctx, tx, c); err != nil {
			return err
		}
		for _, sum := range c.Obeyed {
			if _, err := tx.ExecContext(ctx, `INSERT INTO obeyed_orders (sum) VALUES (?) ON CONFLICT DO NOTHING`, sum); err != nil {
				return err
			}
		}
		if err := commitIdentity(ctx, tx, c); err != nil {
			return err
		}
		for _, r := range c.Reports {
			if err := put(ctx, tx, `INSERT INTO branch_reports (report, id) VALUES (?, ?) ON CONFLICT (id) DO NOTHING`, r, r.ID); err != nil {
				return err
			}
		}
		return nil
	})
}

// commitWoken stores what a change says of computers that were woken.
func commitWoken(ctx context.Context, tx *sql.Tx, c provisioning.BranchChange) error {
	for _, k := range c.ForgetWoken {
		if _, err := tx.ExecContext(ctx, `DELETE FROM woken WHERE computer = ? AND advertisement = ?`, k.Computer, k.Advertisement); err != nil {
			return err
		}
	}
	for _, w := range c.Woken {
		if err := put(ctx, tx, `INSERT OR REPLACE INTO woken (woken, computer, advertisement) VALUES (?, ?, ?)`, w, w.Computer, w.Advertisement); err != nil {
			return err
		}
	}
	return nil
}

// commitIdentity stores what a change says of who the branch is, and of what central has.
func commitIdentity(ctx context.Context, tx *sql.Tx, c provisioning.BranchChange) error {
	state := map[string][]byte{}
	if c.Identity != nil {
		state[stateIdentity] = c.Identity
	}
	if c.HistoryComplete {
		state[stateHistory] = []byte{1}
	}
	if c.PasswordAttempts != nil {
		state[stateAttempts] = c.PasswordAttempts
	}
	for name, v := range state {
		if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO branch_state (name, value) VALUES (?, ?)`, name, v); err != nil {
			return err
		}
	}
	if c.HistoryMissing {
		if _, err := tx.ExecContext(ctx, `DELETE FROM branch_state WHERE name = ?`, stateHistory); err != nil {
			return err
		}
	}
	if !c.Resend {
		return nil
	}
	_, err := tx.ExecContext(ctx, `UPDATE outbox SET delivered = 0 WHERE delivered <> 0`)
	return err
}

// put executes a statement whose first parameter is v as JSON.
func put(ctx context.Context, tx *sql.Tx, statement string, v any, args ...any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "encode what is to be stored: %w", err)
	}
	_, err = tx.ExecContext(ctx, statement, append([]any{string(b)}, args...)...)
	return err
}

func putRun(ctx context.Context, tx *sql.Tx, r provisioning.Run) error {
	return put(ctx, tx, `INSERT OR REPLACE INTO runs (run, id, computer, started_at) VALUES (?, ?, ?, ?)`, r, r.ID, r.Computer, stamp(r.StartedAt))
}

// Records returns everything that was stored with Commit and is no snapshot, message or report.
func (s *Store) Records(ctx context.Context) (provisioning.BranchRecords, error) {
	var out provisioning.BranchRecords
	var err error
	if out.Runs, err = s.Runs(ctx); err != nil {
		return out, err
	}
	if out.Discovered, err = values[provisioning.Computer](ctx, s, "discovered computers", `SELECT computer FROM discovered ORDER BY name`); err != nil {
		return out, err
	}
	if out.Allowances, err = values[provisioning.Allowance](ctx, s, "approvals", `SELECT allowance FROM allowances ORDER BY id`); err != nil {
		return out, err
	}
	if out.Woken, err = values[provisioning.Woken](ctx, s, "computers that were woken", `SELECT woken FROM woken ORDER BY computer, advertisement`); err != nil {
		return out, err
	}
	out.Inventories = map[string]provisioning.Inventory{}
	err = rows(ctx, s.db, func(r *sql.Rows) error {
		var name, text string
		if err := r.Scan(&name, &text); err != nil {
			return err
		}
		var v provisioning.Inventory
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			return provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the inventory of %s: %w", name, err)
		}
		out.Inventories[name] = v
		return nil
	}, `SELECT computer, inventory FROM branch_inventories`)
	if err != nil {
		return out, s.fail("read inventories", err)
	}
	err = rows(ctx, s.db, func(r *sql.Rows) error {
		var sum provisioning.SHA256
		err := r.Scan(&sum)
		out.Obeyed = append(out.Obeyed, sum)
		return err
	}, `SELECT sum FROM obeyed_orders ORDER BY sum`)
	if err != nil {
		return out, s.fail("read the orders that were obeyed", err)
	}
	history, err := s.loadState(ctx, stateHistory)
	if err != nil {
		return out, err
	}
	out.HistoryComplete = len(history) > 0
	out.PasswordAttempts, err = s.loadState(ctx, stateAttempts)
	return out, err
}

// UndeliveredReports returns the oldest reports that central has not taken in, at most limit.
func (s *Store) UndeliveredReports(ctx context.Context, limit int) ([]provisioning.SiteReport, error) {
	return values[provisioning.SiteReport](ctx, s, "site reports", `SELECT report FROM branch_reports ORDER BY number LIMIT ?`, limit)
}

// DropReports forgets reports that central has. Ids it does not know do no harm.
func (s *Store) DropReports(ctx context.Context, ids []string) error {
	return s.update(ctx, "drop site reports", func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx, `DELETE FROM branch_reports WHERE id = ?`, id); err != nil {
				return err
			}
		}
		return nil
	})
}
