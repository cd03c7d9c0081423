package appliance

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/benchmark"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/central"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"
)

// fleet is a configuration as a company of that size has it: computers evenly at sites, collections of which each has a query
// over a site's computers and a variable, and for each tenth collection an advertisement of a sequence that erases disks.
type fleet struct {
	sites, computers, collections int
	purpose                       provisioning.Purpose
}

func (f fleet) site(i int) string { return fmt.Sprintf("S%02d", i%f.sites) }

func (f fleet) computer(i int) (name, mac, guid string) {
	return fmt.Sprintf("pc-%05d", i), fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255), fmt.Sprintf("%08x-0000-4000-8000-52540000%04x", i, i&0xffff)
}

// documents are everything but the computers.
func (f fleet) documents() centralclient.ApplyRequest {
	var b strings.Builder
	document := func(kind, name, spec string) {
		fmt.Fprintf(&b, "apiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n---\n", kind, name, spec)
	}
	for i := range f.sites {
		document("Site", f.site(i), "{pxe: {mode: proxy}}")
	}
	document("TaskSequence", "wipe", "{steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]}")
	for i := range f.collections {
		name := fmt.Sprintf("c%03d", i)
		document("Collection", name, fmt.Sprintf(`{query: 'computer.site == "%s" && computer.variables["ROOM"] == "%d"', variables: {GROUP: "%d"}}`, f.site(i), i%100, i))
		if i%10 == 0 {
			document("Advertisement", "for-"+name, fmt.Sprintf("{taskSequence: wipe, collection: %s, purpose: %s}", name, f.purpose))
		}
	}
	return centralclient.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(b.String())}}}
}

// list are the computers.
func (f fleet) list() centralclient.ImportRequest {
	var b strings.Builder
	b.WriteString("name,mac,smbios guid,site,description,var:ROOM,var:OWNER\n")
	for i := range f.computers {
		name, mac, guid := f.computer(i)
		fmt.Fprintf(&b, "%s,%s,%s,%s,the desk by window %d,%d,owner-%d@example.com\n", name, mac, guid, f.site(i), i%7, i/f.sites%100, i)
	}
	return centralclient.ImportRequest{File: provisioning.File{Name: "all.csv", Text: []byte(b.String())}}
}

// inventories are what the branches report of all computers.
func (f fleet) inventories() map[string][]provisioning.SiteReport {
	out := map[string][]provisioning.SiteReport{}
	for i := range f.computers {
		name, _, _ := f.computer(i)
		out[f.site(i)] = append(out[f.site(i)], provisioning.SiteReport{
			ID: fmt.Sprintf("%032x", i), Site: f.site(i), Kind: provisioning.ReportInventory, At: time.Now().UTC(), Computer: name,
			Inventory: &provisioning.Inventory{
				Manufacturer: "Dell Inc.", Product: "OptiPlex 7090", Serial: fmt.Sprintf("SN%08d", i), AssetTag: fmt.Sprintf("asset %d", i),
				MemoryMiB: 16384, Firmware: "uefi", SecureBoot: true,
			},
		})
	}
	return out
}

// served is a central that serves on loopback, with its store on disk.
type served struct {
	*central.Central
	store   *store.Store
	address string
	admin   *centralclient.Admin
	stop    func() error
}

func serve(ctx context.Context, dir string) (*served, error) {
	key, err := central.LoadKey(filepath.Join(dir, "central.key"), true, rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &served{}
	if s.store, err = store.Open(ctx, filepath.Join(dir, "central.db")); err != nil {
		return nil, err
	}
	s.Central, err = central.Open(ctx, central.Config{Store: s.store, Key: key, Log: slog.New(slog.DiscardHandler), Now: time.Now, Rand: rand.Reader})
	if err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, s.store.Close())
	}
	s.address = l.Addr().String()
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(work, l) }()
	s.stop = func() error {
		cancel()
		return errors.Join(<-ended, s.store.Close())
	}
	token, err := s.NewAdminToken(ctx)
	if err == nil {
		s.admin, err = centralclient.NewAdmin(centralclient.AdminFile{Address: s.address, CA: string(s.CA()), Token: token}, time.Now)
	}
	if err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// configure puts a fleet in force as an admin does: documents and list by the API, and what is asked about is confirmed.
func (s *served) configure(ctx context.Context, f fleet) error {
	if _, err := s.admin.Apply(ctx, f.documents()); err != nil {
		return err
	}
	in := f.list()
	_, err := s.admin.ImportComputers(ctx, in)
	if provisioning.CodeOf(err) == provisioning.CodeConflict {
		_, in.Confirm, _ = strings.Cut(strings.TrimSuffix(provisioning.NextOf(err), "."), "--confirm ")
		_, err = s.admin.ImportComputers(ctx, in)
	}
	return err
}

// branchAt is what one process needs to be the branch of a site.
type branchAt struct {
	Dir, Site, Address string
	CA                 provisioning.SHA256
	Token              string
}

func (s *served) branch(ctx context.Context, dir, site string) (branchAt, error) {
	t, err := s.admin.CreateToken(ctx, site, time.Hour, false)
	return branchAt{Dir: dir, Site: site, Address: s.address, CA: s.CASHA256(), Token: t.Token}, err
}

// polled is central as a branch sees it. A value in asks is the number of the snapshot than which it asked for a newer one the
// last time.
type polled struct {
	centralSide
	asks chan uint64
}

func (p polled) Snapshot(ctx context.Context, epoch, number uint64, wait time.Duration) (*provisioning.SignedSnapshot, error) {
	select {
	case <-p.asks:
	default:
	}
	p.asks <- number
	return p.centralSide.Snapshot(ctx, epoch, number, wait)
}

// open opens an enrolled branch with its store on disk.
func (a branchAt) open(ctx context.Context) (br *branch.Branch, asks <-chan uint64, closeStore func() error, err error) {
	db, err := store.Open(ctx, filepath.Join(a.Dir, "branch.db"), store.Alone())
	if err != nil {
		return nil, nil, nil, err
	}
	far := polled{centralSide{centralclient.NewBranch(centralclient.BranchConfig{
		Address: a.Address, CASHA256: a.CA, Now: time.Now,
		Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() }, RootPinned: func() bool { return br.RootPinned() },
	})}, make(chan uint64, 1)}
	br, err = branch.New(ctx, branch.Config{
		Site: a.Site, CentralCA: a.CA, Store: db, Central: far, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Now: time.Now, Rand: rand.Reader,
	})
	if err == nil {
		err = br.Enrol(ctx, a.Token)
	}
	if err != nil {
		return nil, nil, nil, errors.Join(err, db.Close())
	}
	return br, far.asks, db.Close, nil
}

// inForce waits until a branch has verified and stored a snapshot that is newer than one.
func inForce(ctx context.Context, br *branch.Branch, number uint64) (*provisioning.Snapshot, error) {
	for {
		s, changed := br.Snapshot()
		if s != nil && s.Number > number {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

const describeOne = "apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: %s}\nspec: {site: S00, macAddresses: [\"%s\"], description: \"%d\"}\n"

// BenchmarkGoal_ChangeReachesBranch measures, with 1,000 computers at 20 sites, the time from sending an apply of one computer until
// its branch, which holds a long poll, has verified and stored the snapshot that it leads to.
func BenchmarkGoal_ChangeReachesBranch(b *testing.B) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Minute)
	defer cancel()
	s, err := serve(ctx, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	f := fleet{sites: 20, computers: 1000, collections: 200, purpose: provisioning.PurposeRequired}
	if err := s.configure(ctx, f); err != nil {
		b.Fatal(err)
	}
	at, err := s.branch(ctx, b.TempDir(), "S00")
	if err != nil {
		b.Fatal(err)
	}
	br, asks, closeStore, err := at.open(ctx)
	if err != nil {
		b.Fatal(err)
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = br.Follow(work) }() // ends with work
	present, err := inForce(ctx, br, 0)
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	benchmark.Report(b, benchmark.Contest{
		Name: "change-reaches-branch", Unit: "s", Runs: 11, Goal: 2,
		Ours: benchmark.Contender{Name: "branchpoint", Run: func(ctx context.Context) (float64, error) {
			for <-asks != present.Number { // until it holds the poll for the next one
			}
			n++
			name, mac, _ := f.computer(0)
			text := fmt.Appendf(nil, describeOne, name, mac, n)
			begin := time.Now()
			if _, err := s.admin.Apply(ctx, centralclient.ApplyRequest{Files: []provisioning.File{{Name: "one.yaml", Text: text}}}); err != nil {
				return 0, err
			}
			if present, err = inForce(ctx, br, present.Number); err != nil {
				return 0, err
			}
			took := time.Since(begin)
			if c := present.Computer(name); c == nil || c.Spec.Description != fmt.Sprint(n) {
				return 0, fmt.Errorf("snapshot %d says %+v of %s", present.Number, c, name)
			}
			return took.Seconds(), nil
		}},
	})
	stop()
	<-ended
	if err := errors.Join(closeStore(), s.stop()); err != nil {
		b.Error(err)
	}
}

// BenchmarkGoal_ImportAndResolve measures how long an empty central takes for 1,000 computers at 20 sites, in a list, and 200
// collections with 20 required advertisements, in documents: until every site's snapshot has been made and stored. What the
// import would erase is refused first, and then confirmed, as it is with an admin; that time counts.
func BenchmarkGoal_ImportAndResolve(b *testing.B) {
	f := fleet{sites: 20, computers: 1000, collections: 200, purpose: provisioning.PurposeRequired}
	benchmark.Report(b, benchmark.Contest{
		Name: "import-and-resolve", Unit: "s", Runs: 5, Goal: 5,
		Ours: benchmark.Contender{Name: "branchpoint", Run: func(ctx context.Context) (float64, error) {
			s, err := serve(ctx, b.TempDir())
			if err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := s.configure(ctx, f); err != nil {
				return 0, errors.Join(err, s.stop())
			}
			took := time.Since(begin)
			return took.Seconds(), errors.Join(f.published(ctx, s), s.stop())
		}},
	})
}

// published fails unless the sites' snapshots have all that is theirs.
func (f fleet) published(ctx context.Context, s *served) error {
	computers, advertisements := 0, 0
	for i := range f.sites {
		stored, err := s.store.SiteSnapshot(ctx, f.site(i))
		if err != nil {
			return err
		}
		var snapshot provisioning.Snapshot
		if err := json.Unmarshal(stored.Signed.Payload, &snapshot); err != nil {
			return err
		}
		if stored.Problem != "" {
			return fmt.Errorf("site %s: %s", f.site(i), stored.Problem)
		}
		computers, advertisements = computers+len(snapshot.Computers), advertisements+len(snapshot.Advertisements)
	}
	if computers != f.computers || advertisements == 0 {
		return fmt.Errorf("%d computers and %d advertisements are published", computers, advertisements)
	}
	return nil
}

// largeSnapshot is a central with a site of 20,000 computers, whose inventories it knows.
func largeSnapshot(b *testing.B) *served {
	b.Helper()
	s, err := serve(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	f := fleet{sites: 1, computers: 20_000, collections: 200, purpose: provisioning.PurposeRequired}
	if err := s.configure(b.Context(), f); err != nil {
		b.Fatal(err)
	}
	for site, reports := range f.inventories() {
		if err := s.store.TakeReports(b.Context(), time.Now(), site, reports, nil); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Publish(b.Context()); err != nil {
		b.Fatal(err)
	}
	stored, err := s.store.SiteSnapshot(b.Context(), "S00")
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("the snapshot has %d MB", len(stored.Signed.Payload)/1e6)
	return s
}

// BenchmarkGoal_LargeSnapshot measures how long a branch takes from asking for a snapshot of 20,000 computers until it has verified
// and stored it, and decides by it.
func BenchmarkGoal_LargeSnapshot(b *testing.B) {
	benchLarge(b, benchmark.Contest{Name: "large-snapshot", Unit: "s", Runs: 5, Goal: 10}, func(m measured) float64 { return m.Seconds })
}

// BenchmarkGoal_LargeSnapshotMemory measures the most memory that the process of that branch ever had, by when it has put another
// such snapshot in the place of the first.
func BenchmarkGoal_LargeSnapshotMemory(b *testing.B) {
	benchLarge(b, benchmark.Contest{Name: "large-snapshot-memory", Unit: "MB", Runs: 5, Goal: 300}, func(m measured) float64 { return m.Megabytes })
}

func benchLarge(b *testing.B, c benchmark.Contest, figure func(measured) float64) {
	s, n := largeSnapshot(b), 0
	c.Ours = benchmark.Contender{Name: "branchpoint", Run: func(ctx context.Context) (float64, error) {
		n++
		m, err := s.measureBranch(ctx, b.TempDir(), n)
		return figure(m), err
	}}
	benchmark.Report(b, c)
	if err := s.stop(); err != nil {
		b.Error(err)
	}
}

// measured is what the process of a branch says of itself.
type measured struct {
	Seconds   float64 // until the first snapshot was in force
	Megabytes float64 // the most memory that the process had (VmHWM)
}

// measureBranch runs a new branch of the site in a process of its own: it takes a snapshot, and then the next one.
func (s *served) measureBranch(ctx context.Context, dir string, n int) (m measured, err error) {
	at, err := s.branch(ctx, dir, "S00")
	if err != nil {
		return m, err
	}
	in, err := json.Marshal(at)
	if err != nil {
		return m, err
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), branchProcess+"="+string(in))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return m, err
	}
	if err := cmd.Start(); err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, cmd.Wait()) }()
	lines := bufio.NewReader(out)
	if _, err := lines.ReadString('\n'); err != nil { // the first one is in force
		return m, fmt.Errorf("wait for the first snapshot: %w", err)
	}
	text := fmt.Appendf(nil, describeOne, "pc-00000", "52:54:00:00:00:00", n)
	if _, err := s.admin.Apply(ctx, centralclient.ApplyRequest{Files: []provisioning.File{{Name: "one.yaml", Text: text}}}); err != nil {
		return m, errors.Join(err, cmd.Process.Kill())
	}
	return m, json.NewDecoder(lines).Decode(&m)
}

// branchProcess is the variable that makes this test program the process of a branch, a branchAt.
const branchProcess = "BRANCHPOINT_BENCH_BRANCH"

func TestMain(m *testing.M) {
	if in := os.Getenv(branchProcess); in != "" {
		if err := followTwice(context.Background(), in, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// followTwice takes two snapshots, says when the first one is in force, and then what it has measured.
func followTwice(ctx context.Context, in string, out io.Writer) error {
	var at branchAt
	if err := json.Unmarshal([]byte(in), &at); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	br, _, closeStore, err := at.open(ctx)
	if err != nil {
		return err
	}
	begin := time.Now()
	work, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan struct{})
	go func() { defer close(ended); _ = br.Follow(work) }() // ends with work
	first, err := inForce(ctx, br, 0)
	if err != nil {
		return err
	}
	m := measured{Seconds: time.Since(begin).Seconds()}
	fmt.Fprintln(out, "first")
	second, err := inForce(ctx, br, first.Number)
	if err != nil {
		return err
	}
	if len(first.Computers) != len(second.Computers) || len(second.Inventories) != len(second.Computers) || len(second.Computers) < 20_000 {
		return fmt.Errorf("%d computers, then %d with %d inventories", len(first.Computers), len(second.Computers), len(second.Inventories))
	}
	stop()
	<-ended
	if err := closeStore(); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		return fmt.Errorf("read the memory of the process: %w", err)
	}
	m.Megabytes = kib * 1024 / 1e6
	return json.NewEncoder(out).Encode(m)
}
