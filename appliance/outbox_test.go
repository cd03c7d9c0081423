package appliance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/central"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"
)

// line is the way from a branch to central, which can be cut.
type line struct {
	mu    sync.Mutex
	conns []net.Conn
}

// newLine carries connections to address until the test ends, and returns where it takes them.
func newLine(t *testing.T, address string) (*line, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &line{}
	t.Cleanup(func() { l.Close(); w.cut() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, near, far)
			w.mu.Unlock()
			for _, c := range [][2]net.Conn{{near, far}, {far, near}} {
				go func() {
					_, _ = io.Copy(c[0], c[1]) // until it is cut or ends
					c[0].Close()
				}()
			}
		}
	}()
	return w, l.Addr().String()
}

// cut ends every connection where it stands.
func (w *line) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.Close()
	}
	w.conns = nil
}

// storedFirst is central's database with something happening between the storing of messages and the answer.
type storedFirst struct {
	*store.Store
	then func(batch int)

	mu      sync.Mutex
	batches int
}

func (s *storedFirst) AppendStatus(ctx context.Context, at time.Time, messages []provisioning.StatusMessage) (int, error) {
	n, err := s.Store.AppendStatus(ctx, at, messages)
	if err == nil {
		s.mu.Lock()
		s.batches++
		batch := s.batches
		s.mu.Unlock()
		s.then(batch)
	}
	return n, err
}

// dying is a branch's database in a program that ends before it notes what was delivered.
type dying struct {
	*store.Store
	end func()
}

func (d *dying) MarkDelivered(context.Context, []string) error {
	d.end()
	return errors.New("the power went")
}

// TestStatusArrivesOnce runs a real branch beside a real central, and loses central's answer, and the branch's note of it.
func TestStatusArrivesOnce(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	key, err := central.LoadKey(filepath.Join(dir, "central.key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cdb, err := store.Open(t.Context(), filepath.Join(dir, "central.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cdb.Close() })
	var way *line
	lossy := &storedFirst{Store: cdb, then: func(batch int) {
		if batch <= 2 {
			way.cut() // central has stored it, and the branch never hears of it
		}
	}}
	c, err := central.Open(t.Context(), central.Config{Store: lossy, Key: key, Log: log, Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- c.Serve(serving, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	if _, err := c.Apply(t.Context(), centralclient.ApplyRequest{Files: []provisioning.File{{Name: "site.yaml", Text: []byte("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {}\n")}}}); err != nil {
		t.Fatal(err)
	}
	token, err := c.CreateToken(t.Context(), centralclient.TokenRequest{Site: "LON", ValidSeconds: 3600})
	if err != nil {
		t.Fatal(err)
	}
	way, address := newLine(t, l.Addr().String())
	path := filepath.Join(dir, "branch.db")
	open := func(wrap func(*store.Store) branch.Store) (*branch.Branch, *store.Store) {
		t.Helper()
		db, err := store.Open(t.Context(), path, store.Alone())
		if err != nil {
			t.Fatal(err)
		}
		var br *branch.Branch
		far := centralclient.NewBranch(centralclient.BranchConfig{
			Address: address, CASHA256: c.CASHA256(), Now: time.Now, Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() },
		})
		br, err = branch.New(t.Context(), branch.Config{
			Site: "LON", CentralCA: c.CASHA256(), Store: wrap(db), Central: centralSide{far}, Log: log, Now: time.Now, Rand: rand.Reader,
		})
		if err != nil {
			t.Fatal(err)
		}
		return br, db
	}
	plain := func(db *store.Store) branch.Store { return db }

	br, db := open(plain)
	if err := br.Enrol(t.Context(), token.Token); err != nil {
		t.Fatal(err)
	}
	run := provisioning.Run{ID: fmt.Sprintf("%032x", 1), Computer: "desk-1", Advertisement: "rollout", TaskSequence: "install", State: provisioning.RunStarted, StartedAt: time.Now()}
	var want []string
	report := func(db *store.Store, n int) {
		t.Helper()
		var messages []provisioning.StatusMessage
		for range n {
			m := provisioning.StatusMessage{
				ID: fmt.Sprintf("%032x", 0xabc+len(want)), Site: "LON", Computer: run.Computer, Run: run.ID, Advertisement: run.Advertisement, TaskSequence: run.TaskSequence,
				Time: time.Now().UTC(), Sequence: len(want) + 1, Code: provisioning.StatusStepStarted, Step: 1,
			}
			want, messages = append(want, m.ID), append(messages, m)
		}
		if err := db.Record(t.Context(), run, messages); err != nil {
			t.Fatal(err)
		}
	}
	deliver := func(br *branch.Branch, until func() bool) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		done := make(chan struct{})
		go func() { br.Deliver(ctx); close(done) }()
		for !until() {
			select {
			case <-ctx.Done():
				t.Fatal("the messages were not delivered in a minute")
			case <-time.After(10 * time.Millisecond):
			}
		}
		cancel()
		<-done
	}
	empty := func(db *store.Store) func() bool {
		return func() bool {
			n, err := db.OutboxLength(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return n == 0
		}
	}
	received := func() (ids []string) {
		t.Helper()
		messages, _, err := cdb.Status(t.Context(), provisioning.StatusFilter{Run: run.ID})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			ids = append(ids, m.ID)
		}
		return ids
	}

	// Central's answer is lost, twice.
	report(db, 250) // more than one batch
	deliver(br, empty(db))
	if got := received(); !slices.Equal(got, want) {
		t.Fatalf("central has %d messages, want %d, each once and in order", len(got), len(want))
	}
	lossy.mu.Lock()
	if lossy.batches < 4 {
		t.Errorf("central was sent %d batches: nothing was lost on the way", lossy.batches)
	}
	lossy.mu.Unlock()

	// The branch dies after central has answered.
	report(db, 7)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	died := make(chan struct{})
	br, db = open(func(db *store.Store) branch.Store { return &dying{db, sync.OnceFunc(func() { close(died) })} })
	deliver(br, func() bool {
		select {
		case <-died:
			return true
		default:
			return false
		}
	})
	if empty(db)() {
		t.Fatal("the branch has noted that the messages were delivered: it did not die in time")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	br, db = open(plain)
	defer db.Close()
	deliver(br, empty(db))
	if got := received(); !slices.Equal(got, want) {
		t.Errorf("central has %d messages, want %d, each once and in order", len(got), len(want))
	}
}
