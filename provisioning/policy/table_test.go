package policy

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/goccy/go-yaml"
)

// table is testdata/decisions.yaml, which says what its fields mean.
type table struct {
	At       string
	Machines map[string]machineText
	Standard map[string]any
	Cases    []tableCase
}

type machineText struct{ MAC, GUID, Arch string }

type tableCase struct {
	Case            string
	NoConfiguration bool `yaml:"noConfiguration"`
	With            map[string]any
	Without         []string
	Changed         map[string]uint64
	Inventory       map[string]struct {
		MemoryMiB int64 `yaml:"memoryMiB"`
	}

	Machine        string
	MAC, GUID      *string
	Arch           string
	At, Issued     string
	History        []runText
	Abroad         []runText
	HistoryMissing bool `yaml:"historyMissing"`
	Discovered     map[string]string
	Hosts          []hostText
	Own            hostText
	Approved       int
	Wiped          int

	Gets         string
	Rule         string
	Reason       string // stands in the reason that decided
	Reasons      string // stands in any reason
	TaskSequence string `yaml:"taskSequence"`
	Unknown      string
	Conflict     *[]string
	Password     bool
	ByApproval   bool    `yaml:"byApproval"`
	NoRecipient  bool    `yaml:"noRecipient"`
	Recipient    *string // of the appliance that decides
	Released     []string
	Secrets      []string // in the order of their variables
	Variables    map[string]string
}

type runText struct {
	Computer, On, Advertisement, State, Ago, Allowance string
	TaskSequence                                       string `yaml:"taskSequence"`
	Spent, Cleared                                     bool
}

// hostText is a machine that an appliance, or without a site central, runs on.
type hostText struct {
	Site, GUID string
	MACs       []string
}

func (x hostText) host() provisioning.Host {
	h := provisioning.Host{Site: x.Site, Hardware: provisioning.Hardware{SMBIOSGUID: provisioning.GUID(x.GUID)}}
	for _, m := range x.MACs {
		h.MACAddresses = append(h.MACAddresses, provisioning.MAC(m))
	}
	return h
}

// aPassword is the hash of some password, made with the least work.
const aPassword = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$RdescudvJCsgt3ub+b5dWRWJTmaaJObG+RdescudvJA"

func loadTable(t testing.TB) *table {
	t.Helper()
	text, err := os.ReadFile("testdata/decisions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var out table
	if err := yaml.UnmarshalWithOptions(text, &out, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return &out
}

// snapshot makes the site LON's of documents, as central does.
func (c *tableCase) snapshot(t *testing.T, all *table, at time.Time) *provisioning.Snapshot {
	t.Helper()
	documents := maps.Clone(all.Standard)
	maps.Copy(documents, c.With)
	for _, d := range c.Without {
		if _, ok := documents[d]; !ok {
			t.Fatalf("there is no document %q to take away", d)
		}
		delete(documents, d)
	}
	var objects []provisioning.Object
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		kind, name, _ := strings.Cut(name, " ")
		spec, err := yaml.Marshal(map[string]any{
			"apiVersion": provisioning.APIVersion, "kind": kind, "metadata": map[string]string{"name": name}, "spec": documents[kind+" "+name],
		})
		if err != nil {
			t.Fatal(err)
		}
		got, problems := provisioning.Decode(provisioning.File{Name: kind + " " + name, Text: []byte(strings.ReplaceAll(string(spec), "PASSWORD", aPassword))})
		if len(problems) > 0 {
			t.Fatalf("%v\n%s", problems, spec)
		}
		objects = append(objects, got...)
	}
	catalog, problems := provisioning.NewCatalog(objects)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	inventories := map[string]provisioning.Inventory{}
	for name, i := range c.Inventory {
		inventories[name] = provisioning.Inventory{MemoryMiB: i.MemoryMiB}
	}
	var runs []provisioning.SiteRun
	for i, r := range c.Abroad {
		runs = append(runs, provisioning.SiteRun{Site: "PAR", Run: r.run(t, fmt.Sprint("abroad-", i), all.Machines, at)})
	}
	var hosts []provisioning.Host
	for _, x := range c.Hosts {
		hosts = append(hosts, x.host())
	}
	s, err := catalog.Resolve("LON", provisioning.Facts{
		Hosts: hosts, Runs: runs, Inventories: inventories, Changed: func(k provisioning.Key) uint64 { return c.Changed[k.Name] },
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Epoch, s.Number, s.IssuedAt = 1, 1, at.Add(-time.Hour)
	if !c.NoRecipient {
		s.SecretsFor = "age1of-the-appliance"
	}
	if c.Issued != "" {
		s.IssuedAt = parseTime(t, c.Issued)
	}
	return s
}

func (c *tableCase) machine(t *testing.T, machines map[string]machineText) provisioning.Machine {
	t.Helper()
	m, ok := machines[c.Machine]
	if !ok {
		t.Fatalf("there is no machine %q", c.Machine)
	}
	if c.MAC != nil {
		m.MAC = *c.MAC
	}
	if c.GUID != nil {
		m.GUID = *c.GUID
	}
	if c.Arch != "" {
		m.Arch = c.Arch
	}
	arch, ok := map[string]provisioning.Arch{
		"bios": provisioning.ArchBIOS, "uefi": provisioning.ArchUEFIx64, "uefi-9": provisioning.ArchUEFIx64Alt,
		"http": provisioning.ArchHTTPBootx64, "ia32": provisioning.ArchUEFIIA32, "arm64": provisioning.ArchUEFIARM64,
	}[m.Arch]
	if !ok {
		t.Fatalf("there is no architecture %q", m.Arch)
	}
	return provisioning.Machine{MAC: provisioning.MAC(m.MAC), GUID: provisioning.GUID(m.GUID), Arch: arch}
}

func (c *tableCase) history(t *testing.T, machines map[string]machineText, at time.Time) History {
	t.Helper()
	h := History{
		Complete: !c.HistoryMissing, Approved: c.Approved, Released: set(c.Released), Recipient: c.Recipient,
		Own: provisioning.NewHosts([]provisioning.Host{c.Own.host()}),
	}
	for i, r := range c.History {
		h.Runs = append(h.Runs, r.run(t, fmt.Sprint("run-", i), machines, at))
	}
	for i := range c.Wiped {
		h.Runs = append(h.Runs, provisioning.Run{
			ID: fmt.Sprint("wiped-", i), Computer: fmt.Sprint("other-", i), Advertisement: "other", TaskSequence: "install",
			State: provisioning.RunSucceeded, Spent: true, SpentAt: at.Add(-time.Minute),
		})
	}
	for name, on := range c.Discovered {
		m := machines[on]
		h.Discovered = append(h.Discovered, provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{
			Site: "LON", MACAddresses: []provisioning.MAC{provisioning.MAC(m.MAC)}, SMBIOSGUID: provisioning.GUID(m.GUID),
		}})
	}
	return h
}

func (r runText) run(t *testing.T, id string, machines map[string]machineText, at time.Time) provisioning.Run {
	t.Helper()
	ago, err := time.ParseDuration(r.Ago)
	if err != nil {
		t.Fatal(err)
	}
	on, ok := machines[cmp.Or(r.On, r.Computer)]
	if !ok {
		t.Fatalf("there is no machine %q", cmp.Or(r.On, r.Computer))
	}
	out := provisioning.Run{
		ID: id, Computer: r.Computer, Advertisement: r.Advertisement, TaskSequence: cmp.Or(r.TaskSequence, "install"),
		State: provisioning.RunState(r.State), Spent: r.Spent, Cleared: r.Cleared, Allowance: r.Allowance,
		Machine:   provisioning.Machine{MAC: provisioning.MAC(on.MAC), GUID: provisioning.GUID(on.GUID)},
		StartedAt: at.Add(-ago), UpdatedAt: at.Add(-ago),
	}
	if r.Spent {
		out.SpentAt = out.StartedAt
	}
	return out
}

func parseTime(t testing.TB, s string) time.Time {
	t.Helper()
	out, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// gets is what a decision comes to, as the table says it.
func gets(d *Decision) string {
	switch {
	case d.Resume != "":
		return "resume " + d.Advertisement
	case d.Action == Boot:
		return "boot " + d.Advertisement
	case d.Action == Offer:
		out := "offer"
		for _, c := range d.Choices {
			out += " " + c.Advertisement
		}
		return out
	}
	return string(d.Action)
}

// TestDecisions holds the decisions against the table.
func TestDecisions(t *testing.T) {
	all := loadTable(t)
	seen := map[string]bool{}
	for i := range all.Cases {
		c := &all.Cases[i]
		if seen[c.Case] {
			t.Errorf("case %q stands twice", c.Case)
		}
		seen[c.Case] = true
		t.Run(strconv.Itoa(i+1)+" "+c.Case, func(t *testing.T) {
			if c.At == "" {
				c.At = all.At
			}
			at := parseTime(t, c.At)
			var s *provisioning.Snapshot
			if !c.NoConfiguration {
				s = c.snapshot(t, all, at)
			}
			m, h := c.machine(t, all.Machines), c.history(t, all.Machines, at)
			d := Decide(s, m, h, at)
			if indexed := Decide(s, m, h.Indexed(), at); !reflect.DeepEqual(d, indexed) {
				t.Errorf("with an index it is\n%+v\nnot\n%+v", indexed, d)
			}
			c.check(t, &d)
			c.checkSecrets(t, s, m, &d, h)
			if t.Failed() {
				t.Log("\n" + strings.Join(d.Lines(), "\n"))
			}
		})
	}
	if len(seen) < 60 {
		t.Errorf("only %d cases", len(seen))
	}
}

// checkSecrets compares what a computer is given that is to begin; one that is not to must be given none that it needs.
func (c *tableCase) checkSecrets(t *testing.T, s *provisioning.Snapshot, m provisioning.Machine, d *Decision, h History) {
	t.Helper()
	if d.Action == Silent {
		return
	}
	p, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	given, err := p.Secrets(m, d.Computer, d.TaskSequence, h)
	var places []string
	for _, g := range given {
		places = append(places, g.Place)
	}
	if err != nil || !slices.Equal(places, c.Secrets) {
		t.Errorf("secrets %v, %v, want %v", places, err, c.Secrets)
	}
}

func (c *tableCase) check(t *testing.T, d *Decision) {
	t.Helper()
	if got := gets(d); got != c.Gets || d.Rule() != c.Rule {
		t.Errorf("it gets %q by rule %q, want %q by %q", got, d.Rule(), c.Gets, c.Rule)
	}
	if !strings.Contains(d.Why(), c.Reason) {
		t.Errorf("decided by %q, want %q", d.Why(), c.Reason)
	}
	if c.Reasons != "" && !slices.ContainsFunc(d.Reasons, func(r Reason) bool { return strings.Contains(r.Text, c.Reasons) }) {
		t.Errorf("no reason says %q", c.Reasons)
	}
	if c.TaskSequence != "" && d.TaskSequence != c.TaskSequence {
		t.Errorf("task sequence %q, want %q", d.TaskSequence, c.TaskSequence)
	}
	if c.Unknown != "" && (!d.Unknown || d.Computer != c.Unknown) || c.Unknown == "" && d.Unknown && d.Action != Silent {
		t.Errorf("unknown: %t, as %q, want %q", d.Unknown, d.Computer, c.Unknown)
	}
	if d.Password != c.Password || d.Approved != c.ByApproval {
		t.Errorf("password: %t, by an approval: %t", d.Password, d.Approved)
	}
	if c.Variables != nil && !maps.Equal(d.Variables, c.Variables) {
		t.Errorf("variables %v", d.Variables)
	}
	if (d.Conflict != nil) != (c.Conflict != nil) {
		t.Errorf("conflict %+v", d.Conflict)
	} else if d.Conflict != nil {
		if got := append(slices.Clone(d.Conflict.ByMAC), d.Conflict.ByGUID...); !slices.Equal(got, *c.Conflict) || d.Conflict.Machine.MAC == "" || d.Conflict.Text == "" {
			t.Errorf("conflict %+v, want one of %v", d.Conflict, *c.Conflict)
		}
	}
	if d.Action == Silent && (len(d.Choices) > 0 || d.Resume != "") {
		t.Errorf("a silent answer has choices %v, resumes %q", d.Choices, d.Resume)
	}
}
