package central

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
	"branchpoint/services/store"
)

// large is a central with a configuration of that many computers at 20 sites, and of collections half of which are queries;
// an advertisement is for each tenth collection.
func large(tb testing.TB, computers, collections int) (*Central, client.ImportRequest) {
	tb.Helper()
	db, err := store.Open(tb.Context(), filepath.Join(tb.TempDir(), "central.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	key, err := LoadKey(filepath.Join(tb.TempDir(), "key"), true, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := Open(tb.Context(), Config{Store: db, Key: key, Log: slog.New(slog.DiscardHandler), Now: time.Now, Rand: rand.Reader})
	if err != nil {
		tb.Fatal(err)
	}
	var docs, list strings.Builder
	document := func(kind, name, spec string) {
		fmt.Fprintf(&docs, "apiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: %s\n---\n", kind, name, spec)
	}
	for i := range 20 {
		document("Site", fmt.Sprintf("S%02d", i), "{pxe: {mode: proxy}}")
	}
	document("TaskSequence", "wipe", "{steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]}")
	for i := range collections {
		document("Collection", fmt.Sprintf("c%03d", i), fmt.Sprintf(`{query: 'computer.site == "S%02d" && computer.name.endsWith("%02d")', variables: {GROUP: "%d"}}`, i%20, i%100, i))
		if i%10 == 0 {
			document("Advertisement", fmt.Sprintf("a%03d", i), fmt.Sprintf("{taskSequence: wipe, collection: c%03d, purpose: required}", i))
		}
	}
	if _, err := c.Apply(tb.Context(), client.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(docs.String())}}}); err != nil {
		tb.Fatal(err)
	}
	list.WriteString("name,mac,site,var:ROOM\n")
	for i := range computers {
		fmt.Fprintf(&list, "pc-%05d,52:54:00:%02x:%02x:%02x,S%02d,%d\n", i, i>>16, i>>8&255, i&255, i%20, i%300)
	}
	return c, client.ImportRequest{File: provisioning.File{Name: "all.csv", Text: []byte(list.String())}}
}

// mustConfirm imports a list, and confirms whatever it is asked about.
func mustConfirm(tb testing.TB, c *Central, in client.ImportRequest) {
	tb.Helper()
	_, err := c.ImportComputers(tb.Context(), in)
	if provisioning.CodeOf(err) == provisioning.CodeConflict {
		_, in.Confirm, _ = strings.Cut(strings.TrimSuffix(provisioning.NextOf(err), "."), "--confirm ")
		_, err = c.ImportComputers(tb.Context(), in)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkImport measures the import of all computers into an empty central, with the publication of 20 sites' snapshots.
func BenchmarkImport(b *testing.B) {
	for _, n := range []int{1000, 20000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				b.StopTimer()
				c, list := large(b, n, 200)
				b.StartTimer()
				mustConfirm(b, c, list)
			}
		})
	}
}

// BenchmarkSmallChange measures a change of one document among 20,000, and how long of it another writer waits at most.
func BenchmarkSmallChange(b *testing.B) {
	c, list := large(b, 20000, 200)
	mustConfirm(b, c, list)
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	ctx, cancel := context.WithCancel(b.Context())
	longest := make(chan time.Duration)
	go func() {
		var most time.Duration
		for ctx.Err() == nil {
			begin := time.Now()
			_, _ = c.cfg.Store.AppendStatus(context.Background(), begin, nil)
			most = max(most, time.Since(begin))
			time.Sleep(time.Millisecond)
		}
		longest <- most
	}()
	b.ResetTimer()
	for i := range b.N {
		text := fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: pc-00001}\nspec: {site: S01, macAddresses: [\"52:54:00:00:00:01\"], description: \"%d\"}\n", i)
		if _, err := c.Apply(b.Context(), client.ApplyRequest{Files: []provisioning.File{{Name: "one.yaml", Text: []byte(text)}}}); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	cancel()
	b.ReportMetric(float64((<-longest).Milliseconds()), "ms-writer-waits")
	b.ReportMetric(float64(m.HeapAlloc>>20), "MiB-heap")
}
