package store

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
)

var (
	noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	made = provisioning.Change{At: noon, By: "jo", Command: provisioning.CommandApply}
)

func openTemp(t *testing.T) *Store {
	t.Helper()
	// Characters that mean something in a URL must not change the path.
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "a b%20?#&.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// reopen closes the store and opens its file again.
func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	return again
}

func TestOpenKeepsSecretsFromOthers(t *testing.T) {
	s := openTemp(t)
	if err := s.PutSetting(t.Context(), "a", []byte("x")); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(s.Path()))
	if err != nil || len(entries) == 0 {
		t.Fatal(err, len(entries))
	}
	for _, e := range entries {
		i, err := e.Info()
		if err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", e.Name(), i.Mode(), err)
		}
		if !strings.HasPrefix(e.Name(), "a b%20?#&.db") {
			t.Errorf("a file named %q", e.Name())
		}
	}
}

func TestOpenBroken(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.db")
	s, err := Open(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		text []byte
		code provisioning.Code
	}{
		{"text", []byte(strings.Repeat("this is no database\n", 1000)), provisioning.CodeCorrupt},
		{"cut off", b[:len(b)/2], provisioning.CodeCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := filepath.Join(dir, c.name)
			if err := os.WriteFile(p, c.text, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), p)
			if provisioning.CodeOf(err) != c.code || provisioning.NextOf(err) == "" || !strings.Contains(err.Error(), p) {
				t.Errorf("%v, next %q", err, provisioning.NextOf(err))
			}
		})
	}
	if _, err := Open(t.Context(), filepath.Join(dir, "no", "such")); provisioning.CodeOf(err) != provisioning.CodeUnavailable || provisioning.NextOf(err) == "" {
		t.Error("no folder:", err)
	}
}

func TestOpenOfNewerProgram(t *testing.T) {
	s := openTemp(t)
	if _, err := s.db.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), s.Path()); provisioning.CodeOf(err) != provisioning.CodeConflict || !strings.Contains(err.Error(), "newer program") {
		t.Error(err)
	}
}

func TestSettings(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	if _, err := s.Setting(ctx, "a"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	if err := s.CreateSettings(ctx, map[string][]byte{"a": []byte("1"), "b": []byte("2")}); err != nil {
		t.Fatal(err)
	}
	err := s.CreateSettings(ctx, map[string][]byte{"c": []byte("3"), "b": []byte("4"), "d": []byte("5")})
	if provisioning.CodeOf(err) != provisioning.CodeConflict {
		t.Error(err)
	}
	for name, want := range map[string]string{"a": "1", "b": "2", "c": "", "d": ""} {
		if v, _ := s.Setting(ctx, name); string(v) != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	if err := s.PutSetting(ctx, "a", []byte("9")); err != nil {
		t.Fatal(err)
	}
	if v, _ := reopen(t, s).Setting(ctx, "a"); string(v) != "9" {
		t.Errorf("%q", v)
	}
}

func doc(name, text string) provisioning.Document {
	return provisioning.Document{Kind: provisioning.KindSite, Name: name, Text: text}
}

func TestDocuments(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	put := func(docs ...provisioning.Document) error {
		_, err := s.UpdateDocuments(ctx, made, func([]provisioning.Document) ([]provisioning.Document, error) { return docs, nil })
		return err
	}
	if err := put(doc("LON", "1"), doc("PAR", "1")); err != nil {
		t.Fatal(err)
	}
	if err := put(doc("LON", "2")); err != nil {
		t.Fatal(err)
	}
	want := []provisioning.Document{
		{Kind: provisioning.KindSite, Name: "LON", Revision: 2, Change: 2, Text: "2"},
		{Kind: provisioning.KindSite, Name: "PAR", Revision: 1, Change: 1, Text: "1"},
	}
	check := func(s *Store) {
		t.Helper()
		if got, err := s.Documents(ctx); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v\ngot  %v\nwant %v", err, got, want)
		}
	}
	check(s)
	// The second document cannot be stored: neither is, nor the change.
	if err := put(doc("ROM", "1"), doc("LON", "3"), doc("LON", "4")); err == nil {
		t.Error("the same document twice was stored")
	}
	check(s)
	refusal := errors.New("no")
	_, err := s.UpdateDocuments(ctx, made, func(stored []provisioning.Document) ([]provisioning.Document, error) {
		if !reflect.DeepEqual(stored, want) {
			t.Errorf("decides on %v", stored)
		}
		return []provisioning.Document{doc("ROM", "1")}, refusal
	})
	if !errors.Is(err, refusal) {
		t.Error(err)
	}
	check(reopen(t, s))
}

// TestUpdatesDoNotOverlap: each update adds one to what it finds; a lost update would show in the sum.
func TestUpdatesDoNotOverlap(t *testing.T) {
	s := openTemp(t)
	other, err := Open(t.Context(), s.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var wg sync.WaitGroup
	const each = 10
	for i := range 4 {
		store := []*Store{s, other}[i%2]
		wg.Go(func() {
			for range each {
				_, err := store.UpdateDocuments(t.Context(), made, func(stored []provisioning.Document) ([]provisioning.Document, error) {
					n := 0
					if len(stored) > 0 {
						if _, err := fmt.Sscan(stored[0].Text, &n); err != nil {
							return nil, err
						}
					}
					return []provisioning.Document{doc("LON", fmt.Sprint(n+1))}, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	docs, err := s.Documents(t.Context())
	if err != nil || len(docs) != 1 || docs[0].Text != "40" || docs[0].Revision != 40 {
		t.Error(docs, err)
	}
}

// TestCutShort ends the context in the middle of a transaction, as a stopping program does: nothing may remain.
func TestCutShort(t *testing.T) {
	s := openTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.UpdateDocuments(ctx, made, func([]provisioning.Document) ([]provisioning.Document, error) {
		cancel()
		return []provisioning.Document{doc("LON", "1")}, nil
	})
	if err == nil {
		t.Error("no error")
	}
	if docs, err := reopen(t, s).Documents(t.Context()); err != nil || len(docs) != 0 {
		t.Error(docs, err)
	}
}

func TestSnapshots(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	if _, err := s.SiteSnapshot(ctx, "LON"); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	lon := provisioning.SiteSnapshot{Site: "LON", Epoch: 1, Number: 7, Core: "c", Signed: provisioning.SignedSnapshot{Payload: []byte("p"), Signature: []byte("s")}}
	par := provisioning.SiteSnapshot{Site: "PAR", Problem: "no content"}
	publish := func(want map[string]provisioning.SiteSnapshot, next ...provisioning.SiteSnapshot) {
		t.Helper()
		err := s.PublishSnapshots(ctx, func(p provisioning.Publication) ([]provisioning.SiteSnapshot, error) {
			if !reflect.DeepEqual(p.Present, want) {
				t.Errorf("present %v, want %v", p.Present, want)
			}
			return next, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	publish(map[string]provisioning.SiteSnapshot{}, lon, par)
	unsigned := lon
	unsigned.Signed = provisioning.SignedSnapshot{}
	publish(map[string]provisioning.SiteSnapshot{"LON": unsigned, "PAR": par})
	// Without a payload a snapshot's problem alone changes.
	publish(map[string]provisioning.SiteSnapshot{"LON": unsigned, "PAR": par}, provisioning.SiteSnapshot{Site: "LON", Problem: "no image"})
	lon.Problem = "no image"
	s = reopen(t, s)
	if got, err := s.SiteSnapshot(ctx, "LON"); err != nil || !reflect.DeepEqual(*got, lon) {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := s.SiteSnapshot(ctx, "PAR"); err != nil || got.Problem != "no content" || got.Number != 0 {
		t.Errorf("%+v %v", got, err)
	}
}

func TestEnrolmentToken(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	tok := provisioning.EnrolmentToken{Hash: provisioning.SumSHA256([]byte("t")), Site: "LON", CreatedAt: noon, ExpiresAt: noon.Add(time.Hour)}
	if err := s.CreateEnrolmentToken(ctx, tok); err != nil {
		t.Fatal(err)
	}
	use := func(hash provisioning.SHA256, decide func(*provisioning.EnrolmentToken) error) error {
		return s.UseEnrolmentToken(ctx, hash, func(t *provisioning.EnrolmentToken) (provisioning.EnrolmentChange, error) {
			return provisioning.EnrolmentChange{}, decide(t)
		})
	}
	if err := use(provisioning.SumSHA256([]byte("u")), func(*provisioning.EnrolmentToken) error { t.Error("asked"); return nil }); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	refusal := errors.New("no")
	if err := use(tok.Hash, func(x *provisioning.EnrolmentToken) error {
		if !reflect.DeepEqual(*x, tok) {
			t.Errorf("%+v, want %+v", *x, tok)
		}
		x.Key = "spoilt"
		return refusal
	}); !errors.Is(err, refusal) {
		t.Error(err)
	}
	if err := use(tok.Hash, func(x *provisioning.EnrolmentToken) error {
		if x.Key != "" {
			t.Error("a refused use was stored")
		}
		x.Key, x.Certificate = "k", []byte("c")
		return nil
	}); err != nil {
		t.Error(err)
	}
	if err := use(tok.Hash, func(x *provisioning.EnrolmentToken) error {
		if x.Key != "k" || string(x.Certificate) != "c" {
			t.Errorf("%+v", x)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func message(site, run string, n int) provisioning.StatusMessage {
	return provisioning.StatusMessage{
		ID: fmt.Sprintf("%s-%d", run, n), Site: site, Computer: "desk-" + run, Run: run, Advertisement: "a", TaskSequence: "t",
		Time: noon, Sequence: n, Code: provisioning.StatusStepStarted, Text: fmt.Sprint(n),
	}
}

// TestSiteRuns: what status messages say of runs is what snapshots are made of, where there are several sites.
func TestSiteRuns(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	published := func() map[string]provisioning.Run {
		t.Helper()
		out := map[string]provisioning.Run{}
		err := s.PublishSnapshots(ctx, func(p provisioning.Publication) ([]provisioning.SiteSnapshot, error) {
			for _, x := range p.Runs {
				out[x.Site+" "+x.Run.ID] = x.Run
			}
			return nil, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	say := func(site, run string, n, code int, action string) {
		t.Helper()
		m := message(site, run, n)
		m.Code, m.Action, m.Time = code, action, noon.Add(time.Duration(n)*time.Minute)
		if action == "partitionDisk" {
			m.Machine = provisioning.Machine{MAC: "52:54:00:00:00:01"}
		}
		if err := s.NoteRuns(ctx, []provisioning.StatusMessage{m, m}); err != nil {
			t.Fatal(err)
		}
	}
	say("LON", "1", 1, provisioning.StatusPolicyReceived, "")
	say("LON", "1", 3, provisioning.StatusStepStarted, "partitionDisk")
	say("LON", "1", 2, provisioning.StatusStepStarted, "runCommandLine")
	say("PAR", "1", 1, provisioning.StatusSequenceFailed, "")
	say("PAR", "2", 1, provisioning.StatusPolicyReceived, "")
	add := func(site string) {
		t.Helper()
		if _, err := s.UpdateDocuments(ctx, made, func([]provisioning.Document) ([]provisioning.Document, error) {
			return []provisioning.Document{doc(site, site)}, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	add("LON")
	if got := published(); len(got) != 0 {
		t.Errorf("with one site: %+v", got)
	}
	add("PAR")
	want := map[string]provisioning.Run{
		"LON 1": {
			ID: "1", Computer: "desk-1", Advertisement: "a", TaskSequence: "t", State: provisioning.RunStarted, Spent: true, SpentAt: noon.Add(3 * time.Minute),
			Machine: provisioning.Machine{MAC: "52:54:00:00:00:01"}, StartedAt: noon.Add(time.Minute), UpdatedAt: noon.Add(3 * time.Minute),
		},
		"PAR 1": {
			ID: "1", Computer: "desk-1", Advertisement: "a", TaskSequence: "t", State: provisioning.RunFailed, StartedAt: noon.Add(time.Minute), UpdatedAt: noon.Add(time.Minute),
		},
	}
	if got := published(); !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestStatusCountsOnce(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	a := []provisioning.StatusMessage{message("LON", "1", 1), message("LON", "1", 2)}
	changed := message("LON", "1", 1)
	changed.Text = "changed"
	for _, c := range []struct {
		messages []provisioning.StatusMessage
		added    int
	}{
		{a, 2},
		{a, 0},
		{append(a, message("LON", "1", 3)), 1},
		{[]provisioning.StatusMessage{changed}, 0},
		{[]provisioning.StatusMessage{message("PAR", "1", 1)}, 1},
		{nil, 0},
		{[]provisioning.StatusMessage{message("LON", "2", 1), message("LON", "2", 1)}, 1},
	} {
		if n, err := s.AppendStatus(ctx, noon, c.messages); err != nil || n != c.added {
			t.Errorf("%d new, want %d: %v", n, c.added, err)
		}
	}
	for _, c := range []struct {
		filter provisioning.StatusFilter
		want   string
	}{
		{provisioning.StatusFilter{}, "LON:1 LON:2 LON:3 PAR:1 LON:1"},
		{provisioning.StatusFilter{Run: "2"}, "LON:1"},
		{provisioning.StatusFilter{Computer: "desk-1"}, "LON:1 LON:2 LON:3 PAR:1"},
		{provisioning.StatusFilter{Runs: 1}, "LON:1"}, // run 2 arrived last
		{provisioning.StatusFilter{Computer: "desk-9"}, ""},
	} {
		ms, _, err := s.Status(ctx, c.filter)
		var got []string
		for _, m := range ms {
			got = append(got, m.Site+":"+m.Text)
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v: %v %v, want %s", c.filter, got, err, c.want)
		}
	}
}

func TestBranch(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	if b, err := s.LoadIdentity(ctx); b != nil || err != nil {
		t.Error(b, err)
	}
	if x, err := s.LoadSnapshot(ctx); x != nil || err != nil {
		t.Error(x, err)
	}
	for _, v := range []string{"one", "two"} {
		if err := s.SaveIdentity(ctx, []byte(v)); err != nil {
			t.Fatal(err)
		}
		if err := s.SaveSnapshot(ctx, &provisioning.SignedSnapshot{Payload: []byte(v), Signature: []byte("s")}); err != nil {
			t.Fatal(err)
		}
	}
	run := provisioning.Run{ID: "1", Computer: "desk-1", State: provisioning.RunStarted, StartedAt: noon.Add(time.Nanosecond), UpdatedAt: noon}
	earlier := provisioning.Run{ID: "2", Computer: "desk-2", State: provisioning.RunFailed, StartedAt: noon, UpdatedAt: noon}
	if err := s.Record(ctx, run, []provisioning.StatusMessage{message("LON", "1", 2), message("LON", "1", 1)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Record(ctx, earlier, nil); err != nil {
		t.Fatal(err)
	}
	run.Spent, run.State = true, provisioning.RunSucceeded
	if err := s.Record(ctx, run, []provisioning.StatusMessage{message("LON", "1", 1), message("LON", "1", 3)}); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if b, err := s.LoadIdentity(ctx); string(b) != "two" || err != nil {
		t.Error(b, err)
	}
	if x, err := s.LoadSnapshot(ctx); err != nil || string(x.Payload) != "two" || string(x.Signature) != "s" {
		t.Error(x, err)
	}
	if runs, err := s.Runs(ctx); err != nil || !reflect.DeepEqual(runs, []provisioning.Run{earlier, run}) {
		t.Error(runs, err)
	}
	texts := func(ms []provisioning.StatusMessage, err error) string {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		var out []string
		for _, m := range ms {
			out = append(out, m.Text)
		}
		return strings.Join(out, " ")
	}
	if got := texts(s.RunMessages(ctx, "1")); got != "1 2 3" {
		t.Error(got)
	}
	if got := texts(s.Undelivered(ctx, 2)); got != "2 1" { // as they came
		t.Error(got)
	}
	if err := s.MarkDelivered(ctx, []string{"1-2", "1-1", "unknown"}); err != nil {
		t.Error(err)
	}
	if got := texts(s.Undelivered(ctx, 10)); got != "3" {
		t.Error(got)
	}
	// What was delivered is not sent again because the agent repeats it.
	if err := s.Record(ctx, run, []provisioning.StatusMessage{message("LON", "1", 1)}); err != nil {
		t.Error(err)
	}
	if got := texts(reopen(t, s).Undelivered(ctx, 10)); got != "3" {
		t.Error(got)
	}
}

func TestLeases(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	one := provisioning.Lease{Address: a, MAC: "52:54:00:00:00:01", State: provisioning.LeaseBound, Expires: noon}
	two := provisioning.Lease{Address: b, State: provisioning.LeaseDeclined, Expires: noon}
	for _, l := range []provisioning.Lease{one, two} {
		if err := s.Leases().Save(ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	one.HostName = "desk"
	if err := s.Leases().Save(ctx, one); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	if got, err := s.Leases().Load(ctx); err != nil || !reflect.DeepEqual(got, []provisioning.Lease{one, two}) {
		t.Error(got, err)
	}
	for range 2 {
		if err := s.Leases().Delete(ctx, a); err != nil {
			t.Error(err)
		}
	}
	if got, err := s.Leases().Load(ctx); err != nil || !reflect.DeepEqual(got, []provisioning.Lease{two}) {
		t.Error(got, err)
	}
}

// TestFullDisk bounds the file as a full disk does.
func TestFullDisk(t *testing.T) {
	s := openTemp(t)
	s.db.SetMaxOpenConns(1) // the bound is the connection's
	if _, err := s.db.Exec(`PRAGMA max_page_count = 100`); err != nil {
		t.Fatal(err)
	}
	_, err := s.UpdateDocuments(t.Context(), made, func([]provisioning.Document) ([]provisioning.Document, error) {
		return []provisioning.Document{doc("LON", "1"), doc("PAR", strings.Repeat("x", 1<<20))}, nil
	})
	if provisioning.CodeOf(err) != provisioning.CodeNoSpace || provisioning.NextOf(err) == "" {
		t.Error(err)
	}
	if docs, err := s.Documents(t.Context()); err != nil || len(docs) != 0 {
		t.Error(docs, err)
	}
}
