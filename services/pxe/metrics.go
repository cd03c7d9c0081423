package pxe

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the label "service".
const (
	serviceDHCP       = "dhcp"
	serviceBootServer = "bootserver"
	serviceTFTP       = "tftp"
	serviceHTTP       = "http"
)

// metrics counts what the service point does. Label values are words of this package, never of the wire.
type metrics struct {
	// dropped counts what came in and was not served, by reason: it got no answer, or an error. answers counts what was, by
	// kind.
	dropped, answers *prometheus.CounterVec
	// otherServer counts what clients ask of another DHCP server while this one is the site's.
	otherServer prometheus.Counter
	// wakes counts computers that were woken, each time; wakePackets the packets that were sent for it, by result.
	wakes       prometheus.Counter
	wakePackets *prometheus.CounterVec
}

// newMetrics makes the metrics and registers them at reg, where it is set. A service point that runs anew, with another
// configuration, goes on counting where the one before it stopped.
func newMetrics(reg prometheus.Registerer) *metrics {
	return &metrics{
		dropped:     counter(reg, "branchpoint_pxe_dropped_total", "Packets and requests that were not served, by service and reason: they got no answer, or an error.", "service", "reason"),
		answers:     counter(reg, "branchpoint_pxe_answers_total", "Packets and requests that were answered, by service and kind.", "service", "kind"),
		otherServer: counter(reg, "branchpoint_pxe_foreign_dhcp_requests_total", "Clients on our network that took the address of another DHCP server while this is the site's.").WithLabelValues(),
		wakes:       counter(reg, "branchpoint_pxe_wakes_total", "Computers that were woken by Wake-on-LAN, each time that they were.").WithLabelValues(),
		wakePackets: counter(reg, "branchpoint_pxe_wake_packets_total", "Wake-on-LAN packets, by result: sent, or failed to be.", "result"),
	}
}

func counter(reg prometheus.Registerer, name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	if reg == nil {
		return c
	}
	if err := reg.Register(c); err != nil {
		if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			if c, ok := known.ExistingCollector.(*prometheus.CounterVec); ok {
				return c
			}
		}
	}
	return c
}

func (m *metrics) drop(service, reason string) { m.dropped.WithLabelValues(service, reason).Inc() }
func (m *metrics) answer(service, kind string) { m.answers.WithLabelValues(service, kind).Inc() }
