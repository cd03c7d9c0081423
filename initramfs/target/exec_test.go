package target

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning/sequence/steps"
)

func TestExec(t *testing.T) {
	needRoot(t)
	var log bytes.Buffer
	s := machine(t, "/dev/none", 0)
	s.Output = &log
	ctx := context.Background()
	sh := func(script string) steps.Command { return steps.Command{Args: []string{"sh", "-c", script}} }

	e, err := s.Exec(ctx, sh("echo out; echo err >&2; exit 5"))
	if err != nil || e.Code != 5 || e.Stdout != "out\n" || !strings.Contains(e.Output, "out\n") || !strings.Contains(e.Output, "err\n") || log.Len() != 8 {
		t.Errorf("%+v %v, log %q", e, err, log.String())
	}
	if e, err := s.Exec(ctx, steps.Command{Args: []string{"cat"}, Stdin: "given"}); err != nil || e.Stdout != "given" {
		t.Errorf("%+v %v", e, err)
	}
	if e, err := s.Exec(ctx, sh("read x || echo nothing")); err != nil || e.Stdout != "nothing\n" {
		t.Errorf("standard input is not empty: %+v %v", e, err)
	}
	if e, err := s.Exec(ctx, sh("head -c 20000000 /dev/zero | tr '\\0' x; echo end")); err != nil || len(e.Output) > maxTail || len(e.Stdout) > maxStdout || !strings.HasSuffix(e.Output, "xend\n") || log.Len() > maxLog+1000 {
		t.Errorf("bounds: %d %d %d %v", len(e.Output), len(e.Stdout), log.Len(), err)
	}
	if _, err := s.Exec(ctx, steps.Command{Args: []string{"no-such-program"}}); err == nil {
		t.Error("a missing program ran")
	}
	if _, err := s.Exec(ctx, steps.Command{Args: []string{"sh"}, InTarget: true}); err == nil {
		t.Error("a program ran in a target that is not there")
	}
}

// TestExecEndsEverything starts daemons that leave their process group and session; they must not live on.
func TestExecEndsEverything(t *testing.T) {
	needRoot(t)
	s := machine(t, "/dev/none", 0)
	mark := filepath.Join(t.TempDir(), "mark")
	for name, c := range map[string]struct {
		script   string
		timeout  time.Duration
		timedOut bool
	}{
		"at its end":  {"setsid sh -c 'while :; do echo x >>" + mark + "; sleep 0.02; done' & while [ ! -e " + mark + " ]; do sleep 0.01; done; exit 0", 0, false},
		"on time-out": {"setsid sh -c 'while :; do echo x >>" + mark + "; sleep 0.02; done' & trap '' TERM; sleep 100", time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			e, err := s.Exec(context.Background(), steps.Command{Args: []string{"sh", "-c", c.script}, Timeout: c.timeout})
			if err != nil || e.TimedOut != c.timedOut || time.Since(began) > 30*time.Second {
				t.Fatalf("%+v %v after %s", e, err, time.Since(began))
			}
			if out, _ := exec.Command("pgrep", "-f", mark).Output(); len(out) > 0 {
				t.Errorf("still running: %s", out)
			}
			if err := os.Remove(mark); err != nil {
				t.Error("the daemon never ran:", err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Exec(ctx, steps.Command{Args: []string{"sleep", "100"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
