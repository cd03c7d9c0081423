package store

import (
	"context"
	"database/sql"
	"errors"

	"branchpoint/provisioning"

	"github.com/pressly/goose/v3"
)

// fillRunRecords is the migration that makes the records of runs whose messages an older program has stored.
var fillRunRecords = goose.NewGoMigration(11, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
	var runs []runKey
	err := rows(ctx, tx, func(r *sql.Rows) error {
		var k runKey
		err := r.Scan(&k.site, &k.run)
		runs = append(runs, k)
		return err
	}, `SELECT DISTINCT site, run FROM status`)
	if err != nil {
		return err
	}
	for _, k := range runs {
		x := &siteRun{}
		err := rows(ctx, tx, func(r *sql.Rows) error {
			var number int64
			var computer, text string
			if err := r.Scan(&number, &computer, &text); err != nil {
				return err
			}
			m, err := decode[provisioning.StatusMessage](text)
			if err != nil {
				return err
			}
			m.Site, m.Run, m.Computer = k.site, k.run, computer
			x.note(&m, number)
			return nil
		}, `SELECT number, computer, message FROM status WHERE site = ? AND run = ? ORDER BY number`, k.site, k.run)
		if err != nil {
			return err
		}
		// As the table was then.
		err = put(ctx, tx, `INSERT INTO run_records (record, site, id, number, computer, advertisement, task_sequence) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			x.record, k.site, k.run, x.number, x.record.Run.Computer, x.record.Run.Advertisement, x.record.Run.TaskSequence)
		if err != nil {
			return err
		}
	}
	return nil
}}, nil)

type runKey struct{ site, run string }

// siteRun is a run's record, and the numbers of the last message, and of the first one that was stored now.
type siteRun struct {
	record        provisioning.RunRecord
	first, number int64
}

// note takes in a message that was stored with that number.
func (x *siteRun) note(m *provisioning.StatusMessage, number int64) {
	x.record.Note(m)
	x.number = number
	if x.first == 0 {
		x.first = number
	}
}

func (x *siteRun) put(ctx context.Context, tx *sql.Tx, k runKey) error {
	r := &x.record.Run
	// A run that is there keeps its first_number: by that runs are listed, and it must not move while somebody turns pages.
	return put(ctx, tx, `INSERT INTO run_records (record, site, id, number, first_number, computer, advertisement, task_sequence) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (site, id) DO UPDATE SET record = excluded.record, number = excluded.number, computer = excluded.computer,
			advertisement = excluded.advertisement, task_sequence = excluded.task_sequence`,
		x.record, k.site, k.run, x.number, x.first, r.Computer, r.Advertisement, r.TaskSequence)
}

// runBatch are the runs that a batch of messages is about.
type runBatch map[runKey]*siteRun

// note takes in a message that was stored with that number.
func (b runBatch) note(ctx context.Context, tx *sql.Tx, m *provisioning.StatusMessage, number int64) error {
	k := runKey{m.Site, m.Run}
	x := b[k]
	if x == nil {
		x = &siteRun{}
		var record string
		err := tx.QueryRowContext(ctx, `SELECT record FROM run_records WHERE site = ? AND id = ?`, k.site, k.run).Scan(&record)
		if err == nil {
			x.record, err = decode[provisioning.RunRecord](record)
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		b[k] = x
	}
	x.note(m, number)
	return nil
}

// put stores them.
func (b runBatch) put(ctx context.Context, tx *sql.Tx) error {
	for k, x := range b {
		if err := x.put(ctx, tx, k); err != nil {
			return err
		}
	}
	return nil
}

// EachRun calls do with the record of each run that f chooses, in no order. Where do fails, so does it.
func (s *Store) EachRun(ctx context.Context, f provisioning.RunFilter, do func(provisioning.RunRecord) error) error {
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var text string
		if err := r.Scan(&text); err != nil {
			return err
		}
		x, err := decode[provisioning.RunRecord](text)
		if err != nil {
			return err
		}
		return do(x)
	}, `SELECT record FROM run_records WHERE (?1 = '' OR site = ?1) AND (?2 = '' OR advertisement = ?2)`, f.Site, f.Advertisement)
	return s.fail("read the records of runs", err)
}
