package appliance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch"
	branchclient "branchpoint/services/branch/client"
	"branchpoint/services/central"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"
)

// anyContent is a content store that has every package.
type anyContent struct{}

func (anyContent) Ref(_ context.Context, pkg string, version int) (provisioning.ContentRef, error) {
	return provisioning.ContentRef{Package: pkg, Version: max(1, version), Format: provisioning.FormatDiskImage, Manifest: provisioning.SumSHA256([]byte(pkg)), Size: 1}, nil
}

func (anyContent) Packages(context.Context) (map[string]int, error) {
	return map[string]int{"debian-13": 1}, nil
}

// offices makes configurations, machines and what happens at them by chance.
type offices struct{ *mathrand.Rand }

func (o offices) chance(percent int) bool { return o.IntN(100) < percent }

func oneOf[T any](o offices, of ...T) T { return of[o.IntN(len(of))] }

func macOf(n int) provisioning.MAC { return provisioning.MAC(fmt.Sprintf("52:54:00:00:00:%02x", n)) }

func guidOf(n int) provisioning.GUID {
	return provisioning.GUID(fmt.Sprintf("%08x-1111-4111-8111-111111111111", n))
}

// machine is mostly one of the computers' or a stranger's; sometimes its card is in another machine, or it gives no GUID.
func (o offices) machine() provisioning.Machine {
	n := o.IntN(12)
	m := provisioning.Machine{MAC: macOf(n), GUID: guidOf(n), Arch: oneOf(o, provisioning.ArchUEFIx64, provisioning.ArchUEFIx64, provisioning.ArchBIOS, provisioning.ArchHTTPBootx64)}
	if o.chance(10) {
		m.MAC = macOf(o.IntN(12))
	}
	if o.chance(15) {
		m.GUID = oneOf(o, "", guidOf(o.IntN(12)))
	}
	return m
}

// configuration is one that can be applied at now.
func (o offices) configuration(now time.Time) string {
	var b strings.Builder
	document := func(kind, name, format string, args ...any) {
		fmt.Fprintf(&b, "---\napiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: {%s}\n", kind, name, fmt.Sprintf(format, args...))
	}
	maybe := func(percent int, format string, args ...any) string {
		if o.chance(percent) {
			return fmt.Sprintf(format, args...)
		}
		return ""
	}
	document("Site", "LON", "timeZone: %s%s%s", oneOf(o, "Europe/London", "Asia/Kolkata", "UTC"), maybe(95, ", distributionPoint: {}"),
		maybe(95, ", pxe: {mode: proxy, wipesPerHour: %d%s%s%s}", 1+o.IntN(4), maybe(60, ", unknownComputers: {}"),
			maybe(25, ", ignore: [%q]", macOf(o.IntN(12))), maybe(25, ", sharedAdapters: [%q]", macOf(o.IntN(12)))))
	document("Site", "PAR", "")
	document("OperatingSystemImage", "debian", "package: debian-13")
	document("BootImage", "modern", "architectures: [uefi-x64]")
	document("TaskSequence", "install", "steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}], variables: {A: sequence, B: sequence}")
	document("TaskSequence", "image", "bootImage: modern, steps: [{applyOperatingSystemImage: {image: debian}}]")
	document("TaskSequence", "check", "steps: [{restart: {}}]")
	document("Collection", "listed", "computers: [pc-1, pc-2, pc-3], variables: {A: listed}")
	document("Collection", "queried", "query: '%s', variables: {A: queried}", oneOf(o, `computer.name < "pc-4"`, `deployments.exists(d, d.spent)`,
		`computer.macAddresses[1] != ""`, `inventory.memoryMiB > 1024`, `!deployments.exists(d, d.state == "succeeded")`))
	for i := range 8 {
		site := oneOf(o, "", "site: LON, ", "site: LON, ", "site: PAR, ")
		document("Computer", fmt.Sprint("pc-", i), "%smacAddresses: [%q]%s%s", site, macOf(i), maybe(60, ", smbiosGUID: %s", guidOf(i)), maybe(8, ", infrastructure: true"))
	}
	for i := range o.IntN(6) {
		required := o.chance(60)
		target := oneOf(o, "collection: all-systems", "collection: all-unknown-computers", "collection: listed", "collection: queried", "computers: [pc-0, pc-1, pc-5]")
		rest := ""
		if required {
			rest = maybe(20, ", maintenanceWindows: [{from: \"08:00\", to: \"20:00\"}]")
			if !strings.Contains(target, "unknown") {
				rest += maybe(40, ", rerun: %s", oneOf(o, "never", "if-failed", "always"))
			}
		}
		document("Advertisement", fmt.Sprint("ad-", i), "taskSequence: %s, %s, purpose: %s, priority: %d%s%s%s", oneOf(o, "install", "install", "image", "check"), target,
			map[bool]string{true: "required", false: "available"}[required], o.IntN(3), rest,
			maybe(15, ", start: %q", now.Add(time.Duration(o.IntN(8))*time.Hour).Format(time.RFC3339)),
			maybe(15, ", expires: %q", now.Add(time.Duration(9+o.IntN(8))*time.Hour).Format(time.RFC3339)))
	}
	return b.String()
}

// office is a real central with one real branch, whose clocks are one.
type office struct {
	offices
	t       *testing.T
	central *central.Central
	admin   *centralclient.Admin
	branch  *branch.Branch
	store   *store.Store // the branch's
	ids     int

	mu  sync.Mutex
	now time.Time
}

func (o *office) Now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *office) advance(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = o.now.Add(d)
}

func openOffice(t *testing.T, seed uint64) *office {
	t.Helper()
	o := &office{offices: offices{mathrand.New(mathrand.NewPCG(seed, 4))}, t: t, now: time.Now()}
	dir, log, ctx := t.TempDir(), slog.New(slog.DiscardHandler), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := central.LoadKey(filepath.Join(dir, "central.key"), true, rand.Reader)
	must(err)
	cdb, err := store.Open(ctx, filepath.Join(dir, "central.db"))
	must(err)
	t.Cleanup(func() { cdb.Close() })
	o.central, err = central.Open(ctx, central.Config{Store: cdb, Content: anyContent{}, Key: key, Log: log, Now: o.Now, Rand: rand.Reader})
	must(err)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		return l
	}
	work, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	t.Cleanup(func() { stop(); all.Wait() })
	l := listen()
	all.Go(func() { _ = o.central.Serve(work, l) })
	token, err := o.central.NewAdminToken(ctx)
	must(err)
	o.admin, err = centralclient.NewAdmin(centralclient.AdminFile{Address: l.Addr().String(), CA: string(o.central.CA()), Token: token}, o.Now)
	must(err)
	o.apply(o.configuration(o.now))

	o.store, err = store.Open(ctx, filepath.Join(dir, "branch.db"), store.Alone())
	must(err)
	t.Cleanup(func() { o.store.Close() })
	far := centralclient.NewBranch(centralclient.BranchConfig{
		Address: l.Addr().String(), CASHA256: o.central.CASHA256(), Now: o.Now,
		Certificate: func() (tls.Certificate, error) { return o.branch.ClientCertificate() },
	})
	agents := listen()
	o.branch, err = branch.New(ctx, branch.Config{
		Site: "LON", CentralCA: o.central.CASHA256(), Store: o.store, Central: centralSide{far}, Installed: func(provisioning.ContentRef) bool { return true },
		AgentPort: agents.Addr().(*net.TCPAddr).Port, Log: log, Now: o.Now, Rand: rand.Reader,
	})
	must(err)
	enrolment, err := o.central.CreateToken(ctx, centralclient.TokenRequest{Site: "LON", ValidSeconds: 3600})
	must(err)
	must(o.branch.Enrol(ctx, enrolment.Token))
	for _, do := range []func(context.Context) error{
		o.branch.Follow, o.branch.Deliver, o.branch.DeliverReports,
		func(ctx context.Context) error { return o.branch.Watch(ctx, func() {}) },
		func(ctx context.Context) error { return o.branch.ServeAgents(ctx, agents, o.branch.Handler()) },
	} {
		all.Go(func() { _ = do(work) })
	}
	eventually(t, "the history of runs", o.branch.HistoryComplete)
	return o
}

// confirmed does what may have to be confirmed.
func (o *office) confirmed(do func(confirm string) error) {
	o.t.Helper()
	err := do("")
	if provisioning.CodeOf(err) == provisioning.CodeConflict {
		_, confirm, _ := strings.Cut(strings.TrimSuffix(provisioning.NextOf(err), "."), "--confirm ")
		err = do(confirm)
	}
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *office) apply(text string) {
	o.t.Helper()
	o.confirmed(func(confirm string) error {
		_, err := o.admin.Apply(o.t.Context(), centralclient.ApplyRequest{
			Files: []provisioning.File{{Name: "all.yaml", Text: []byte(text)}}, Caution: centralclient.Caution{Confirm: confirm},
		})
		return err
	})
}

// settle waits until central and the branch know the same.
func (o *office) settle() {
	o.t.Helper()
	eventually(o.t, "central and the branch know the same", func() bool {
		// In this order: what has been told may publish another snapshot.
		messages, err := o.store.OutboxLength(o.t.Context())
		if err != nil {
			o.t.Fatal(err)
		}
		reports, err := o.store.UndeliveredReports(o.t.Context(), 1)
		if err != nil {
			o.t.Fatal(err)
		}
		sites, err := o.admin.Sites(o.t.Context())
		if err != nil || len(sites) == 0 || sites[0].Site != "LON" {
			o.t.Fatal(sites, err)
		}
		s, _ := o.branch.Snapshot()
		return messages+len(reports) == 0 && s != nil && s.Epoch == sites[0].Epoch && s.Number == sites[0].Number
	})
}

// compare asks both about a machine, and returns what they agree on.
func (o *office) compare(m provisioning.Machine, what string) policy.Decision {
	o.t.Helper()
	d := o.branch.Explain(m)
	in := centralclient.ExplainRequest{
		Machine: string(m.MAC), Site: "LON", At: o.Now().UTC().Format(time.RFC3339Nano), GUID: string(m.GUID),
		Firmware: map[provisioning.Arch]string{provisioning.ArchBIOS: "bios", provisioning.ArchUEFIx64: "uefi", provisioning.ArchHTTPBootx64: "http"}[m.Arch],
	}
	if in.GUID == "" {
		in.GUID = centralclient.NoGUID
	}
	e, err := o.admin.Explain(o.t.Context(), in)
	if err != nil {
		o.t.Fatal(err)
	}
	here, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		o.t.Fatal(err)
	}
	there, err := json.MarshalIndent(e.Decision, "", " ")
	if err != nil || e.Machine != m {
		o.t.Fatal(e.Machine, m, err)
	}
	if string(here) != string(there) {
		o.t.Fatalf("%s: about %+v at %s the branch says\n%s\nand central\n%s", what, m, o.Now(), here, there)
	}
	// And both put it in the same words.
	console, line := siteDesk{o.branch}.Explain(m), e.Lines()
	if strings.Join(console, "\n") != strings.Join(line[:len(console)], "\n") {
		o.t.Fatalf("the console says %q, central %q", console, line)
	}
	return d
}

// run lets a machine's agent do what was decided, to a point at which it stops by chance.
func (o *office) run(m provisioning.Machine, d policy.Decision) {
	o.t.Helper()
	ctx := o.t.Context()
	fatal := func(err error) {
		o.t.Helper()
		if err != nil {
			o.t.Fatal(err)
		}
	}
	b, err := o.branch.BootConfig(ctx, m, d, netip.MustParseAddr("127.0.0.1"))
	fatal(err)
	var boot branchclient.Boot
	fatal(json.Unmarshal(b, &boot))
	key, err := branchclient.LoadKey(filepath.Join(o.t.TempDir(), "key"))
	fatal(err)
	agent, err := branchclient.New(boot, key, o.Now())
	fatal(err)
	_, err = agent.Register(ctx, branchclient.Facts{MAC: m.MAC, GUID: m.GUID, UEFI: m.Arch.UEFI(), MemoryBytes: int64(o.IntN(4)) << 30})
	fatal(err)
	as, err := agent.Assignment(ctx)
	if err != nil { // its inventory may have changed what it gets
		return
	}
	// False is that it may not go on: the wipe cap is full by now, or its machine may get nothing any more.
	say := func(code int, action string) bool {
		o.ids++
		err := agent.Report(ctx, []provisioning.StatusMessage{{
			ID: fmt.Sprintf("%032x", o.ids), Site: "LON", Computer: as.Computer.Name, Run: as.Run.ID, Advertisement: as.Run.Advertisement, TaskSequence: as.Run.TaskSequence,
			Time:     o.Now().Add(-time.Duration(o.IntN(300)) * time.Minute).UTC(), // a client's clock says what it likes
			Sequence: as.NextStatus, Code: code, Action: action, Text: "text",
		}})
		if code := provisioning.CodeOf(err); code == provisioning.CodeUnavailable || code == provisioning.CodeConflict {
			return false
		}
		fatal(err)
		as.NextStatus++
		o.advance(time.Duration(o.IntN(120)) * time.Second)
		return true
	}
	if !say(provisioning.StatusPolicyReceived, "") || o.chance(15) {
		return
	}
	if as.Sequence.Name != "check" && !say(provisioning.StatusStepStarted, as.Sequence.Spec.Steps[0].Action()) {
		return
	}
	switch o.IntN(4) {
	case 0: // it is switched off
	case 1:
		say(provisioning.StatusSequenceFailed, "")
	default:
		say(provisioning.StatusSequenceDone, "")
	}
}

// happen lets something happen by chance.
func (o *office) happen(m provisioning.Machine, d policy.Decision) string {
	o.t.Helper()
	o.advance(time.Duration(o.IntN(1500)) * time.Second)
	computer := fmt.Sprint("pc-", o.IntN(8))
	switch n := o.IntN(20); {
	case n < 8 && d.Action != policy.Silent:
		if d = o.branch.Explain(m); d.Action != policy.Silent { // time has passed
			o.run(m, d)
			o.settle()
			return "after a run"
		}
	case n == 18:
		o.confirmed(func(confirm string) error {
			_, err := o.admin.Clear(o.t.Context(), centralclient.ClearRequest{Computers: []string{computer}, Confirm: confirm})
			return err
		})
		o.settle()
		return "after clearing " + computer
	case n == 19:
		o.confirmed(func(confirm string) error {
			_, err := o.admin.Approve(o.t.Context(), centralclient.ApprovalRequest{Site: "LON", Wipes: 1 + o.IntN(3), ValidMinutes: 60, Confirm: confirm})
			return err
		})
		o.settle()
		return "after an approval"
	}
	return "after a while"
}

// TestCentralExplainsWhatTheBranchDecides holds central's explanations against the decisions of a real branch, of random
// configurations, machines and times, while deployments run, and people give orders: both give the same answer, reason by
// reason, by what each has from the other.
func TestCentralExplainsWhatTheBranchDecides(t *testing.T) {
	actions, rules := map[policy.Action]int{}, map[string]int{}
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			o := openOffice(t, seed)
			o.settle()
			what := "at the beginning"
			for range 25 {
				var d policy.Decision
				var m provisioning.Machine
				for range 3 {
					m = o.machine()
					d = o.compare(m, what)
					actions[d.Action]++
					for _, r := range d.Reasons {
						rules[r.Rule]++
					}
				}
				what = o.happen(m, d)
			}
		})
	}
	// Else it would show nothing.
	for _, rule := range []string{
		policy.RuleIdentity, policy.RuleUnknown, policy.RuleResume, policy.RuleTime, policy.RuleBootImage, policy.RuleOnce, policy.RuleWipeCap, policy.RuleSite,
		policy.RuleChoice, policy.RuleTarget, policy.RuleRole, policy.RuleRequired, policy.RuleAvailable,
	} {
		if rules[rule] == 0 {
			t.Errorf("rule %q was never looked at: %v", rule, rules)
		}
	}
	if actions[policy.Boot] == 0 || actions[policy.Offer] == 0 || actions[policy.Silent] == 0 {
		t.Errorf("only these actions: %v", actions)
	}
	t.Logf("%v, %v", actions, rules)
}
