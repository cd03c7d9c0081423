package main

import (
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
)

// TestAgentProvesItsTPM: where the branch wants it, before anything is asked for; again where the branch or the chip is busy, though not
// for ever; and without it the computer goes on, as the branch may have something for it all the same.
func TestAgentProvesItsTPM(t *testing.T) {
	unavailable := provisioning.Errorf(provisioning.CodeUnavailable, "", "busy")
	for name, c := range map[string]struct {
		wanted bool
		prove  func(try int) error
		tries  int
		proved string
	}{
		"not wanted": {false, func(int) error { return nil }, 0, ""},
		"at once":    {true, func(int) error { return nil }, 1, "true"},
		"busy first": {true, func(try int) error {
			if try < 3 {
				return unavailable
			}
			return nil
		}, 3, "true"},
		"fails":   {true, func(int) error { return unavailable }, tpmTries, "false"},
		"refused": {true, func(int) error { return provisioning.Errorf(provisioning.CodeForbidden, "", "another chip") }, 1, "false"},
		"none":    {true, func(int) error { return provisioning.Errorf(provisioning.CodeNotFound, "", "no TPM") }, 1, "false"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, bootImage("echo"), restartStep)
			b.register = func(int) (client.Registration, error) {
				return client.Registration{Token: "t", Time: start, TPMWanted: c.wanted}, nil
			}
			b.prove = c.prove
			if err := b.run(t, "", ""); err != nil {
				t.Fatal(err)
			}
			if b.calls["prove"] != c.tries || !b.restarted {
				t.Errorf("tried %d times, ran: %t", b.calls["prove"], b.restarted)
			}
			if told := b.told("agent-tpm", "proved"); told != c.proved {
				t.Errorf("told is %q", told)
			}
		})
	}
}
