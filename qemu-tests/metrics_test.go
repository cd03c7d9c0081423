package qemutests

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// metrics are samples of Prometheus's text format by name and labels as they stand there.
type metrics map[string]float64

func (m metrics) memory() float64     { return m["process_resident_memory_bytes"] }
func (m metrics) goroutines() float64 { return m["go_goroutines"] }

var droppedSample = regexp.MustCompile(`^branchpoint_pxe_dropped_total\{reason="([^"]*)",service="([^"]*)"\}$`)

// dropsSince returns by how much the counters of dropped packets rose, as "service reason".
func (m metrics) dropsSince(before metrics) map[string]float64 {
	rose := map[string]float64{}
	for name, v := range m {
		if match := droppedSample.FindStringSubmatch(name); match != nil && v > before[name] {
			rose[match[2]+" "+match[1]] = v - before[name]
		}
	}
	return rose
}

func keys(m map[string]float64) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// metricsWatch samples the appliance's memory all the time, from a host in the office.
type metricsWatch struct {
	t      *testing.T
	client *http.Client
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// What was seen, to be read after stop.
	samples int
	// The most that was seen.
	memory, goroutines float64
}

func watchMetrics(t *testing.T, s *site) *metricsWatch {
	ctx, cancel := context.WithCancel(t.Context())
	w := &metricsWatch{t: t, client: s.lab.Namespace("observer", s.office, "10.77.0.20/24").HTTPClient(20 * time.Second), cancel: cancel}
	w.wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			m, err := w.get()
			if err != nil { // it may take long under the flood; how often it was seen is looked at in the end
				continue
			}
			w.samples++
			w.memory, w.goroutines = max(w.memory, m.memory()), max(w.goroutines, m.goroutines())
		}
	})
	t.Cleanup(w.stop)
	return w
}

func (w *metricsWatch) stop() {
	w.cancel()
	w.wg.Wait()
}

// fetch requires that the appliance tells its metrics within a minute.
func (w *metricsWatch) fetch() metrics {
	w.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		m, err := w.get()
		if err == nil && m.memory() > 0 {
			return m
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the appliance does not tell its metrics (%d samples): %v", len(m), err)
		}
	}
}

// settled requires that the appliance has no more than so many goroutines within two minutes: what the flood began has ended.
func (w *metricsWatch) settled(most float64) metrics {
	w.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		m := w.fetch()
		if m.goroutines() <= most {
			return m
		}
		if time.Now().After(deadline) {
			w.t.Errorf("the appliance's program still has %.0f goroutines, want %.0f at most", m.goroutines(), most)
			return m
		}
		time.Sleep(time.Second)
	}
}

func (w *metricsWatch) get() (metrics, error) {
	resp, err := w.client.Get("http://" + applianceAddr + ":9464/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("metrics: %s", resp.Status)
	}
	return parseMetrics(resp.Body)
}

// parseMetrics reads Prometheus's text format: lines "name{labels} value", comments, nothing else.
func parseMetrics(r io.Reader) (metrics, error) {
	m := metrics{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		line := sc.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		if at < 0 {
			return nil, fmt.Errorf("metrics: no value in %q", line)
		}
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		m[line[:at]] = v
	}
	return m, sc.Err()
}
