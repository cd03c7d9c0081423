package store

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"branchpoint/provisioning"
)

// TestOnce finds a request's record together with its effect, or neither.
func TestOnce(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	refusal := errors.New("no")
	var seen any
	once := func(account, key string) *provisioning.Once {
		o := &provisioning.Once{Account: account, Key: key, Request: "sum of " + provisioning.SHA256(key), At: noon, Expires: noon.Add(time.Hour)}
		o.Done = func(done any) error {
			seen = done
			o.Answer = []byte(`{"a":1}`)
			return nil
		}
		return o
	}
	update := func(ctx context.Context, docs ...provisioning.Document) (uint64, error) {
		return s.UpdateDocuments(ctx, made, func([]provisioning.Document) ([]provisioning.Document, error) { return docs, nil })
	}
	o := once("jo", "k")
	if n, err := update(provisioning.WithOnce(ctx, o), doc("LON", "one")); err != nil || n != 1 || seen != uint64(1) {
		t.Error(n, seen, err)
	}
	s = reopen(t, s)
	want := *o
	want.Done = nil
	if got, err := s.Once(ctx, "jo", "k", noon.Add(time.Hour-1)); err != nil || !reflect.DeepEqual(*got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	// The same key has no second effect, for whatever; another account's key is another.
	if _, err := update(provisioning.WithOnce(ctx, once("jo", "k")), doc("LON", "two")); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Error(err)
	}
	if _, err := s.AddOrders(provisioning.WithOnce(ctx, once("jo", "k")), []provisioning.Order{{At: noon, Computer: "desk-1"}}); provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Error(err)
	}
	if n, err := update(provisioning.WithOnce(ctx, once("mo", "k")), doc("LON", "three")); err != nil || n != 2 {
		t.Error(n, err)
	}
	// What changes nothing is done, too.
	if n, err := update(provisioning.WithOnce(ctx, once("jo", "same"))); err != nil || n != 0 || seen != uint64(0) {
		t.Error(n, seen, err)
	}
	if _, err := s.Once(ctx, "jo", "same", noon); err != nil {
		t.Error(err)
	}
	// Where the effect fails, or its answer, nothing is kept of either.
	_, err := s.UpdateDocuments(provisioning.WithOnce(ctx, once("jo", "failed")), made, func([]provisioning.Document) ([]provisioning.Document, error) {
		return []provisioning.Document{doc("LON", "four")}, refusal
	})
	if !errors.Is(err, refusal) {
		t.Error(err)
	}
	broken := once("jo", "failed")
	broken.Done = func(any) error { return refusal }
	if _, err := update(provisioning.WithOnce(ctx, broken), doc("LON", "five")); !errors.Is(err, refusal) {
		t.Error(err)
	}
	broken.Done = nil
	if _, err := update(provisioning.WithOnce(ctx, broken), doc("LON", "six")); provisioning.CodeOf(err) != provisioning.CodeInternal {
		t.Error(err)
	}
	if _, err := s.Once(ctx, "jo", "failed", noon); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	if docs, err := s.Documents(ctx); err != nil || len(docs) != 1 || docs[0].Text != "three" {
		t.Error(docs, err)
	}
	// What has expired is not there, and its key is free again.
	if _, err := s.Once(ctx, "jo", "k", noon.Add(time.Hour)); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	later := once("jo", "k")
	later.At, later.Expires = noon.Add(time.Hour), noon.Add(2*time.Hour)
	if n, err := update(provisioning.WithOnce(ctx, later), doc("LON", "seven")); err != nil || n != 3 {
		t.Error(n, err)
	}
	var n int
	if err := s.db.QueryRowContext(ctx, `SELECT count(*) FROM idempotency_keys`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d requests are kept: %v", n, err)
	}
	// An account that is deleted takes its keys along.
	err = s.UpdateAccount(ctx, "jo", func(*provisioning.Account) (*provisioning.Account, provisioning.AuditEntry, error) {
		return nil, entry("delete", "jo"), nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Once(ctx, "jo", "k", noon.Add(time.Hour)); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
}

func TestRevisionPages(t *testing.T) {
	s, ctx := openTemp(t), t.Context()
	for _, text := range []string{"one", "two", "three"} {
		_, err := s.UpdateDocuments(ctx, made, func([]provisioning.Document) ([]provisioning.Document, error) {
			return []provisioning.Document{doc("LON", text), doc("PAR", text), doc("ROM", text)}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	lon := provisioning.Key{Kind: provisioning.KindSite, Name: "LON"}
	if r, err := s.Revisions(ctx, lon, 1, 1); err != nil || len(r) != 1 || r[0].Text != "two" {
		t.Error(r, err)
	}
	if r, err := s.Revisions(ctx, lon, 3, 1); err != nil || len(r) != 0 {
		t.Error(r, err)
	}
	if r, err := s.ChangeRevisions(ctx, 2, lon, 1); err != nil || len(r) != 1 || r[0].Name != "PAR" || r[0].Text != "two" {
		t.Error(r, err)
	}
}
