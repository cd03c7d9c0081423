package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"

	"branchpoint/appliance/screen"
	"branchpoint/services/pxe"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"
)

// metricsPort is the TCP port of /metrics and /healthz, plain HTTP.
const metricsPort = 9464

// metrics are the appliance's own, beside its roles'.
type metrics struct {
	registry    *prometheus.Registry
	free, total prometheus.Gauge
	state       *prometheus.GaugeVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		free:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "branchpoint_appliance_data_disk_free_bytes", Help: "Room left on the data disk; 0 without one."}),
		total:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "branchpoint_appliance_data_disk_size_bytes", Help: "Size of the data disk's file system; 0 without one."}),
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "branchpoint_appliance_data_disk_state", Help: "1 for the state the data disk is in, 0 for the others.",
		}, []string{"state"}),
	}
	m.registry.MustRegister(m.free, m.total, m.state, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.disk(diskMissing)
	return m
}

// disk notes the data disk's state.
func (m *metrics) disk(now diskState) {
	for _, s := range diskStates {
		value := 0.0
		if s == now {
			value = 1
		}
		m.state.WithLabelValues(string(s)).Set(value)
	}
}

// room notes how much room the data disk has.
func (m *metrics) room(s diskSight) {
	m.free.Set(float64(s.Free))
	m.total.Set(float64(s.Total))
}

// setRoles makes the metrics of the site's roles part of the appliance's; nil takes them out.
func (a *appliance) setRoles(g prometheus.Gatherer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roles = g
}

// gather gives the appliance's metrics, and its roles' while they run.
func (a *appliance) gather() prometheus.Gatherers {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.roles == nil {
		return prometheus.Gatherers{a.metrics.registry}
	}
	return prometheus.Gatherers{a.metrics.registry, a.roles}
}

// roleHealth is one role's part of the answer to /healthz.
type roleHealth struct {
	// State is "ok", "busy" (it works, and waits for something) or "problem".
	State string `json:"state"`
	// Text is for a person.
	Text string `json:"text"`
}

// health is the answer to /healthz.
type health struct {
	// Status is "ok", or "problem" if a role is. That the site works without central is no problem of the appliance: its
	// role says so, and deployments go on.
	Status string                `json:"status"`
	Roles  map[string]roleHealth `json:"roles"`
}

// healthTopics are the topics of the screen that say how a role stands, with what healthz calls the role and says of it.
// The words on the screen stay there: they name interfaces, disks and sites.
var healthTopics = []struct{ topic, role, ok, busy, problem string }{
	{topicSettings, "settings", "read", "being read", "site.yaml is missing, broken or empty"},
	{topicNetwork, "network", "up", "waits for an address or a card", "an interface has no network"},
	{topicDisk, "data-disk", "in use", "being looked at", "cannot be used"},
	{topicKeys, "site-key", "is here", "being opened", "cannot be opened, or waits for the data disk"},
	{topicCentral, "central", "in step", "being reached", "not in step with central"},
	{topicContent, "content", "complete", "being copied", "cannot be copied or kept"},
	{topicPXE, "pxe", "serves, or is off", "waits for an interface", "does not serve"},
	{topicAgents, "clients", "are served", "wait for an interface", "are not served"},
}

// healthOf says how the roles stand, of what the screen shows; offline is whether the site works without central.
func healthOf(items map[string]screen.Item, offline bool) health {
	h := health{Status: "ok", Roles: map[string]roleHealth{}}
	for _, t := range healthTopics {
		it, ok := items[t.topic]
		if !ok {
			continue // not begun
		}
		switch {
		case it.State == screen.Problem && offline && t.topic == topicCentral:
			h.Roles[t.role] = roleHealth{"problem", "out of step with central; deployments go on by what is here"}
		case it.State == screen.Problem:
			h.Status = "problem"
			h.Roles[t.role] = roleHealth{"problem", t.problem}
		case it.State == screen.Busy:
			h.Roles[t.role] = roleHealth{"busy", t.busy}
		default:
			h.Roles[t.role] = roleHealth{"ok", t.ok}
		}
	}
	return h
}

// metricsHandler answers /metrics and /healthz.
func (a *appliance) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		promhttp.HandlerFor(a.gather(), promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		h := healthOf(a.screen.Items(), a.isOffline())
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if h.Status != "ok" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(h) // who asked went away: nothing to do about it
	})
	return mux
}

// serveMetrics answers on every interface that serves clients, until ctx ends or one fails.
func (a *appliance) serveMetrics(ctx context.Context, l *links) error {
	return l.onServing(ctx, nil, func() {}, func(ctx context.Context, serving []pxe.Interface) error {
		g, ctx := errgroup.WithContext(ctx)
		var addrs []string
		var failed error
		for _, i := range serving {
			var lc net.ListenConfig
			listener, err := lc.Listen(ctx, "tcp4", net.JoinHostPort(i.Prefix.Addr().String(), strconv.Itoa(metricsPort)))
			if err != nil {
				failed = errors.Join(failed, err)
				continue
			}
			addrs = append(addrs, listener.Addr().String())
			g.Go(func() error { return serveHTTP(ctx, listener, &http.Server{Handler: a.metricsHandler()}) })
		}
		if failed != nil {
			g.Go(func() error { return failed }) // through the group, so that those that listen end and are waited for
		} else {
			a.screen.Set(topicMetrics, screen.Item{State: screen.OK, Text: "/metrics and /healthz on " + strings.Join(addrs, ", ")})
		}
		return g.Wait()
	})
}
