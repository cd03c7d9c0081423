package appliance

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/content"
	contentclient "branchpoint/services/content/client"
	"branchpoint/services/pxe"
	"branchpoint/services/store"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
)

// agentPort is the TCP port of the agents' HTTPS.
const agentPort = 443

// site is what runs once the appliance knows its site and has its data disk.
type site struct {
	*appliance
	settings provisioning.Appliance
	links    *links
	metrics  prometheus.Registerer
	branch   *branch.Branch
	central  *centralclient.Branch
	db       *store.Store
	content  *content.Store
	mender   *content.Mender
	// room says why so many bytes of content may not be kept now: nil if they may.
	room func(bytes int64) error
	// standing is how it stands with central.
	standing centralStanding

	mu        sync.Mutex
	installed map[provisioning.SHA256]bool // manifests whose content is here, whole
	pxeReady  bool
	serving   [2]uint64 // epoch and number of the snapshot for which "serving" was told
}

// centralSide is the branch's view of central's client.
type centralSide struct{ *centralclient.Branch }

func (c centralSide) Enrol(ctx context.Context, token string, csr []byte) (branch.Enrolment, error) {
	e, err := c.Branch.Enrol(ctx, token, csr)
	return enrolment(e), err
}

func (c centralSide) Renew(ctx context.Context, csr []byte) (branch.Enrolment, error) {
	e, err := c.Branch.Renew(ctx, csr)
	return enrolment(e), err
}

func enrolment(e centralclient.Enrolment) branch.Enrolment {
	return branch.Enrolment{Certificate: e.Certificate, SnapshotKey: e.SnapshotKey, Epochs: e.Epochs}
}

// runSite runs the site's roles until ctx ends or what they stand on fails. The watch of the data disk learns how to try the
// database.
func (a *appliance) runSite(ctx context.Context, settings provisioning.Appliance, l *links, watch *diskWatch) error {
	// Their own registry, as they may begin anew with a database and counts of their own.
	registry := prometheus.NewRegistry()
	db, err := openDatabase(ctx, watch, registry)
	if err != nil {
		return fmt.Errorf("open the branch's database: %w", err)
	}
	defer db.Close()
	defer watch.database.Store(nil)
	a.setRoles(registry)
	defer a.setRoles(nil)
	packages, err := content.Open(filepath.Join(dataDir, "content"), a.Log, content.Metrics(registry))
	if err != nil {
		return fmt.Errorf("open the content on the data disk: %w", err)
	}
	defer packages.Close()
	s := &site{appliance: a, settings: settings, links: l, metrics: registry, db: db, content: packages, room: a.roomFor, installed: map[provisioning.SHA256]bool{}}
	var br *branch.Branch
	s.central = centralclient.NewBranch(centralclient.BranchConfig{
		Address: settings.Central.Address, CASHA256: settings.Central.CASHA256, Now: a.Now,
		Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() }, RootPinned: func() bool { return br.RootPinned() },
		Recipient: func() string { return br.Recipient() },
	})
	br, err = branch.New(ctx, branch.Config{
		Site: settings.Site, CentralCA: settings.Central.CASHA256, EnrolmentToken: settings.Central.EnrolmentToken, Store: db, Central: centralSide{s.central}, Installed: s.isInstalled,
		Writable: a.writable, Own: a.hardware, Contact: s.contacted, AgentPort: agentPort, Log: a.Log, Now: a.Now, Rand: rand.Reader, Metrics: registry,
		Sealer: a.sealer, Keys: func(k branch.Keys) { a.showKeys(settings, k) },
	})
	if err != nil {
		return err
	}
	s.branch = br
	a.setDesk(siteDesk{br})
	defer a.setDesk(nil)
	s.mender = content.NewMender(packages, s.upstream())
	if err := a.keepTLS(br); err != nil {
		return err
	}
	if err := s.enrol(ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for topic, role := range map[string]func(context.Context) error{
		topicCentral: s.follow, "Status": br.Deliver, topicContent: s.syncContent, topicPXE: s.servePXE, topicAgents: s.serveAgents,
		"Reports": br.DeliverReports, topicMachines: s.watchMachines,
	} {
		wg.Go(func() { supervise(ctx, a.Log, a.screen, topic, role) })
	}
	wg.Go(func() {
		_ = guarded(ctx, a.Log, "looking for damaged content", func(ctx context.Context) error { return s.mender.Scrub(ctx, rand.Reader) })
	})
	wg.Wait()
	return ctx.Err()
}

// hardware is what the appliance's machine is recognised by, as far as that can be read.
func (a *appliance) hardware() provisioning.Hardware {
	h, err := network.Hardware("/sys")
	if err != nil {
		a.Log.Debug("what this machine is recognised by is not known in full", "error", err)
	}
	return h
}

// enrol repeats the enrolment until it succeeds.
func (s *site) enrol(ctx context.Context) error {
	for !s.branch.Enrolled() {
		s.screen.Set(topicCentral, screen.Item{State: screen.Busy, Text: enrollingText(s.settings.Central.Address, s.branch.Fingerprint())})
		err := s.branch.Enrol(ctx, s.settings.Central.EnrolmentToken)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.Log.Warn("enrolment failed and is tried again", "error", err)
		item := problem(err)
		item.Text += "\n" + enrollingText(s.settings.Central.Address, s.branch.Fingerprint())
		s.screen.Set(topicCentral, item)
		if err := pause(ctx, 5*time.Second); err != nil {
			return err
		}
	}
	s.screen.Set(topicCentral, centralItem(s.settings.Central.Address, s.settings.Site, nil, contact{}))
	return nil
}

// enrollingText names the key that is to be enrolled: where a person approves it at central, they compare the fingerprint.
func enrollingText(address, fingerprint string) string {
	return "enrolling at " + address + " with the key " + fingerprint
}

func (s *site) isInstalled(ref provisioning.ContentRef) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.installed[ref.Manifest]
}

// upstream is where the site's content comes from.
func (s *site) upstream() *contentclient.Client {
	return contentclient.New(s.central.URL(), s.central.HTTP())
}

// forgetLost notes which content is here no longer, whole: it is not offered until it has been fetched again.
func (s *site) forgetLost(snapshot *provisioning.Snapshot, damage content.Damage) {
	if damage.Lost == 0 {
		return
	}
	for _, ref := range snapshot.Content {
		if s.isInstalled(ref) && !s.content.Installed(ref) {
			s.mu.Lock()
			delete(s.installed, ref.Manifest)
			s.mu.Unlock()
		}
	}
}

// contentItem says what is here, and what the data disk has lost of it since the start.
func contentItem(packages int, damage content.Damage) screen.Item {
	item := screen.Item{State: screen.OK, Text: plural(packages, "package") + " here"}
	if damage.Found > 0 {
		item.Text += fmt.Sprintf("; %s of content were found damaged on the data disk and are replaced from central", plural(damage.Found, "piece"))
		item.Next = "Check the data disk, and replace it if this happens again."
	}
	return item
}

// syncContent fetches what the snapshot in force needs, again whenever it changes or some of it was lost.
func (s *site) syncContent(ctx context.Context) error {
	upstream := s.upstream()
	for {
		snapshot, changed := s.branch.Snapshot()
		damage, news := s.content.Damage()
		if snapshot != nil && snapshot.Site.Spec.DistributionPoint != nil {
			s.forgetLost(snapshot, damage)
			if err := s.syncSnapshot(ctx, upstream, snapshot, changed); err != nil {
				return err
			}
			s.tellServing()
		}
		select {
		case <-changed:
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// syncSnapshot fetches the content of one snapshot; it stops early, without an error, when another is in force.
func (s *site) syncSnapshot(ctx context.Context, upstream *contentclient.Client, snapshot *provisioning.Snapshot, changed <-chan struct{}) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-changed:
			stop()
		case <-work.Done():
		}
	}()
	var failed []error
	for _, ref := range smallestFirst(snapshot.Content) {
		if s.isInstalled(ref) {
			continue
		}
		name := fmt.Sprintf("%s version %d", ref.Package, ref.Version)
		if err := s.syncPackage(work, upstream, ref, name); err != nil {
			if work.Err() != nil {
				return ctx.Err()
			}
			if damage, _ := s.content.Damage(); damage.Lost > 0 {
				err = fmt.Errorf("the data disk has lost %s of package %s or others, and they cannot be replaced: %w", plural(damage.Lost, "piece"), name, err)
			} else {
				err = fmt.Errorf("copy package %s: %w", name, err)
			}
			s.Log.Error("content is not here", "package", ref.Package, "version", ref.Version, "error", err)
			failed = append(failed, err) // the others may be had
			continue
		}
		s.mu.Lock()
		s.installed[ref.Manifest] = true
		s.mu.Unlock()
		s.Log.Info("content installed", "package", ref.Package, "version", ref.Version)
		s.emit("content-installed", map[string]any{"package": ref.Package, "version": ref.Version, "bytes": ref.Size})
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	damage, _ := s.content.Damage()
	s.screen.Set(topicContent, contentItem(len(snapshot.Content), damage))
	return nil
}

// smallestFirst orders packages so that one that does not fit takes the room of as few others as possible.
func smallestFirst(refs []provisioning.ContentRef) []provisioning.ContentRef {
	refs = slices.Clone(refs)
	slices.SortStableFunc(refs, func(a, b provisioning.ContentRef) int { return cmp.Compare(a.Size, b.Size) })
	return refs
}

// noServing is what a role that serves clients shows while no interface can serve them.
func noServing() screen.Item {
	return screen.Item{State: screen.Busy, Text: "waiting for a network interface that serves clients", Next: "Connect a network card whose settings let clients be served."}
}

// serveAgents serves the agents' interface and their content on every serving interface.
func (s *site) serveAgents(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/content/v1/", content.NewReadHandler(s.content, s.branch.AuthorizeContent, s.mender))
	mux.Handle("/", s.branch.Handler())
	return s.links.onServing(ctx, nil, func() { s.screen.Set(topicAgents, noServing()) }, func(ctx context.Context, serving []pxe.Interface) error {
		return s.serveAgentsOn(ctx, mux, serving)
	})
}

// serveAgentsOn listens on the given interfaces until ctx ends or one fails. Every port is closed when it returns.
func (s *site) serveAgentsOn(ctx context.Context, handler http.Handler, serving []pxe.Interface) error {
	g, ctx := errgroup.WithContext(ctx)
	var addrs []string
	for _, i := range serving {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp4", net.JoinHostPort(i.Prefix.Addr().String(), strconv.Itoa(agentPort)))
		if err != nil {
			// Through the group, so that those that listen already end and are waited for.
			g.Go(func() error { return fmt.Errorf("listen for agents: %w", err) })
			break
		}
		addrs = append(addrs, l.Addr().String())
		g.Go(func() error { return s.branch.ServeAgents(ctx, l, handler) })
	}
	if len(addrs) == len(serving) {
		s.screen.Set(topicAgents, screen.Item{State: screen.OK, Text: "served on " + strings.Join(addrs, ", ")})
	}
	return g.Wait()
}

// servePXE runs the PXE service point as the snapshot in force says, and anew when that changes.
func (s *site) servePXE(ctx context.Context) error {
	for {
		snapshot, changed := s.branch.Snapshot()
		if snapshot == nil || snapshot.Site.Spec.PXE == nil {
			text := "off"
			if snapshot == nil {
				text = "waiting for the configuration from central"
			}
			s.screen.Set(topicPXE, screen.Item{State: screen.OK, Text: text})
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := s.pxeRole(ctx, snapshot.Site.Spec.PXE); err != nil {
			return err
		}
	}
}

// pxeRole runs the service point on every interface that the role names until the role changes (nil) or it fails.
func (s *site) pxeRole(ctx context.Context, role *provisioning.PXERole) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	go s.untilRoleChanges(work, role, stop)
	err := s.links.onServing(work, role.Interfaces, func() { s.screen.Set(topicPXE, noServing()) }, func(ctx context.Context, serving []pxe.Interface) error {
		return s.runPXE(ctx, role, serving)
	})
	if ctx.Err() == nil && work.Err() != nil {
		return nil
	}
	return err
}

// servicePoint is the part of a role that the service point is made of, nil where it is off. For all else the snapshot is
// asked with each decision: machines in the middle of their boot must not lose their service point over it.
func servicePoint(r *provisioning.PXERole) *provisioning.PXERole {
	if r == nil {
		return nil
	}
	return &provisioning.PXERole{Mode: r.Mode, Interfaces: r.Interfaces, ResponseDelaySeconds: r.ResponseDelaySeconds, DHCP: r.DHCP}
}

// untilRoleChanges calls stop when a snapshot says something else about what the service point is made of.
func (s *site) untilRoleChanges(ctx context.Context, role *provisioning.PXERole, stop func()) {
	for {
		snapshot, changed := s.branch.Snapshot()
		if !reflect.DeepEqual(servicePoint(snapshot.Site.Spec.PXE), servicePoint(role)) {
			stop()
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// tellServing emits, once for each snapshot, that everything in it is served.
func (s *site) tellServing() {
	snapshot, _ := s.branch.Snapshot()
	if snapshot == nil {
		return
	}
	for _, ref := range snapshot.Content {
		if !s.isInstalled(ref) {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if number := [2]uint64{snapshot.Epoch, snapshot.Number}; !s.pxeReady || s.serving == number {
		return
	}
	s.serving = [2]uint64{snapshot.Epoch, snapshot.Number}
	s.emit("serving", map[string]any{"epoch": snapshot.Epoch, "number": snapshot.Number})
}
