package store

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"strings"
	"sync"

	"branchpoint/provisioning"
)

// newest remembers the newest revision of every document: reading 20,000 takes half a second, and a change adds few.
// Rows of documents are only ever added, and changes are numbered in the order in which they are committed. The zero value
// is ready.
type newest struct {
	mu sync.Mutex
	// change is the number of the newest change that was seen.
	change    uint64
	revisions map[provisioning.Key]provisioning.Document
	// inForce are those that are not deleted, sorted.
	inForce []provisioning.Document
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// read returns the documents in force, the newest revision of every document that there ever was, and the number of the
// newest change. q has its connection already, and must not have changed documents itself: a writer waits for whoever reads
// here. What is returned is shared: it is not to be changed.
func (n *newest) read(ctx context.Context, q querier) ([]provisioning.Document, map[provisioning.Key]provisioning.Document, uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	added, err := documents(ctx, q, `SELECT kind, name, revision, change, deleted, text FROM documents WHERE change > ? ORDER BY change`, n.change)
	if err != nil {
		return nil, nil, 0, err
	}
	if len(added) > 0 {
		// Whoever was given the old map may still look at it.
		if n.revisions = maps.Clone(n.revisions); n.revisions == nil {
			n.revisions = map[provisioning.Key]provisioning.Document{}
		}
		for _, d := range added {
			n.revisions[d.Key()] = d
		}
		n.change = added[len(added)-1].Change
		n.inForce = make([]provisioning.Document, 0, len(n.revisions))
		for _, d := range n.revisions {
			if !d.Deleted {
				n.inForce = append(n.inForce, d)
			}
		}
		slices.SortFunc(n.inForce, byKey)
	}
	return n.inForce, n.revisions, n.change, nil
}

func byKey(a, b provisioning.Document) int {
	return cmp.Or(strings.Compare(string(a.Kind), string(b.Kind)), strings.Compare(a.Name, b.Name))
}

// documents returns the documents that a query selects: kind, name, revision, change, deleted, text.
func documents(ctx context.Context, q querier, query string, args ...any) ([]provisioning.Document, error) {
	var out []provisioning.Document
	err := rows(ctx, q, func(r *sql.Rows) error {
		var d provisioning.Document
		if err := r.Scan(&d.Kind, &d.Name, &d.Revision, &d.Change, &d.Deleted, &d.Text); err != nil {
			return err
		}
		out = append(out, d)
		return nil
	}, query, args...)
	return out, err
}

// Documents returns the documents in force, by kind and name.
func (s *Store) Documents(ctx context.Context) ([]provisioning.Document, error) {
	var out []provisioning.Document
	err := s.view(ctx, "read documents", func(tx *sql.Tx) error {
		inForce, _, _, err := s.newest.read(ctx, tx)
		out = slices.Clone(inForce)
		return err
	})
	return out, err
}

// UpdateDocuments gives decide the documents in force, and stores what it returns as their next revisions, all or none;
// a document that is marked as deleted is in force no longer. It returns the number that the change got, 0 where decide
// returned nothing: then there was none. No other update happens between. What decide fails with is returned as it is, and
// nothing is stored. What it has done is the number, a uint64 (provisioning.Once).
func (s *Store) UpdateDocuments(ctx context.Context, change provisioning.Change, decide func(stored []provisioning.Document) ([]provisioning.Document, error)) (uint64, error) {
	var number int64
	err := s.effect(ctx, "store documents", func(tx *sql.Tx) (any, error) {
		stored, revisions, _, err := s.newest.read(ctx, tx)
		if err != nil {
			return nil, err
		}
		changed, err := decide(slices.Clone(stored))
		if err != nil || len(changed) == 0 {
			return uint64(0), err
		}
		r, err := tx.ExecContext(ctx, `INSERT INTO changes (at, made_by, command, note) VALUES (?, ?, ?, ?)`,
			stamp(change.At), change.By, change.Command, change.Note)
		if err != nil {
			return nil, err
		}
		if number, err = r.LastInsertId(); err != nil {
			return nil, err
		}
		insert, err := tx.PrepareContext(ctx, `INSERT INTO documents (kind, name, revision, change, deleted, text) VALUES (?, ?, ?, ?, ?, ?)`)
		if err != nil {
			return nil, err
		}
		defer insert.Close()
		for _, d := range changed {
			if d.Deleted {
				d.Text = ""
			}
			if _, err := insert.ExecContext(ctx, d.Kind, d.Name, revisions[d.Key()].Revision+1, number, d.Deleted, d.Text); err != nil {
				return nil, err
			}
		}
		return uint64(number), auditDocuments(ctx, tx, number, change, changed)
	})
	if err != nil {
		return 0, err
	}
	return uint64(number), nil
}

// Changes returns the changes with numbers below before, newest first, at most limit; before 0 means from the newest.
func (s *Store) Changes(ctx context.Context, before uint64, limit int) ([]provisioning.Change, error) {
	out := []provisioning.Change{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var c provisioning.Change
		var at string
		if err := r.Scan(&c.Number, &at, &c.By, &c.Command, &c.Note, &c.Documents); err != nil {
			return err
		}
		var err error
		c.At, err = parseStamp(at)
		out = append(out, c)
		return err
	}, `SELECT number, at, made_by, command, note, (SELECT count(*) FROM documents WHERE change = number) FROM changes
		WHERE ?1 = 0 OR number < ?1 ORDER BY number DESC LIMIT ?2`, int64(before), limit)
	return out, s.fail("read changes", err)
}

// revisions selects revisions with their changes.
const revisions = `SELECT kind, name, revision, change, deleted, text, at, made_by, command FROM documents JOIN changes ON number = change`

// Revisions returns the revisions of a document after the one of that number (0: all), oldest first, at most limit.
func (s *Store) Revisions(ctx context.Context, key provisioning.Key, after int64, limit int) ([]provisioning.Revision, error) {
	return s.revisions(ctx, revisions+` WHERE kind = ? AND name = ? AND revision > ? ORDER BY revision LIMIT ?`, key.Kind, key.Name, after, limit)
}

// ChangeRevisions returns the revisions that a change made of documents after a key (the zero Key: of all), by kind and name, at
// most limit; none where there is no such change.
func (s *Store) ChangeRevisions(ctx context.Context, change uint64, after provisioning.Key, limit int) ([]provisioning.Revision, error) {
	return s.revisions(ctx, revisions+` WHERE change = ? AND (kind, name) > (?, ?) ORDER BY kind, name LIMIT ?`, int64(change), after.Kind, after.Name, limit)
}

func (s *Store) revisions(ctx context.Context, query string, args ...any) ([]provisioning.Revision, error) {
	out := []provisioning.Revision{}
	err := rows(ctx, s.db, func(r *sql.Rows) error {
		var v provisioning.Revision
		var at string
		if err := r.Scan(&v.Kind, &v.Name, &v.Revision, &v.Change, &v.Deleted, &v.Text, &at, &v.By, &v.Command); err != nil {
			return err
		}
		var err error
		v.At, err = parseStamp(at)
		out = append(out, v)
		return err
	}, query, args...)
	return out, s.fail("read revisions", err)
}

// DocumentsAt returns the documents that were in force after a change, by kind and name. It fails with CodeNotFound where
// there is no such change.
func (s *Store) DocumentsAt(ctx context.Context, change uint64) ([]provisioning.Document, error) {
	var n int
	if err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM changes WHERE number = ?`, int64(change)).Scan(&n); err != nil {
		return nil, s.fail("read changes", err)
	}
	if n == 0 {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint history", "there is no change %d", change)
	}
	// With max(), SQLite takes the other columns from that very row (sqlite.org/lang_select.html section 2.5).
	out, err := documents(ctx, s.db, `SELECT kind, name, max(revision), change, deleted, text FROM documents WHERE change <= ?
		GROUP BY kind, name ORDER BY kind, name`, int64(change))
	return slices.DeleteFunc(out, func(d provisioning.Document) bool { return d.Deleted }), s.fail("read documents", err)
}
