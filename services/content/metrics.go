package content

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// The values of the label "kind".
const (
	kindChunk    = "chunk"
	kindIndex    = "index"
	kindManifest = "manifest"
)

// metrics counts what a store does.
type metrics struct {
	chunksServed, bytesServed, chunksFetched, bytesFetched, bytesScrubbed prometheus.Counter
	inFlight, lost, syncDone, syncTotal                                   prometheus.Gauge
	damaged, mended, unmended                                             *prometheus.CounterVec
}

// newMetrics makes the metrics and registers them at reg, where it is set. A store that is opened again goes on counting
// where it stopped.
func newMetrics(reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return register[prometheus.Counter](reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "branchpoint_content_" + name, Help: help}))
	}
	gauge := func(name, help string) prometheus.Gauge {
		return register[prometheus.Gauge](reg, prometheus.NewGauge(prometheus.GaugeOpts{Name: "branchpoint_content_" + name, Help: help}))
	}
	kinds := func(name, help string) *prometheus.CounterVec {
		c := register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "branchpoint_content_" + name, Help: help}, []string{"kind"}))
		for _, kind := range []string{kindChunk, kindIndex, kindManifest} {
			c.WithLabelValues(kind)
		}
		return c
	}
	return &metrics{
		chunksServed:  counter("chunks_served_total", "Chunks given out."),
		bytesServed:   counter("served_bytes_total", "Bytes of chunks given out, compressed."),
		chunksFetched: counter("chunks_fetched_total", "Chunks fetched from upstream."),
		bytesFetched:  counter("fetched_bytes_total", "Bytes of chunks fetched from upstream, compressed."),
		bytesScrubbed: counter("scrubbed_bytes_total", "Bytes of chunks looked at for damage while nobody asked for them, compressed."),
		inFlight:      gauge("requests_in_flight", "Requests for content that are being answered."),
		lost:          gauge("lost", "Chunks that are damaged or missing here and could not be had from upstream so far."),
		syncDone:      gauge("sync_done_bytes", "How far the package version is that is being fetched, or was last."),
		syncTotal:     gauge("sync_total_bytes", "Size of the package version that is being fetched, or was last."),
		damaged:       kinds("damaged_total", "Damage found on the disk, before it was served, by what was damaged."),
		mended:        kinds("mended_total", "What was damaged or missing and came anew from upstream, when it was asked for."),
		unmended:      kinds("mend_failures_total", "Tries to get from upstream what was damaged or missing that failed."),
	}
}

// register registers a collector, or returns the one that was registered before under its name.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	if err := reg.Register(c); err != nil {
		if known, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
			if before, ok := known.ExistingCollector.(C); ok {
				return before
			}
		}
	}
	return c
}
