package store

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
)

func commit(t *testing.T, s *Store, command provisioning.Command, docs ...provisioning.Document) uint64 {
	t.Helper()
	change := made
	change.Command = command
	n, err := s.UpdateDocuments(t.Context(), change, func([]provisioning.Document) ([]provisioning.Document, error) { return docs, nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func names(docs []provisioning.Document, err error) string {
	var out []string
	for _, d := range docs {
		out = append(out, fmt.Sprint(d.Name, d.Revision, "=", d.Text))
	}
	if err != nil {
		out = append(out, err.Error())
	}
	return strings.Join(out, " ")
}

// TestHistory deletes a document and makes it again: every revision stays, and every moment can be looked at.
func TestHistory(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	gone := doc("LON", "whatever")
	gone.Deleted = true
	commit(t, s, provisioning.CommandApply, doc("LON", "1"), doc("PAR", "1"))
	commit(t, s, provisioning.CommandDelete, gone)
	commit(t, s, provisioning.CommandRollback, doc("LON", "2"))
	if n := commit(t, s, provisioning.CommandApply); n != 0 {
		t.Error("a change of nothing got number", n)
	}
	for range 2 {
		for change, want := range []string{"", "LON1=1 PAR1=1", "PAR1=1", "LON3=2 PAR1=1"} {
			if change == 0 {
				continue
			}
			if got := names(s.DocumentsAt(ctx, uint64(change))); got != want {
				t.Errorf("after change %d: %s, want %s", change, got, want)
			}
		}
		if got := names(s.Documents(ctx)); got != "LON3=2 PAR1=1" {
			t.Error(got)
		}
		s = reopen(t, s)
	}
	for _, n := range []uint64{0, 4, 1 << 62} {
		if _, err := s.DocumentsAt(ctx, n); provisioning.CodeOf(err) != provisioning.CodeNotFound {
			t.Error(n, err)
		}
	}
	revisions, err := s.Revisions(ctx, provisioning.Key{Kind: provisioning.KindSite, Name: "LON"}, 0, 100)
	var got []string
	for _, r := range revisions {
		got = append(got, fmt.Sprint(r.Revision, r.Deleted, r.Text, r.Command, r.By, r.At.Equal(noon)))
	}
	want := []string{"1 false1applyjotrue", "2 truedeletejotrue", "3 false2rollbackjotrue"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%q %v, want %q", got, err, want)
	}
	changes, err := s.Changes(ctx, 3, 1)
	if err != nil || len(changes) != 1 || changes[0].Number != 2 || changes[0].Documents != 1 {
		t.Errorf("%+v %v", changes, err)
	}
	if r, err := s.ChangeRevisions(ctx, 1, provisioning.Key{}, 100); err != nil || len(r) != 2 {
		t.Errorf("%+v %v", r, err)
	}
}

// TestTwoProcesses: what one process remembers of the documents follows what another one stores.
func TestTwoProcesses(t *testing.T) {
	s := openTemp(t)
	other, err := Open(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	gone := doc("LON", "")
	gone.Deleted = true
	for i, step := range []struct {
		by   *Store
		doc  provisioning.Document
		want string
	}{
		{s, doc("LON", "1"), "LON1=1"},
		{other, doc("LON", "2"), "LON2=2"},
		{s, doc("PAR", "1"), "LON2=2 PAR1=1"},
		{other, gone, "PAR1=1"},
		{s, doc("LON", "4"), "LON4=4 PAR1=1"},
	} {
		commit(t, step.by, provisioning.CommandApply, step.doc)
		for _, x := range []*Store{s, other} {
			if got := names(x.Documents(t.Context())); got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
	}
}

// TestPublishFollowsChanges changes the documents while snapshots are made of them: what is published is made of the
// newest, and no writer waits meanwhile.
func TestPublishFollowsChanges(t *testing.T) {
	s := openTemp(t)
	calls := 0
	err := s.PublishSnapshots(t.Context(), func(p provisioning.Publication) ([]provisioning.SiteSnapshot, error) {
		calls++
		if calls <= publishTries {
			commit(t, s, provisioning.CommandApply, doc("LON", fmt.Sprint(calls))) // would wait for ever where writers are held up
		}
		text := ""
		if len(p.Documents) > 0 {
			text = p.Documents[0].Text
		}
		return []provisioning.SiteSnapshot{{Site: "LON", Epoch: 1, Number: 1, Signed: provisioning.SignedSnapshot{Payload: []byte(text), Signature: []byte{}}}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.SiteSnapshot(t.Context(), "LON")
	if err != nil || string(got.Signed.Payload) != fmt.Sprint(publishTries) || calls != publishTries+1 {
		t.Errorf("%+v %v after %d calls", got, err, calls)
	}
	// An order between is a change too.
	calls = 0
	err = s.PublishSnapshots(t.Context(), func(p provisioning.Publication) ([]provisioning.SiteSnapshot, error) {
		if calls++; calls == 1 {
			if _, err := s.AddOrders(t.Context(), []provisioning.Order{{At: noon, Computer: "desk-1"}}); err != nil {
				t.Error(err)
			}
		}
		return []provisioning.SiteSnapshot{{Site: "LON", Epoch: 1, Number: 2, Signed: provisioning.SignedSnapshot{Payload: fmt.Append(nil, len(p.Orders)), Signature: []byte{}}}}, nil
	})
	if got, _ := s.SiteSnapshot(t.Context(), "LON"); err != nil || string(got.Signed.Payload) != "1" || calls != 2 {
		t.Errorf("%+v %v after %d calls", got, err, calls)
	}
}

func TestOrders(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	first, err := s.AddOrders(ctx, []provisioning.Order{
		{At: noon, By: "jo", Computer: "desk-1"},
		{At: noon, By: "jo", Site: "LON", Wipes: 20, Expires: noon.Add(time.Hour)},
	})
	if err != nil || len(first) != 2 || first[0].Number != 1 || first[1].Number != 2 {
		t.Fatal(first, err)
	}
	s = reopen(t, s)
	if got, err := s.Orders(ctx); err != nil || !reflect.DeepEqual(got, first) {
		t.Errorf("%+v %v", got, err)
	}
	if err := s.DropOrders(ctx, []uint64{2, 99}); err != nil {
		t.Error(err)
	}
	// A number never comes again: a branch that has obeyed the first 2 would not obey the second.
	if again, err := s.AddOrders(ctx, []provisioning.Order{{At: noon, Computer: "desk-2"}}); err != nil || again[0].Number != 3 {
		t.Error(again, err)
	}
	cut, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.AddOrders(cut, []provisioning.Order{{At: noon, Computer: "desk-3"}}); err == nil {
		t.Error("stored although nobody waited")
	}
	if got, err := s.Orders(ctx); err != nil || len(got) != 2 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestInventories(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	for _, m := range []map[string]provisioning.Inventory{
		{"desk-1": {Serial: "A"}, "desk-2": {Serial: "B"}}, {"desk-1": {Serial: "C"}},
	} {
		if err := s.SaveInventories(ctx, noon, m); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]provisioning.Inventory{"desk-1": {Serial: "C"}, "desk-2": {Serial: "B"}}
	if got, err := reopen(t, s).Inventories(ctx); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v", got, err)
	}
}

// TestManyAtOnce: more readers and writers than there are connections wait for one another, and none for ever.
func TestManyAtOnce(t *testing.T) {
	s := openTemp(t)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			commit(t, s, provisioning.CommandApply, doc(fmt.Sprintf("S%d", i), "1"))
		})
		wg.Go(func() {
			if _, err := s.Documents(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if docs, err := s.Documents(t.Context()); err != nil || len(docs) != 40 {
		t.Error(len(docs), err)
	}
}
