package central

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"branchpoint/provisioning"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what central counts. Label values are words of this package, never of the wire.
type metrics struct {
	requests, enrolments, status, reports *prometheus.CounterVec
	published, sent                       prometheus.Counter
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "branchpoint_central_" + name, Help: help}, labels)
	}
	return &metrics{
		requests:   counter("requests_total", "Requests that were answered, by route and HTTP status.", "route", "status"),
		enrolments: counter("enrolments_total", "Enrolments that were asked for, by result: accepted or refused.", "result"),
		status:     counter("status_messages_total", "Status messages that branches sent, by result: stored, duplicate where they were known, or refused where they are invalid: the log names these.", "result"),
		reports:    counter("site_reports_total", "Reports of machines that branches sent, by result: stored, duplicate where they were known, or refused where they are invalid: the log names these.", "result"),
		published:  prometheus.NewCounter(prometheus.CounterOpts{Name: "branchpoint_central_snapshots_published_total", Help: "Sites' snapshots that were made or changed."}),
		sent:       prometheus.NewCounter(prometheus.CounterOpts{Name: "branchpoint_central_snapshots_sent_total", Help: "Snapshots that were given to branches."}),
	}
}

// The values of the label "result".
const (
	resultAccepted  = "accepted"
	resultRefused   = "refused"
	resultStored    = "stored"
	resultDuplicate = "duplicate"
)

// register registers the metrics; reg may be nil.
func (m *metrics) register(reg prometheus.Registerer) error {
	// There from the beginning, so that the first is an increase.
	m.enrolments.WithLabelValues(resultAccepted)
	m.enrolments.WithLabelValues(resultRefused)
	for _, result := range []string{resultStored, resultDuplicate, resultRefused} {
		m.reports.WithLabelValues(result)
		m.status.WithLabelValues(result)
	}
	if reg == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.enrolments, m.status, m.reports, m.published, m.sent} {
		if err := reg.Register(c); err != nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "register central's metrics: %w", err)
		}
	}
	return nil
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the final status: those below 200 only announce one (RFC 9110 section 15.2).
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// routeOther is the route of requests that nothing answers.
const routeOther = "other"

// count counts requests by the pattern that they matched, which are few, and not by their path, which anybody chooses.
func (m *metrics) count(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w}
		defer func() {
			route := r.Pattern // set by the mux
			if route == "" || route == "/" {
				route = routeOther
			}
			status := sw.status
			if status == 0 {
				status = http.StatusOK // nothing was written: what net/http sends then
			}
			m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
		}()
		mux.ServeHTTP(sw, r)
	})
}

// healthPatience is how long the database may take to answer.
const healthPatience = 5 * time.Second

// health is the answer to /healthz.
type health struct {
	Status string                `json:"status"`
	Roles  map[string]roleHealth `json:"roles"`
}

type roleHealth struct {
	State string `json:"state"`
	Text  string `json:"text"`
}

// handleHealth says whether central can answer: 200, or 503 where it cannot read its database. Anybody may ask, so it says
// no more.
func (c *Central) handleHealth(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthPatience)
	defer cancel()
	h := health{"ok", map[string]roleHealth{"database": {"ok", "answers"}}}
	status := http.StatusOK
	if _, err := c.cfg.Store.Setting(ctx, "healthz"); err != nil && provisioning.CodeOf(err) != provisioning.CodeNotFound {
		c.cfg.Log.Error("the database does not answer", "error", err)
		h = health{"problem", map[string]roleHealth{"database": {"problem", "cannot be read"}}}
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Cache-Control", "no-store")
	c.answerStatus(w, r, status, h)
}
