package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/pxe"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

// findDataDisk waits for a data disk, after a pause. Meanwhile agents are told to wait, where they know this appliance from
// before.
func (a *appliance) findDataDisk(ctx context.Context, l *links, before time.Duration, looked func()) (*mountedDisk, error) {
	work, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait() // the port is free again then
	defer stop()
	all.Go(func() { a.holdAgents(work, l) })
	if err := pause(ctx, before); err != nil {
		return nil, err
	}
	return a.waitDataDisk(ctx, looked)
}

// A data disk that fails within steady of being taken into use again is given a rest, so that it is not worn out.
const (
	steady = 2 * time.Minute
	rest   = 20 * time.Second
)

// useDataDisk runs what stands on the data disk until the disk is lost, or is found to be another site's, and takes it off
// then. It returns how long to leave the disk alone, and an error only when ctx ends.
func (a *appliance) useDataDisk(ctx context.Context, m *mountedDisk, settings provisioning.Appliance, l *links) (time.Duration, error) {
	work, stop := context.WithCancel(ctx)
	defer stop()
	w := newDiskWatch()
	var all sync.WaitGroup
	began := time.Now()
	all.Go(func() {
		a.watchDataDisk(work, w, m, func() {
			a.standStill()
			stop()
		})
	})
	switch {
	case settings.Site == "" || settings.Central.Address == "" || settings.Central.CASHA256 == "":
		<-work.Done() // the screen says what is missing; the console answers
	default:
		supervise(work, a.Log, a.screen, topicCentral, func(ctx context.Context) error {
			err := a.runSite(ctx, settings, l, w)
			if errors.Is(err, branch.ErrOtherSite) {
				a.refuseDataDisk(m, err)
				stop()
			}
			return err
		})
	}
	stop()
	all.Wait()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	a.standStill() // again: what was ending may have said otherwise
	a.unmountData(ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.data = ""
	if a.refused[m.name] == "" {
		a.lost = m.name
	}
	if a.diskState == diskFailing && time.Since(began) < steady {
		return rest, nil
	}
	return 0, nil
}

// refuseDataDisk notes that a data disk is not this site's. Nothing on it is touched from then on.
func (a *appliance) refuseDataDisk(m *mountedDisk, err error) {
	a.Log.Error("the data disk is not this site's", "disk", m.name, "error", err)
	a.mu.Lock()
	a.refused[m.name] = err.Error()
	a.mu.Unlock()
	a.setDisk(diskMissing, err.Error(), nil)
	a.screen.Set(topicDisk, problem(err))
}

// standStill says of every role that it waits for the data disk.
func (a *appliance) standStill() {
	for topic, text := range map[string]string{
		topicCentral: "waits for the data disk", topicContent: "waits for the data disk",
		topicKeys: "waits for the data disk", topicPXE: "silent: there is no data disk to note runs on", topicAgents: "are told to wait for the data disk",
	} {
		a.screen.Set(topic, screen.Item{State: screen.Problem, Text: text, Next: "See the data disk above."})
	}
}

// retryAfter is when agents are to ask again, in seconds.
const retryAfter = 5

// heldAgents answers agents while there is no data disk: what they want to report or to know is kept on it.
func (a *appliance) heldAgents(w http.ResponseWriter, _ *http.Request) {
	err := a.writable()
	if err == nil {
		err = errors.New("the data disk is being taken into use")
	}
	d := provisioning.NewProblemDocument(provisioning.Errorf(provisioning.CodeUnavailable,
		"Wait: it goes on by itself once the appliance has its data disk again. Its screen says what is wrong.", "%w", err))
	w.Header().Set("Content-Type", provisioning.ProblemContentType)
	w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	w.WriteHeader(d.Status)
	_ = json.NewEncoder(w).Encode(d) // the agent went away: nothing to do about it
}

// keepTLS keeps how agents are spoken with for when the data disk, which has the keys, is gone.
func (a *appliance) keepTLS(b *branch.Branch) error {
	config, err := b.TLS()
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.agentsTLS = config
	return nil
}

// holdAgents tells agents to wait, until ctx ends, where the certificate that they know is in memory.
func (a *appliance) holdAgents(ctx context.Context, l *links) {
	a.mu.Lock()
	config := a.agentsTLS
	a.mu.Unlock()
	if config == nil {
		return
	}
	for ctx.Err() == nil {
		err := l.onServing(ctx, nil, func() {}, func(ctx context.Context, serving []pxe.Interface) error {
			g, ctx := errgroup.WithContext(ctx)
			for _, i := range serving {
				g.Go(func() error {
					var lc net.ListenConfig
					listener, err := lc.Listen(ctx, "tcp4", net.JoinHostPort(i.Prefix.Addr().String(), strconv.Itoa(agentPort)))
					if err != nil {
						return err
					}
					return serveHTTP(ctx, listener, &http.Server{Handler: http.HandlerFunc(a.heldAgents), TLSConfig: config})
				})
			}
			return g.Wait()
		})
		if ctx.Err() == nil {
			a.Log.Warn("agents cannot be told to wait", "error", err)
			_ = pause(ctx, retryAfter*time.Second) // ends with ctx
		}
	}
}

// maxConnections bounds the connections to a small HTTP server.
const maxConnections = 64

// serveHTTP serves small requests on a listener until ctx ends, over TLS where the server has a configuration for it. It
// closes the listener.
func serveHTTP(ctx context.Context, l net.Listener, srv *http.Server) error {
	l = netutil.LimitListener(l, maxConnections)
	defer l.Close()
	srv.ReadTimeout, srv.WriteTimeout, srv.IdleTimeout, srv.MaxHeaderBytes = 10*time.Second, 30*time.Second, 30*time.Second, 16<<10
	srv.BaseContext = func(net.Listener) context.Context { return ctx }
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	var err error
	if srv.TLSConfig != nil {
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}
