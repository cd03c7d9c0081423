package policy

import (
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
)

// TestFailSafe holds what no document can say, as it would be refused: a snapshot of a newer central, or a damaged one, is
// silent where it is not understood.
func TestFailSafe(t *testing.T) {
	desk := provisioning.Machine{MAC: "52:54:00:00:00:01", GUID: "11111111-1111-4111-8111-111111111111", Arch: provisioning.ArchUEFIx64}
	site := func() *provisioning.Snapshot {
		return &provisioning.Snapshot{
			Epoch: 1, Number: 1,
			Site:          provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{PXE: &provisioning.PXERole{Mode: provisioning.PXEModeProxy}}},
			Computers:     []provisioning.Computer{{Name: "desk-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{desk.MAC}}}},
			TaskSequences: []provisioning.TaskSequence{{Name: "install", Spec: provisioning.TaskSequenceSpec{BootImage: "own", Steps: []provisioning.Step{{PartitionDisk: &provisioning.PartitionDisk{}}}}}},
			BootImages:    []provisioning.BootImage{{Name: "own"}},
			Advertisements: []provisioning.Advertisement{{Name: "rollout", Spec: provisioning.AdvertisementSpec{
				TaskSequence: "install", Computers: []string{"desk-1"}, Purpose: provisioning.PurposeRequired,
			}}},
		}
	}
	stranger := provisioning.Machine{MAC: "52:54:00:00:00:99", GUID: "99999999-9999-4999-8999-999999999999", Arch: provisioning.ArchUEFIx64}
	secretive := func(s *provisioning.Snapshot, after provisioning.SecretRelease) {
		s.SecretsFor, s.Site.Spec.PXE.SecretsAfter = "age1of-the-appliance", after
		s.TaskSequences[0].Spec.Secrets = map[string]string{"Join": ""}
		s.TaskSequences[0].Spec.Steps = append(s.TaskSequences[0].Spec.Steps, provisioning.Step{RunCommandLine: &provisioning.RunCommandLine{Command: "join %Join%"}})
	}
	for _, c := range []struct {
		name    string
		change  func(*provisioning.Snapshot, *History)
		machine provisioning.Machine
		rule    string
		reason  string // in any
	}{
		{"nothing is wrong", func(*provisioning.Snapshot, *History) {}, desk, RuleRequired, "requires"},
		{"a purpose of a newer version", func(s *provisioning.Snapshot, _ *History) { s.Advertisements[0].Spec.Purpose = "urgent" }, desk, RuleNothing, "a purpose that this version does not know"},
		{"no purpose", func(s *provisioning.Snapshot, _ *History) { s.Advertisements[0].Spec.Purpose = "" }, desk, RuleNothing, "a purpose"},
		{"a rerun behaviour of a newer version", func(s *provisioning.Snapshot, _ *History) { s.Advertisements[0].Spec.Rerun = "weekly" }, desk, RuleNothing, "a rerun behaviour"},
		{"secrets after the password", func(s *provisioning.Snapshot, _ *History) {
			secretive(s, provisioning.SecretsAfterPassword)
			s.Site.Spec.PXE.PasswordHash = "$argon2id$"
		}, desk, RuleRequired, "after the site's password"},
		{"the same where there is none", func(s *provisioning.Snapshot, _ *History) { secretive(s, provisioning.SecretsAfterPassword) }, desk, RuleNothing, "and the site has none"},
		{"secrets after what a newer version knows", func(s *provisioning.Snapshot, h *History) {
			secretive(s, "moon")
			s.Site.Spec.PXE.PasswordHash, h.Released = "$argon2id$", map[string]bool{"desk-1": true}
		}, desk, RuleNothing, "which is one that this version does not know"},
		{"secrets for a computer whose record is not central's yet", func(s *provisioning.Snapshot, h *History) {
			secretive(s, provisioning.SecretsKnown)
			s.Advertisements[0].Spec = provisioning.AdvertisementSpec{TaskSequence: "install", Collection: provisioning.AllSystems, Purpose: provisioning.PurposeAvailable}
			h.Discovered = []provisioning.Computer{{Name: "pc", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{stranger.MAC}, SMBIOSGUID: stranger.GUID}}}
		}, stranger, RuleNothing, "only computers with a record at central"},
		{"a missing sequence", func(s *provisioning.Snapshot, _ *History) { s.TaskSequences = nil }, desk, RuleNothing, "which the configuration lacks"},
		{"a missing boot image", func(s *provisioning.Snapshot, _ *History) { s.BootImages = nil }, desk, RuleNothing, "lacks boot image own"},
		{"an architecture of a newer version", func(s *provisioning.Snapshot, _ *History) {
			s.BootImages[0].Spec.Architectures = []provisioning.BootArchitecture{"riscv", ""}
		}, desk, RuleNothing, "is not for UEFI x64"},
		{"a missing collection", func(s *provisioning.Snapshot, _ *History) {
			s.Advertisements[0].Spec.Collection, s.Advertisements[0].Spec.Computers = "lab", nil
		}, desk, RuleNothing, "collection lab, which the configuration lacks"},
		{"a collection and computers", func(s *provisioning.Snapshot, _ *History) {
			s.Advertisements[0].Spec.Collection = provisioning.AllSystems
		}, desk, RuleNothing, "names both"},
		{"neither", func(s *provisioning.Snapshot, _ *History) { s.Advertisements[0].Spec.Computers = nil }, desk, RuleNothing, "does not list"},
		{"a document that takes the name of all unknown computers", func(s *provisioning.Snapshot, _ *History) {
			s.Collections = []provisioning.Collection{{Name: provisioning.AllUnknownComputers, Spec: provisioning.CollectionSpec{Query: "true", Computers: []string{"desk-1"}}}}
			s.Advertisements[0].Spec.Collection, s.Advertisements[0].Spec.Computers = provisioning.AllUnknownComputers, nil
		}, desk, RuleNothing, "is a known one"},
		{"a time zone that nobody knows", func(s *provisioning.Snapshot, _ *History) {
			s.Site.Spec.TimeZone = "Mars/Olympus"
			s.Advertisements[0].Spec.MaintenanceWindows = []provisioning.Window{{From: "00:00", To: "23:59"}}
		}, desk, RuleNothing, "time zone is not known"},
		{"a malformed window", func(s *provisioning.Snapshot, _ *History) {
			s.Advertisements[0].Spec.MaintenanceWindows = []provisioning.Window{{From: "0", To: "24"}}
		}, desk, RuleNothing, "maintenance windows only"},
		{"a way of a newer version", func(s *provisioning.Snapshot, _ *History) {
			s.Advertisements[0].Spec.AvailableTo = []provisioning.Availability{"satellite"}
		}, desk, RuleNothing, "not available to PXE"},
		{"a run in a state of a newer version", func(_ *provisioning.Snapshot, h *History) {
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-1", Advertisement: "rollout", State: "paused"}}
		}, desk, RuleNothing, "a state that this version does not know"},
		{"such a run, where it always runs", func(s *provisioning.Snapshot, h *History) {
			s.Advertisements[0].Spec.Rerun = provisioning.RerunAlways
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-1", Advertisement: "rollout", State: "paused"}}
		}, desk, RuleNothing, "a state that this version does not know"},
		{"a negative cap", func(s *provisioning.Snapshot, h *History) {
			s.Site.Spec.PXE.WipesPerHour = -1
			h.Approved = -100
		}, desk, RuleRequired, "30 may without an approval"},
		{"a machine that a run of unknown sequence is about to erase", func(s *provisioning.Snapshot, h *History) {
			s.Site.Spec.PXE.WipesPerHour = 1
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-2", Advertisement: "other", TaskSequence: "gone", State: provisioning.RunStarted, StartedAt: noon}}
		}, desk, RuleWipeCap, "has to wait"},
		{"an erased disk whose time was not noted", func(s *provisioning.Snapshot, h *History) {
			s.Site.Spec.PXE.WipesPerHour = 1
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-2", Advertisement: "other", State: provisioning.RunSucceeded, Spent: true, UpdatedAt: noon}}
		}, desk, RuleWipeCap, "has to wait"},
		{"a run that began long ago and was given to its machine again just now", func(s *provisioning.Snapshot, h *History) {
			s.Site.Spec.PXE.WipesPerHour = 1
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-2", Advertisement: "other", TaskSequence: "install", State: provisioning.RunStarted, StartedAt: noon.Add(-3 * time.Hour), UpdatedAt: noon}}
		}, desk, RuleWipeCap, "has to wait"},
		{"always, for unknown computers", func(s *provisioning.Snapshot, h *History) {
			s.Site.Spec.PXE.UnknownComputers = &provisioning.UnknownComputers{}
			s.Advertisements[0].Spec.Collection, s.Advertisements[0].Spec.Computers = provisioning.AllUnknownComputers, nil
			s.Advertisements[0].Spec.Rerun = provisioning.RerunAlways
			h.Runs = []provisioning.Run{{ID: "r", Computer: "found", Advertisement: "rollout", State: provisioning.RunSucceeded, Spent: true, Machine: stranger}}
			h.Discovered = []provisioning.Computer{{Name: "found", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{stranger.MAC}, SMBIOSGUID: stranger.GUID}}}
		}, stranger, RuleNothing, "has run"},
		{"what is for unknown computers, cleared, once they are off", func(s *provisioning.Snapshot, h *History) {
			s.Advertisements[0].Spec.Collection, s.Advertisements[0].Spec.Computers = provisioning.AllUnknownComputers, nil
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-1", Advertisement: "rollout", State: provisioning.RunFailed, Spent: true, Cleared: true, Machine: desk}}
		}, desk, RuleNothing, "is a known one"},
		{"a discovered computer that shares its address with the snapshot's", func(s *provisioning.Snapshot, h *History) {
			h.Discovered = []provisioning.Computer{{Name: "found", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{desk.MAC}}}}
		}, desk, RuleRequired, "is desk-1"},
		{"a shared adapter in the history", func(s *provisioning.Snapshot, h *History) {
			s.Site.Spec.PXE.SharedAdapters = []provisioning.MAC{"52:54:00:00:00:0d"}
			s.Computers[0].Spec.SMBIOSGUID = desk.GUID
			h.Runs = []provisioning.Run{{ID: "r", Computer: "desk-2", Advertisement: "rollout", State: provisioning.RunSucceeded, Spent: true, Machine: provisioning.Machine{MAC: "52:54:00:00:00:0d"}}}
		}, provisioning.Machine{MAC: "52:54:00:00:00:0d", GUID: desk.GUID, Arch: desk.Arch}, RuleRequired, "requires"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, h := site(), History{Complete: true}
			c.change(s, &h)
			d := Decide(s, c.machine, h, noon)
			found := false
			for _, r := range d.Reasons {
				found = found || strings.Contains(r.Text, c.reason)
			}
			if d.Rule() != c.rule || !found || (d.Action == Boot) != (c.rule == RuleRequired) {
				t.Errorf("got rule %q, want %q with %q\n%s", d.Rule(), c.rule, c.reason, strings.Join(d.Lines(), "\n"))
			}
			// What is withheld is not handed out either, whoever asks for it.
			if p, err := Compile(s); err == nil && len(s.TaskSequences) > 0 && len(s.TaskSequences[0].Spec.Secrets) > 0 {
				given, err := p.Secrets(c.machine, d.Computer, "install", h)
				if (d.Action == Boot) != (len(given) == 1) || (d.Action == Boot) != (err == nil) {
					t.Errorf("secrets %v, %v", given, err)
				}
			}
		})
	}
}

// TestCompileSaysWhatCannotBeUsed: the policy can be used all the same.
func TestCompileSaysWhatCannotBeUsed(t *testing.T) {
	s := &provisioning.Snapshot{Site: provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{TimeZone: "Mars/Olympus"}}, Collections: []provisioning.Collection{
		{Name: "red", Spec: provisioning.CollectionSpec{Query: `computer.colour == "red"`}},
	}}
	p, err := Compile(s)
	if err == nil || !strings.Contains(err.Error(), "collection red") || !strings.Contains(err.Error(), "Mars/Olympus") {
		t.Errorf("the error is %v", err)
	}
	if d := p.Decide(provisioning.Machine{}, History{}, noon); d.Rule() != RuleRole {
		t.Errorf("decided by %q", d.Rule())
	}
	var none *Policy
	if d := none.Decide(provisioning.Machine{}, History{}, noon); d.Rule() != RuleConfiguration || none.Known("", "") {
		t.Errorf("without a policy: %+v", d)
	}
}

// TestFactsThatChange: what is remembered of a computer must not outlive what it was decided by.
func TestFactsThatChange(t *testing.T) {
	s := &provisioning.Snapshot{
		Site:          provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{PXE: &provisioning.PXERole{}}},
		Computers:     []provisioning.Computer{{Name: "pc", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{mac(1)}}}},
		TaskSequences: []provisioning.TaskSequence{{Name: "check"}},
		Collections: []provisioning.Collection{
			{Name: "small", Spec: provisioning.CollectionSpec{Query: "inventory.memoryMiB < 4096"}},
			{Name: "done", Spec: provisioning.CollectionSpec{Query: "deployments.exists(d, d.spent)"}},
		},
		Advertisements: []provisioning.Advertisement{
			{Name: "a", Spec: provisioning.AdvertisementSpec{TaskSequence: "check", Collection: "small", Purpose: provisioning.PurposeAvailable}},
			{Name: "b", Spec: provisioning.AdvertisementSpec{TaskSequence: "check", Collection: "done", Purpose: provisioning.PurposeAvailable}},
		},
	}
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	m := provisioning.Machine{MAC: mac(1), GUID: guid(1), Arch: provisioning.ArchUEFIx64}
	small := map[string]provisioning.Inventory{"pc": {MemoryMiB: 1024}}
	large := map[string]provisioning.Inventory{"pc": {MemoryMiB: 8192}}
	ran := []provisioning.Run{{ID: "r", Computer: "pc", Advertisement: "x", State: provisioning.RunSucceeded, Spent: true}}
	for i, c := range []struct {
		h    History
		want string
	}{
		{History{}, "silent"},
		{History{Inventories: small}, "offer a"},
		{History{Inventories: large}, "silent"},
		{History{Inventories: small, Runs: ran}, "offer a b"},
		{History{Runs: ran}, "offer b"},
		{History{Inventories: small}, "offer a"},
	} {
		d := p.Decide(m, c.h, noon)
		if got := gets(&d); got != c.want {
			t.Errorf("step %d: %s, want %s\n%s", i, got, c.want, strings.Join(d.Lines(), "\n"))
		}
	}
}

func TestRunOf(t *testing.T) {
	c := provisioning.Computer{Name: "desk-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{mac(1)}, SMBIOSGUID: guid(1)}}
	for name, r := range map[string]struct {
		run  provisioning.Run
		want bool
	}{
		"of its name":              {provisioning.Run{Computer: "desk-1"}, true},
		"of its name, elsewhere":   {provisioning.Run{Computer: "desk-1", Machine: provisioning.Machine{MAC: mac(2)}}, true},
		"of its machine":           {provisioning.Run{Computer: "former", Machine: provisioning.Machine{MAC: mac(1), GUID: guid(1)}}, true},
		"of its card, another box": {provisioning.Run{Computer: "former", Machine: provisioning.Machine{MAC: mac(1), GUID: guid(2)}}, false},
		"of its board, renamed":    {provisioning.Run{Computer: "former", Machine: provisioning.Machine{MAC: mac(2), GUID: guid(1)}}, true},
		"of its name in capitals":  {provisioning.Run{Computer: "DESK-1"}, true},
		"of another":               {provisioning.Run{Computer: "former", Machine: provisioning.Machine{MAC: mac(2), GUID: guid(2)}}, false},
		"of nobody":                {provisioning.Run{Computer: "former"}, false},
	} {
		if got := RunOf(&r.run, &c); got != r.want {
			t.Errorf("a run %s: %t", name, got)
		}
	}
}

func TestHistoryWith(t *testing.T) {
	first := provisioning.Run{ID: "1", Computer: "a", Machine: provisioning.Machine{MAC: mac(1)}, State: provisioning.RunStarted}
	h := History{Complete: true}.Indexed().With(first)
	done := first
	done.State = provisioning.RunSucceeded
	later := h.With(done)
	renamed := done
	renamed.Computer, renamed.Machine.MAC = "b", mac(2)
	last := later.With(renamed).With(provisioning.Run{ID: "2", Computer: "b", StartedAt: time.Unix(1, 0)})
	for name, c := range map[string]struct {
		h        History
		computer string
		mac      provisioning.MAC
		want     string
	}{
		"before":          {h, "a", "", "1 started"},
		"changed":         {later, "a", "", "1 succeeded"},
		"by its address":  {later, "", mac(1), "1 succeeded"},
		"under its name":  {last, "b", "", "1 succeeded 2 "},
		"no longer":       {last, "a", mac(1), ""},
		"its new address": {last, "", mac(2), "1 succeeded"},
	} {
		var got []string
		for _, r := range c.h.runs(c.computer, "", c.mac) {
			got = append(got, r.ID+" "+string(r.State))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %q, want %q", name, s, c.want)
		}
	}
}

func TestLines(t *testing.T) {
	d := Decision{
		Action: Offer, Computer: "pc-1", Unknown: true, Password: true, Advertisement: "a", TaskSequence: "install",
		Choices: []Choice{{"a", "install"}, {"b", "check"}},
		Reasons: []Reason{{RuleRole, "the PXE service point is on"}, {RuleAvailable, "advertisement a makes task sequence install available"}},
	}
	want := `role:      the PXE service point is on
available: advertisement a makes task sequence install available
→ offer pc-1 (unknown until now), after the password
  choice: advertisement a, task sequence install
  choice: advertisement b, task sequence check`
	if got := strings.Join(d.Lines(), "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
