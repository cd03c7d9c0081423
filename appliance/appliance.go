// Package appliance is the program that runs in branchpoint.img: it finds its settings on the medium, brings the network
// up, finds or claims the data disk, and runs the roles of its site. Every part is supervised by itself; what is missing
// or fails stands on the screen with what to do, and the rest goes on.
package appliance

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/events"
	"branchpoint/initramfs/tpm"
	"branchpoint/provisioning"
	"branchpoint/services/branch"

	"github.com/prometheus/client_golang/prometheus"
)

// The topics of the screen.
const (
	topicMedium   = "Medium"
	topicSettings = "Settings"
	topicNetwork  = "Network"
	topicDisk     = "Data disk"
	topicKeys     = "Site key"
	topicCentral  = "Central"
	topicContent  = "Content"
	topicPXE      = "PXE"
	topicAgents   = "Clients"
	topicMachines = "Machines"
	topicMetrics  = "Metrics"
)

// Options are what Run is given from outside.
type Options struct {
	// Version is the program's.
	Version string
	// Consoles are shown on and read from.
	Consoles []screen.Console
	Log      *slog.Logger
	Now      func() time.Time
}

// appliance is the running program.
type appliance struct {
	Options
	screen *screen.Screen
	events *events.Emitter

	metrics *metrics
	// sealer is this computer's TPM, for the site's private keys.
	sealer branch.Sealer
	// disksFree has a value while somebody takes or claims a disk.
	disksFree chan struct{}

	mu      sync.Mutex
	medium  string // the medium's device
	disks   []Candidate
	looked  bool              // whether the disks have been looked at
	data    string            // the data disk's device, while it is mounted
	lost    string            // the name of the data disk that was in use and is no more
	refused map[string]string // why a data disk is not this site's, by its name
	claim   *pendingClaim
	// How the data disk stands, and why.
	diskState           diskState
	diskDevice, diskWhy string
	agentsTLS           *tls.Config // how agents are spoken with, once that is known
	roles               prometheus.Gatherer
	desk                machineDesk // whom commands about machines ask, while a site runs
	offline             bool        // whether central is out of reach, and the site works by what it has
	console             consoleRights
}

// Run runs the appliance until ctx ends. It returns an error only if nothing can go on.
func Run(ctx context.Context, o Options) error {
	a := &appliance{Options: o, events: events.New(o.Now), disksFree: make(chan struct{}, 1), refused: map[string]string{}, metrics: newMetrics(), sealer: tpm.New(tpm.Device)}
	if err := allowOpenFiles(openFiles); err != nil {
		o.Log.Warn("fewer files may be open at once than a large site needs", "err", err)
	}
	a.screen = screen.New("Branchpoint "+o.Version+" appliance",
		[]string{topicMedium, topicSettings, topicNetwork, topicDisk, topicKeys, topicCentral, topicContent, topicPXE, topicAgents, topicMachines},
		o.Consoles, a.commands())
	go a.screen.Serve(ctx)

	a.releaseDataDisk()
	m, err := a.waitMedium(ctx)
	if err != nil {
		return err
	}
	settings := a.readSettings(m)
	a.screen.Set(topicNetwork, screen.Item{State: screen.Busy, Text: "bringing the network up"})
	links := a.startNetwork(ctx, settings.Network)

	go supervise(ctx, o.Log, a.screen, topicMetrics, func(ctx context.Context) error { return a.serveMetrics(ctx, links) })

	a.screen.Set(topicDisk, screen.Item{State: screen.Busy, Text: "looking at the disks"})
	a.mu.Lock()
	a.medium = m.Device
	a.mu.Unlock()
	ready := sync.OnceFunc(func() { a.emitReady(settings, m) })
	for wait := time.Duration(0); ; {
		disk, err := a.findDataDisk(ctx, links, wait, ready)
		if err != nil {
			return err
		}
		if wait, err = a.useDataDisk(ctx, disk, settings, links); err != nil {
			return err
		}
	}
}

// waitMedium looks for the medium until it is found: USB drives take seconds to appear.
func (a *appliance) waitMedium(ctx context.Context) (*medium, error) {
	m, err := loadMedium(mediumPath)
	if err == nil {
		a.screen.Set(topicMedium, screen.Item{State: screen.OK, Text: m.Device + " was read"})
		return m, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		a.Log.Warn("the medium is read again", "error", err)
	}
	a.screen.Set(topicMedium, screen.Item{State: screen.Busy, Text: "looking for the medium"})
	const patience = 20 * time.Second
	started := time.Now()
	for {
		m, err := findMedium(ctx, "/sys/block")
		if err == nil {
			err = m.save(mediumPath)
		}
		if err == nil {
			a.screen.Set(topicMedium, screen.Item{State: screen.OK, Text: m.Device + " was read; it may be pulled out"})
			return m, nil
		}
		if provisioning.CodeOf(err) != provisioning.CodeNotFound || time.Since(started) > patience {
			a.screen.Set(topicMedium, problem(err))
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

// readSettings decodes site.yaml. With one that is broken or empty the appliance goes on without a site.
func (a *appliance) readSettings(m *medium) provisioning.Appliance {
	s, ps := provisioning.DecodeAppliance(m.Site)
	if len(ps) > 0 {
		a.Log.Error("site.yaml is broken", "problems", ps.Error())
		a.screen.Set(topicSettings, screen.Item{
			State: screen.Problem, Text: ps.Error(),
			Next: "Put the stick into any PC, edit site.yaml there, and start the appliance again.",
		})
		return provisioning.Appliance{}
	}
	if s.Site == "" || s.Central.Address == "" || s.Central.CASHA256 == "" {
		a.screen.Set(topicSettings, screen.Item{
			State: screen.Problem, Text: "site.yaml names no site or no central",
			Next: "Put the stick into any PC and edit site.yaml, or make a stick for the site at central: branchpoint appliance image --site CODE",
		})
		return *s
	}
	a.screen.Set(topicSettings, screen.Item{State: screen.OK, Text: "site " + s.Site + ", central " + s.Central.Address})
	return *s
}

// emitReady tells that the appliance has started: its console works and it has looked at everything it was given.
func (a *appliance) emitReady(s provisioning.Appliance, m *medium) {
	a.mu.Lock()
	data := a.data
	a.mu.Unlock()
	secure, lockdown := secureBoot()
	a.Log.Info("appliance ready", "version", a.Version, "site", s.Site, "medium", m.Device, "data_disk", data, "secure_boot", secure, "lockdown", lockdown)
	a.emit("appliance-ready", map[string]any{
		"version": a.Version, "site": s.Site, "medium": m.Device, "data_disk": data, "secure_boot": secure, "lockdown": lockdown,
	})
}

func (a *appliance) emit(event string, fields map[string]any) {
	if err := a.events.Emit(event, fields); err != nil {
		a.Log.Warn("event not delivered", "event", event, "error", err)
	}
}

// secureBoot reports whether the firmware enforced Secure Boot for this boot (UEFI specification section 3.3, variable
// SecureBoot: after four octets of attributes, one octet that is 1), and the kernel's lockdown level, "" if unknown.
func secureBoot() (bool, string) {
	b, err := os.ReadFile("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c")
	on := err == nil && len(b) == 5 && b[4] == 1
	level := ""
	if b, err := os.ReadFile("/sys/kernel/security/lockdown"); err == nil {
		if _, rest, ok := strings.Cut(string(b), "["); ok {
			level, _, _ = strings.Cut(rest, "]")
		}
	}
	return on, level
}

// pause waits for d or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// plural is "1 package", "2 packages".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
