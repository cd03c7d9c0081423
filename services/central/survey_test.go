package central

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// BenchmarkAdvertisementStatus measures the count of 20 advertisements, half of which are for queries, over 20,000 computers with
// two runs each.
func BenchmarkAdvertisementStatus(b *testing.B) {
	const computers = 20000
	c, list := large(b, computers, 200)
	mustConfirm(b, c, list)
	now := time.Now().UTC()
	var batch []provisioning.StatusMessage
	for i := range 2 * computers {
		run := provisioning.Run{State: provisioning.RunSucceeded, Spent: true, SpentAt: now, StartedAt: now, UpdatedAt: now}
		batch = append(batch, provisioning.StatusMessage{
			ID: fmt.Sprintf("%032x", i), Run: fmt.Sprintf("%032x", i), Site: fmt.Sprintf("S%02d", i%20), Computer: fmt.Sprintf("pc-%05d", i%computers),
			Advertisement: fmt.Sprintf("a%03d", i%20*10), TaskSequence: "wipe", Time: now, Sequence: 1, Code: provisioning.StatusSequenceDone,
			Facts: provisioning.FactsOf(&run),
		})
		if len(batch) == client.MaxStatusBatch {
			if _, err := c.cfg.Store.AppendStatus(b.Context(), now, batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	b.ResetTimer()
	for range b.N {
		p, err := c.Advertisements(b.Context(), client.Page{})
		if err != nil || len(p.Items) != 20 {
			b.Fatal(p, err)
		}
	}
	b.StopTimer()
	s, err := c.survey(b.Context(), func(string) bool { return true })
	if err != nil {
		b.Fatal(err)
	}
	var with, without runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&with)
	runtime.KeepAlive(s)
	s = nil
	runtime.GC()
	runtime.ReadMemStats(&without)
	b.ReportMetric(float64(int64(with.HeapAlloc-without.HeapAlloc))/(1<<20), "MiB-survey")
}
