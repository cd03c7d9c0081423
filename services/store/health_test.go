package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"branchpoint/provisioning"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/sys/unix"
)

// TestAloneMapsNoFile: a mapped file on a disk that fails ends the program by a fault.
func TestAloneMapsNoFile(t *testing.T) {
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "branch.db"), Alone())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var all sync.WaitGroup
	for range 8 { // over several connections
		all.Go(func() {
			for range 20 {
				if err := errors.Join(s.SaveIdentity(t.Context(), []byte("x")), s.Probe(t.Context())); err != nil {
					t.Error(err)
				}
				if _, err := s.Runs(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(maps), filepath.Dir(s.Path())) {
		t.Errorf("a file of the database is mapped:\n%s", maps)
	}
	entries, err := os.ReadDir(filepath.Dir(s.Path()))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), "-shm") {
			t.Errorf("%s is there", e.Name())
		}
	}
	again := reopen(t, s) // by a program that shares it
	if b, err := again.LoadIdentity(t.Context()); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// limitFileSize makes writes beyond a size fail with EFBIG, as those on a broken disk fail with EIO. It holds for the whole
// process until it is undone.
func limitFileSize(t *testing.T, size uint64) (undo func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: size, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	undo = sync.OnceFunc(func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(undo)
	return undo
}

func TestProbeFindsADatabaseThatCannotBeWritten(t *testing.T) {
	var told []error
	reg := prometheus.NewPedanticRegistry()
	s, err := Open(t.Context(), filepath.Join(t.TempDir(), "branch.db"), Alone(), Metrics(reg), OnFailure(func(err error) { told = append(told, err) }))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for range 3 {
		if err := s.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(told) != 0 {
		t.Fatalf("told %v while nothing failed", told)
	}
	undo := limitFileSize(t, 0)
	err = s.Probe(t.Context())
	undo()
	if provisioning.CodeOf(err) != provisioning.CodeUnavailable || len(told) != 1 || !errors.Is(told[0], err) {
		t.Errorf("error %v, told %v", err, told)
	}
	if err := s.Probe(t.Context()); err != nil {
		t.Errorf("it can be written again, and the probe says %v", err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := s.Probe(ended); !errors.Is(err, context.Canceled) || len(told) != 1 {
		t.Errorf("error %v, told %v; that a caller went away is no failure", err, told)
	}
	want := `
		# HELP branchpoint_store_errors_total Failures of the database itself, by code: a disk that is full or cannot be read or written, a damaged file.
		# TYPE branchpoint_store_errors_total counter
		branchpoint_store_errors_total{code="corrupt"} 0
		branchpoint_store_errors_total{code="internal"} 0
		branchpoint_store_errors_total{code="no-space"} 0
		branchpoint_store_errors_total{code="unavailable"} 1
	`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestOutboxLength(t *testing.T) {
	s := openTemp(t)
	expect := func(want int) {
		t.Helper()
		if n, err := s.OutboxLength(t.Context()); err != nil || n != want {
			t.Errorf("%d, %v; want %d", n, err, want)
		}
	}
	expect(0)
	run := provisioning.Run{ID: strings.Repeat("1", 32), Computer: "pc", StartedAt: noon}
	messages := []provisioning.StatusMessage{{ID: "a", Run: run.ID}, {ID: "b", Run: run.ID}, {ID: "a", Run: run.ID}}
	if err := s.Record(t.Context(), run, messages); err != nil {
		t.Fatal(err)
	}
	expect(2)
	if err := s.MarkDelivered(t.Context(), []string{"a", "a"}); err != nil {
		t.Fatal(err)
	}
	expect(1)
}
