package branch

import (
	"context"
	"time"

	"branchpoint/provisioning"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what a branch counts. Label values are words of this package and of provisioning, never of the wire.
type metrics struct {
	runs, refusals, dropped, passwords              *prometheus.CounterVec
	registrations                                   prometheus.Counter
	keys                                            *prometheus.GaugeVec
	outbox, lastContact, snapshotEpoch, snapshotNum prometheus.Gauge
}

func newMetrics() *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	return &metrics{
		runs:          counter("branchpoint_branch_runs_total", "Runs that came into a state: started, succeeded or failed.", "state"),
		refusals:      counter("branchpoint_branch_refusals_total", "Agents' requests that were refused, by request and the refusal's code.", "request", "code"),
		dropped:       counter("branchpoint_branch_connections_dropped_total", "Agents' connections that were ended as there were too many, by reason.", "reason"),
		passwords:     counter("branchpoint_branch_passwords_total", "Passwords that were given at clients, by result: right, wrong, or too-early to be looked at.", "result"),
		registrations: prometheus.NewCounter(prometheus.CounterOpts{Name: "branchpoint_branch_registrations_total", Help: "Agents that exchanged a boot secret for a token."}),
		keys: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "branchpoint_branch_keys_state", Help: "1 for how the site's private keys are kept, 0 for the others: sealed to the TPM, plain, or locked: sealed and not to be opened.",
		}, []string{"state"}),
		outbox:        gauge("branchpoint_branch_outbox_messages", "Status messages that central has not acknowledged."),
		lastContact:   gauge("branchpoint_branch_central_contact_timestamp_seconds", "When central last answered, in seconds since 1970; 0 if it has not since the start."),
		snapshotEpoch: gauge("branchpoint_branch_snapshot_epoch", "The epoch of the snapshot in force; 0 if there is none."),
		snapshotNum:   gauge("branchpoint_branch_snapshot_number", "The number of the snapshot in force; 0 if there is none."),
	}
}

// What comes of a password: the values of the label "result".
const (
	passwordRight    = "right"
	passwordWrong    = "wrong"
	passwordTooEarly = "too-early"
)

// register registers the metrics; reg may be nil.
func (m *metrics) register(reg prometheus.Registerer) error {
	for _, s := range []provisioning.RunState{provisioning.RunStarted, provisioning.RunSucceeded, provisioning.RunFailed} {
		m.runs.WithLabelValues(string(s)) // there from the beginning, so that the first is an increase
	}
	for _, reason := range []string{droppedDrivenOut, droppedAddress, droppedAll} {
		m.dropped.WithLabelValues(reason)
	}
	for _, result := range []string{passwordRight, passwordWrong, passwordTooEarly} {
		m.passwords.WithLabelValues(result)
	}
	if reg == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.runs, m.refusals, m.dropped, m.passwords, m.registrations, m.keys, m.outbox, m.lastContact, m.snapshotEpoch, m.snapshotNum} {
		if err := reg.Register(c); err != nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "register the branch's metrics: %w", err)
		}
	}
	return nil
}

// inForce notes which snapshot is in force.
func (m *metrics) inForce(s *provisioning.Snapshot) {
	m.snapshotEpoch.Set(float64(s.Epoch))
	m.snapshotNum.Set(float64(s.Number))
}

// runChanged counts a run that has come into another state.
func (m *metrics) runChanged(before, now provisioning.Run) {
	if now.State != before.State {
		m.runs.WithLabelValues(string(now.State)).Inc()
	}
}

// connectionDropped counts a connection that was ended as there were too many.
func (m *metrics) connectionDropped(reason string) { m.dropped.WithLabelValues(reason).Inc() }

// contact notes that central has answered.
func (m *metrics) contact(now time.Time) { m.lastContact.Set(float64(now.Unix())) }

// countOutbox notes how long the outbox is. Where it cannot be counted, the last figure stays: the database tells of its
// failures itself.
func (b *Branch) countOutbox(ctx context.Context) {
	if n, err := b.cfg.Store.OutboxLength(ctx); err == nil {
		b.metrics.outbox.Set(float64(n))
	}
}

// keptAs notes how the private keys are kept.
func (m *metrics) keptAs(k Keys) {
	for state, is := range map[string]bool{"locked": k.Locked != nil, "plain": k.Locked == nil && k.Plain != nil, "sealed": k == Keys{}} {
		value := 0.0
		if is {
			value = 1
		}
		m.keys.WithLabelValues(state).Set(value)
	}
}
