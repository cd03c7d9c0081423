package provisioning

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func goodReport(kind ReportKind) SiteReport {
	m := Machine{MAC: "52:54:00:12:34:56", GUID: "4c4c4544-0042-3510-8052-b4c04f4d3432", Arch: ArchUEFIx64}
	r := SiteReport{ID: strings.Repeat("a", 32), Site: "LON", Kind: kind, At: time.Unix(1, 0).UTC(), Machine: m, Text: "text"}
	switch kind {
	case ReportDiscovered:
		r.Discovered = &Computer{Name: "pc-1", Spec: ComputerSpec{Site: "LON", MACAddresses: []MAC{m.MAC}, SMBIOSGUID: m.GUID}}
	case ReportConsoleShell:
		r.Machine, r.Text = Machine{}, "a shell was opened on tty1"
	case ReportInventory:
		r.Computer, r.Inventory = "pc-1", &Inventory{Serial: "S1"}
	case ReportConflict:
		r.Conflict = &Conflict{Machine: m, ByMAC: []string{"pc-1"}, ByGUID: []string{"pc-2"}, Text: "both"}
	}
	return r
}

func TestSiteReports(t *testing.T) {
	kinds := []ReportKind{ReportDiscovered, ReportInventory, ReportConflict, ReportPasswordRefused, ReportWipeCap, ReportConsoleShell}
	for _, k := range kinds {
		if r := goodReport(k); r.Validate() != nil {
			t.Errorf("%s: %v", k, r.Validate())
		}
	}
	shared := goodReport(ReportDiscovered)
	if shared.Discovered.Spec.MACAddresses = nil; shared.Validate() != nil {
		t.Error("one that was started from a shared adapter:", shared.Validate())
	}
	if shared.Machine = (Machine{}); shared.Validate() != nil {
		t.Error("one of which no more is known:", shared.Validate())
	}
	if shared.Discovered.Spec.SMBIOSGUID = "x"; shared.Validate() == nil {
		t.Error("one with a malformed GUID")
	}
	for name, c := range map[string]struct {
		kind   ReportKind
		change func(*SiteReport)
	}{
		"id":                    {ReportWipeCap, func(r *SiteReport) { r.ID = "x" }},
		"no site":               {ReportWipeCap, func(r *SiteReport) { r.Site = "" }},
		"computer":              {ReportWipeCap, func(r *SiteReport) { r.Computer = "a b" }},
		"text":                  {ReportWipeCap, func(r *SiteReport) { r.Text = strings.Repeat("x", maxReportText+1) }},
		"machine":               {ReportWipeCap, func(r *SiteReport) { r.Machine.MAC = "52-54-00-12-34-56" }},
		"guid":                  {ReportWipeCap, func(r *SiteReport) { r.Machine.GUID = "x" }},
		"shell without text":    {ReportConsoleShell, func(r *SiteReport) { r.Text = "" }},
		"shell of a computer":   {ReportConsoleShell, func(r *SiteReport) { r.Computer = "pc-1" }},
		"shell of a machine":    {ReportConsoleShell, func(r *SiteReport) { r.Machine = Machine{MAC: "52:54:00:12:34:56"} }},
		"kind":                  {ReportWipeCap, func(r *SiteReport) { r.Kind = "other" }},
		"no inventory":          {ReportInventory, func(r *SiteReport) { r.Inventory = nil }},
		"whose inventory":       {ReportInventory, func(r *SiteReport) { r.Computer = "" }},
		"long inventory":        {ReportInventory, func(r *SiteReport) { r.Inventory.Serial = strings.Repeat("x", MaxInventoryField+1) }},
		"memory":                {ReportInventory, func(r *SiteReport) { r.Inventory.MemoryMiB = -1 }},
		"no conflict":           {ReportConflict, func(r *SiteReport) { r.Conflict = nil }},
		"names nobody":          {ReportConflict, func(r *SiteReport) { r.Conflict.ByGUID = []string{"a/b"} }},
		"too many names":        {ReportConflict, func(r *SiteReport) { r.Conflict.ByMAC = make([]string, maxReportNames+1) }},
		"no computer":           {ReportDiscovered, func(r *SiteReport) { r.Discovered = nil }},
		"no host name":          {ReportDiscovered, func(r *SiteReport) { r.Discovered.Name = "a_b" }},
		"another site's":        {ReportDiscovered, func(r *SiteReport) { r.Discovered.Spec.Site = "PAR" }},
		"two addresses":         {ReportDiscovered, func(r *SiteReport) { r.Discovered.Spec.MACAddresses = []MAC{"52:54:00:12:34:56", "52:54:00:12:34:57"} }},
		"recognised by nothing": {ReportDiscovered, func(r *SiteReport) { r.Discovered.Spec.MACAddresses, r.Discovered.Spec.SMBIOSGUID = nil, "" }},
		"variables":             {ReportDiscovered, func(r *SiteReport) { r.Discovered.Spec.Variables = map[string]string{"A": "b"} }},
		"an infrastructure":     {ReportDiscovered, func(r *SiteReport) { r.Discovered.Spec.Infrastructure = true }},
	} {
		r := goodReport(c.kind)
		c.change(&r)
		if CodeOf(r.Validate()) != CodeInvalid {
			t.Errorf("%s: %v", name, r.Validate())
		}
	}
}

func TestConflictID(t *testing.T) {
	base := Conflict{Machine: Machine{MAC: "52:54:00:12:34:56"}, ByMAC: []string{"a"}, ByGUID: []string{"b"}}
	same := base
	same.Text, same.Machine.Arch = "said otherwise", ArchUEFIx64
	if base.ID() != same.ID() || len(base.ID()) != 32 {
		t.Error("the same conflict has another id")
	}
	for _, other := range []Conflict{
		{Machine: base.Machine, ByMAC: []string{"a", "b"}},
		{Machine: base.Machine, ByMAC: []string{"a"}},
		{Machine: Machine{MAC: base.Machine.MAC, GUID: "4c4c4544-0042-3510-8052-b4c04f4d3432"}, ByMAC: []string{"a"}, ByGUID: []string{"b"}},
	} {
		if other.ID() == base.ID() {
			t.Errorf("%+v has the same id", other)
		}
	}
}

// FuzzSiteReport: whatever comes is refused or bounded, and no machine that passes has an address in another form.
func FuzzSiteReport(f *testing.F) {
	for _, k := range []ReportKind{ReportDiscovered, ReportInventory, ReportConflict, ReportPasswordRefused} {
		b, err := json.Marshal(goodReport(k))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"id":"00000000000000000000000000000000","site":"a","kind":"discovered","discovered":{"name":"x","spec":{"macAddresses":[null]}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r SiteReport
		if json.Unmarshal(b, &r) != nil || r.Validate() != nil {
			return
		}
		if r.Kind == ReportDiscovered && !ValidHostName(r.Discovered.Name) || len(r.Text) > maxReportText {
			t.Fatalf("%+v", r)
		}
	})
}
