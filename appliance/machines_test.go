package appliance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
)

func TestMachinesItem(t *testing.T) {
	if i := machinesItem(nil, nil, true); i.State != screen.OK || i.Next != "" {
		t.Errorf("nothing to say: %+v", i)
	}
	var waiting []branch.Notice
	for n := range 6 {
		waiting = append(waiting, branch.Notice{Machine: provisioning.Machine{MAC: provisioning.MAC(fmt.Sprintf("52:54:00:00:00:0%d", n))}, Computer: fmt.Sprintf("desk-%d", n)})
	}
	conflict := branch.Notice{
		Machine:  provisioning.Machine{MAC: "52:54:00:00:00:99"},
		Conflict: &provisioning.Conflict{Text: "MAC address is desk-1, SMBIOS GUID is desk-2"},
	}
	i := machinesItem([]branch.Notice{conflict}, waiting, false)
	for _, want := range []string{
		"6 computers more than the wipe cap", "52:54:00:00:00:00 desk-0", "and 2 more", "1 conflicting record,", "52:54:00:00:00:99: MAC address is desk-1", "nothing that is required begins",
	} {
		if !strings.Contains(i.Text, want) {
			t.Errorf("%q is not in\n%s", want, i.Text)
		}
	}
	for _, want := range []string{"approve wipes 6", "approve history", "branchpoint conflicts"} {
		if !strings.Contains(i.Next, want) {
			t.Errorf("%q is not in\n%s", want, i.Next)
		}
	}
	if i.State != screen.Problem || strings.Contains(i.Text, "desk-4") {
		t.Errorf("got %+v", i)
	}
}

// fakeDesk answers the console.
type fakeDesk struct {
	wipes    int
	complete bool
	released bool
	mu       sync.Mutex
	notes    []string
	asked    provisioning.Machine
}

func (d *fakeDesk) ApproveWipes(_ context.Context, n int) (int, error) {
	if n < 1 {
		return 0, errors.New("too few")
	}
	d.wipes += n
	return d.wipes, nil
}

func (d *fakeDesk) ApproveSecrets(computer string) (time.Time, error) {
	if computer != "desk-1" {
		return time.Time{}, errors.New("there is no such computer")
	}
	d.released = true
	return time.Date(2026, 11, 20, 13, 0, 0, 0, time.UTC), nil
}

func (d *fakeDesk) NoteConsole(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, text)
}

func (d *fakeDesk) AcceptHistory(context.Context) error { d.complete = true; return nil }
func (d *fakeDesk) HistoryComplete() bool               { return d.complete }
func (d *fakeDesk) Explain(m provisioning.Machine) []string {
	d.asked = m
	return []string{"identity: it is desk-1", "→ silent"}
}

func TestCommandsAboutMachines(t *testing.T) {
	a := &appliance{}
	type command = func(context.Context, []string, *strings.Builder) error
	approve := command(func(ctx context.Context, args []string, out *strings.Builder) error { return a.approve(ctx, args, out) })
	explain := command(func(ctx context.Context, args []string, out *strings.Builder) error { return a.explain(ctx, args, out) })
	say := func(run command, line string) (string, error) {
		var out strings.Builder
		err := run(t.Context(), strings.Fields(line), &out)
		return out.String(), err
	}
	for _, run := range []command{approve, explain} {
		if _, err := say(run, "wipes 5"); err == nil || !strings.Contains(err.Error(), "does not serve a site") {
			t.Errorf("without a site: %v", err)
		}
	}
	desk := &fakeDesk{}
	a.setDesk(desk)
	for _, wrong := range []string{"", "wipes", "wipes x", "wipes 0", "everything", "wipes 5 6", "history no", "secrets", "secrets desk-9"} {
		if _, err := say(approve, wrong); err == nil {
			t.Errorf("approve %s: no error", wrong)
		}
	}
	if desk.wipes != 0 || desk.complete || desk.released {
		t.Errorf("something was approved: %+v", desk)
	}
	if out, err := say(approve, "wipes 5"); err != nil || desk.wipes != 5 || !strings.Contains(out, "5 deployments") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := say(approve, "secrets desk-1"); err != nil || !desk.released || !strings.Contains(out, "next start of desk-1 is given secrets, until 13:00:00 UTC") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := say(approve, "history"); err != nil || desk.complete || !strings.Contains(out, "approve history yes") {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := say(approve, "history yes"); err != nil || !desk.complete {
		t.Error(err)
	}

	for line, want := range map[string]provisioning.Machine{
		"52-54-00-00-00-01":   {MAC: "52:54:00:00:00:01", Arch: provisioning.ArchUEFIx64},
		"525400000001 BIOS":   {MAC: "52:54:00:00:00:01", Arch: provisioning.ArchBIOS},
		"5254.0000.0001 http": {MAC: "52:54:00:00:00:01", Arch: provisioning.ArchHTTPBootx64},
		"52:54:00:00:00:01 bios 4c4c4544-0042-3510-8052-b4c04f4d3432": {MAC: "52:54:00:00:00:01", GUID: "4c4c4544-0042-3510-8052-b4c04f4d3432", Arch: provisioning.ArchBIOS},
	} {
		if out, err := say(explain, line); err != nil || desk.asked != want || !strings.Contains(out, "identity: it is desk-1") {
			t.Errorf("%s: %+v, %q, %v", line, desk.asked, out, err)
		}
	}
	for _, wrong := range []string{"", "desk-1", "52:54:00:00:00:01 arm", "52:54:00:00:00:01 bios uefi http"} {
		if _, err := say(explain, wrong); err == nil {
			t.Errorf("explain %s: no error", wrong)
		}
	}
}
