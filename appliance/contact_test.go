package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/store"
)

// farCentral is a central site at the end of a line that can be dead.
type farCentral struct {
	oneSnapshot
	dead func() error
}

func (c farCentral) Snapshot(ctx context.Context, epoch, number uint64, wait time.Duration) (*provisioning.SignedSnapshot, error) {
	if err := c.dead(); err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, wait)
	defer stop()
	s, err := c.oneSnapshot.Snapshot(ctx, epoch, number, wait)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return s, err
}

// TestADeadLineIsShown: when central has been out of reach for a while, the screen and /healthz say so, and that deployments
// go on; when it is back, that it is.
func TestADeadLineIsShown(t *testing.T) {
	for _, configured := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) { testDeadLine(t, configured) })
	}
}

func testDeadLine(t *testing.T, configured bool) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := provisioning.SignSnapshot(&provisioning.Snapshot{Epoch: 1, Number: 7, IssuedAt: time.Now(), Site: provisioning.Site{Name: "LON"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "branch.db"), store.Alone())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	var line error
	c := farCentral{oneSnapshot{key, make(chan *provisioning.SignedSnapshot, 1)}, func() error { return line }}
	s := &site{appliance: testAppliance(), db: db}
	s.settings.Site, s.settings.Central.Address = "LON", "central.example:8443"
	s.branch, err = branch.New(t.Context(), branch.Config{
		Site: "LON", Store: db, Central: c, Log: s.Log, Now: s.Now, Rand: rand.Reader, Contact: s.contacted,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.branch.Enrol(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if configured {
		c.signed <- signed
		ctx, stop := context.WithCancel(t.Context())
		_, changed := s.branch.Snapshot()
		done := make(chan struct{})
		go func() { _ = s.branch.Follow(ctx); close(done) }()
		<-changed
		stop()
		<-done
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { _ = s.follow(ctx); close(done) }()
	expect := func(when string, state screen.State, code int, says ...string) {
		t.Helper()
		synctest.Wait()
		it := s.screen.Items()[topicCentral]
		if it.State != state {
			t.Errorf("%s the screen says %+v", when, it)
		}
		for _, text := range says {
			if !strings.Contains(it.Text, text) {
				t.Errorf("%s the screen does not say %q: %+v", when, text, it)
			}
		}
		if got, body, _ := ask(t, s.appliance, http.MethodGet, "/healthz"); got != code || strings.Contains(body, `"central":{"state":"ok"`) != (state == screen.OK) {
			t.Errorf("%s /healthz says %d, %s", when, got, body)
		}
	}
	inStep, out := "enrolled at central.example:8443 as site LON", http.StatusServiceUnavailable
	if configured {
		inStep, out = "configuration 1.7", http.StatusOK
	}
	time.Sleep(10 * time.Minute) // of the bubble's clock, as all here
	expect("in step", screen.OK, http.StatusOK, inStep)
	line = provisioning.Errorf(provisioning.CodeUnavailable, "", "no route to host")
	time.Sleep(centralPatience - time.Minute)
	expect("after a moment", screen.OK, http.StatusOK, inStep)
	time.Sleep(5 * time.Minute)
	expect("after a while", screen.Problem, out, inStep, "not in step with central since ", "no route to host")
	if text := s.screen.Items()[topicCentral].Text; strings.Contains(text, "Deployments go on") != configured {
		t.Error(text)
	}
	line = nil
	time.Sleep(5 * time.Minute)
	expect("when it is back", screen.OK, http.StatusOK, inStep)
	line = errors.New("it speaks another language")
	time.Sleep(10 * time.Minute)
	stop()
	<-done
	if s.isOffline() {
		t.Error("the appliance remembers it without its site")
	}
}
