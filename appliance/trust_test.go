package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/central"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"
)

func (oneSnapshot) Epochs(context.Context) (provisioning.Epochs, error) {
	return provisioning.Epochs{}, nil
}

func (oneSnapshot) Runs(context.Context) ([]provisioning.Run, error) { return nil, nil }

func (oneSnapshot) Renew(context.Context, []byte) (branch.Enrolment, error) {
	return branch.Enrolment{}, provisioning.Errorf(provisioning.CodeConflict, "", "it is not renewed yet")
}

// swapped is a central site behind one address that can be replaced by another, as by one that was restored from a backup.
type swapped struct{ now atomic.Pointer[http.Handler] }

func (s *swapped) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*s.now.Load()).ServeHTTP(w, r) }

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("within 60 s it did not happen: %s", what)
		}
	}
}

// TestRestoredCentralAndReplacedDisk runs a real branch beside a real central that is restored from a backup: the branch keeps
// what it has until the root key begins a new epoch, and then sends everything again, which counts once. A branch with a blank
// data disk in its place gets the site's runs back, and the one before is refused.
func TestRestoredCentralAndReplacedDisk(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	log := slog.New(slog.DiscardHandler)
	key, err := central.LoadKey(filepath.Join(dir, "central.key"), true, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	openCentral := func(path string) (*central.Central, *store.Store) {
		t.Helper()
		db, err := store.Open(ctx, path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		c, err := central.Open(ctx, central.Config{Store: db, Key: key, Log: log, Now: time.Now, Rand: rand.Reader})
		if err != nil {
			t.Fatal(err)
		}
		return c, db
	}
	configure := func(c *central.Central, description string) {
		t.Helper()
		text := "apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: LON}\nspec: {description: " + description + "}\n"
		if _, err := c.Apply(ctx, centralclient.ApplyRequest{Files: []provisioning.File{{Name: "site.yaml", Text: []byte(text)}}}); err != nil {
			t.Fatal(err)
		}
	}
	pub, root, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	begin := func(c *central.Central, first bool) {
		t.Helper()
		now, err := c.Epoch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		next, in := provisioning.EpochStatement{Epoch: now.Epoch, SnapshotKey: now.SnapshotKey, CASHA256: now.CASHA256}, centralclient.EpochSigned{}
		if in.Root = pub; !first {
			if next, err = c.NextEpoch(ctx, centralclient.EpochRequest{RotateKey: true}); err != nil {
				t.Fatal(err)
			}
		}
		signed, err := provisioning.SignEpoch(next, root)
		if err != nil {
			t.Fatal(err)
		}
		in.Statement = *signed
		if _, err := c.PutEpoch(ctx, in); err != nil {
			t.Fatal(err)
		}
	}
	c, cdb := openCentral(filepath.Join(dir, "central.db"))
	configure(c, "first")
	var site swapped
	use := func(c *central.Central) { h := c.Handler(); site.now.Store(&h) }
	use(c)
	srv := httptest.NewUnstartedServer(&site)
	srv.TLS = c.TLS()
	srv.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	srv.Listener = tls.NewListener(srv.Listener, srv.TLS)
	srv.Start()
	defer srv.Close()
	defer srv.CloseClientConnections()

	open := func(name string) (*branch.Branch, *store.Store) {
		t.Helper()
		db, err := store.Open(ctx, filepath.Join(dir, name), store.Alone())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		var br *branch.Branch
		far := centralclient.NewBranch(centralclient.BranchConfig{
			Address: srv.Listener.Addr().String(), CASHA256: c.CASHA256(), Now: time.Now,
			Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() }, RootPinned: func() bool { return br.RootPinned() },
		})
		br, err = branch.New(ctx, branch.Config{
			Site: "LON", CentralCA: c.CASHA256(), Store: db, Central: centralSide{far}, Log: log, Now: time.Now, Rand: rand.Reader,
		})
		if err != nil {
			t.Fatal(err)
		}
		return br, db
	}
	enrol := func(c *central.Central, br *branch.Branch) {
		t.Helper()
		token, err := c.CreateToken(ctx, centralclient.TokenRequest{Site: "LON", ValidSeconds: 3600})
		if err != nil {
			t.Fatal(err)
		}
		if err := br.Enrol(ctx, token.Token); err != nil {
			t.Fatal(err)
		}
	}
	follow := func(br *branch.Branch) (stop func()) {
		work, cancel := context.WithCancel(ctx)
		var all sync.WaitGroup
		all.Go(func() { _ = br.Follow(work) })
		all.Go(func() { _ = br.Deliver(work) })
		return func() { cancel(); all.Wait() }
	}
	number := func(br *branch.Branch) [2]uint64 {
		if s, _ := br.Snapshot(); s != nil {
			return [2]uint64{s.Epoch, s.Number}
		}
		return [2]uint64{}
	}

	br, bdb := open("branch.db")
	enrol(c, br)
	stop := follow(br)
	eventually(t, "the first snapshot", func() bool { return number(br) == [2]uint64{1, 1} && br.HistoryComplete() })
	begin(c, true) // after the branch was enrolled: it pins the root key with a later poll
	raw, err := sql.Open("sqlite", filepath.Join(dir, "central.db"))
	if err == nil {
		_, err = raw.ExecContext(ctx, `VACUUM INTO ?`, filepath.Join(dir, "backup.db"))
		err = errors.Join(err, raw.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	configure(c, "second")
	eventually(t, "the second snapshot, and the root key", func() bool { return number(br) == [2]uint64{1, 2} })
	configure(c, "third")
	eventually(t, "the third snapshot, and the root key", func() bool { return number(br) == [2]uint64{1, 3} && br.RootPinned() })
	stop()
	run := provisioning.Run{ID: strings.Repeat("a", 32), Computer: "desk-1", Advertisement: "rollout", TaskSequence: "install", State: provisioning.RunStarted, StartedAt: time.Now().UTC()}
	change := provisioning.BranchChange{Runs: []provisioning.Run{run}}
	for i, code := range []int{provisioning.StatusPolicyReceived, provisioning.StatusStepStarted} {
		change.Messages = append(change.Messages, provisioning.StatusMessage{
			ID: fmt.Sprintf("%032x", i+1), Site: "LON", Computer: run.Computer, Run: run.ID, Advertisement: run.Advertisement, TaskSequence: run.TaskSequence,
			Time: time.Now().UTC(), Sequence: i + 1, Code: code, Step: i, Action: "partitionDisk",
		})
	}
	if err := bdb.Commit(ctx, change); err != nil {
		t.Fatal(err)
	}
	reported := func(db *store.Store) int {
		m, _, err := db.Status(ctx, provisioning.StatusFilter{})
		if err != nil {
			t.Fatal(err)
		}
		return len(m)
	}
	stop = follow(br)
	eventually(t, "the report", func() bool { return reported(cdb) == 2 })

	restored, rdb := openCentral(filepath.Join(dir, "backup.db"))
	use(restored)
	srv.CloseClientConnections()
	eventually(t, "the restored central says that the site is ahead", func() bool {
		s, err := restored.Sites(ctx)
		return err == nil && len(s) == 1 && s[0].Ahead
	})
	if got := number(br); got != [2]uint64{1, 3} || reported(rdb) != 0 {
		t.Errorf("before the new epoch it has %v, and central %d messages", got, reported(rdb))
	}
	for epoch := uint64(2); epoch <= 3; epoch++ {
		begin(restored, false)
		eventually(t, "the new epoch", func() bool { return number(br)[0] == epoch })
		eventually(t, "everything is sent again", func() bool { n, err := bdb.OutboxLength(ctx); return err == nil && n == 0 })
		if n := reported(rdb); n != 2 {
			t.Errorf("in epoch %d central has %d messages", epoch, n)
		}
	}

	other, odb := open("other.db")
	if other.HistoryComplete() {
		t.Error("a blank disk has a complete history")
	}
	enrol(restored, other)
	if !other.RootPinned() {
		t.Error("the root key is not pinned by the enrolment")
	}
	stopOther := follow(other)
	eventually(t, "the runs of before", func() bool { return other.HistoryComplete() && number(other)[0] == 3 })
	stopOther()
	stop()
	if runs, err := odb.Runs(ctx); err != nil || len(runs) != 1 || !runs[0].Spent || runs[0].ID != run.ID {
		t.Errorf("%+v, %v", runs, err)
	}
	certificates, err := rdb.SiteCertificates(ctx, "LON")
	if err != nil || len(certificates) != 2 {
		t.Fatalf("%+v, %v", certificates, err)
	}
	if good := slices.IndexFunc(certificates, func(x provisioning.SiteCertificate) bool { return x.RevokedAt.IsZero() }); good < 0 || provisioning.Fingerprint(certificates[good].Key) != other.Fingerprint() {
		t.Errorf("the one before is still good: %+v", certificates)
	}
}

func (oneSnapshot) ReportSite(context.Context, []provisioning.SiteReport) error { return nil }

func (oneSnapshot) TellHost(context.Context, provisioning.Hardware) error { return nil }
