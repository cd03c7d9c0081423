package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence/steps"
	"branchpoint/provisioning/sequence/steps/memory"
)

// TestSecretsStayWithTheCommand: a command gets its secret; screen, events, reports and log do not, whether it succeeds or fails.
func TestSecretsStayWithTheCommand(t *testing.T) {
	const secret = "Corr3ct-horse-battery-staple"
	for _, code := range []int{0, 3} {
		b := newBench(t, bootImage("join %JoinPassword%"), restartStep)
		var log bytes.Buffer
		b.agent.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		given := b.assignment
		b.assignment = func() (*provisioning.Assignment, error) {
			a, err := given()
			a.Secrets = map[string]string{"JOINPASSWORD": secret}
			return a, err
		}
		b.system.OnExec = func(steps.Command, *memory.Files) (steps.Exit, error) {
			return steps.Exit{Code: code, Output: "joined with " + secret + "\n"}, nil
		}
		event, says := "", ""
		if code != 0 {
			event, says = "sequence-failed", "(secret)"
		}
		if err := b.run(t, event, says); err != nil && code == 0 {
			t.Fatal(err)
		}
		if c := b.system.Commands(); len(c) == 0 || c[0].Args[2] != "join "+secret {
			t.Errorf("the commands are %v", c)
		}
		told := fmt.Sprintf("%s\n%s\n%+v\n%+v", b.screen, log.String(), b.fields, b.stored)
		if strings.Contains(told, secret) || !strings.Contains(told, "joined with (secret)") || !b.private {
			t.Errorf("exit code %d, private: %t, told is\n%s", code, b.private, told)
		}
	}
	b := newBench(t, bootImage("true"), restartStep)
	if err := b.run(t, "", ""); err != nil || b.private {
		t.Error("without secrets the log has nothing of what programs print", err)
	}
}
