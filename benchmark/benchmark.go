// Package benchmark measures us beside our peers: in one run, by turns, on the same machine. Where nobody else does the same,
// it holds us against a goal. Tests of other packages use it; no program does.
package benchmark

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Contender is somebody who is measured. Run measures once and returns the figure in the unit of the contest.
type Contender struct {
	Name string
	Run  func(ctx context.Context) (float64, error)
}

// Contest is one row of the table.
type Contest struct {
	// Name is lower case with dashes, and without them the name of the benchmark after BenchmarkPeers_, or BenchmarkGoal_:
	// "dhcp-offers" is BenchmarkPeers_DHCPOffers. Unit is what the figures count: "s", "MB/s".
	Name, Unit string
	// HigherIsBetter is set for rates and unset for durations.
	HigherIsBetter bool
	// Runs is how often everybody is measured; the medians count. At least 1.
	Runs  int
	Ours  Contender
	Peers []Contender
	// Goal is the figure that is to be reached where there are no peers; 0 where there are.
	Goal float64
}

// names are those that a row, and the file it is stored in, may have.
var names = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// Result is a row of bench.json. Figures have four significant digits. Ratio is ours against the best peer, or against the
// goal where there are no peers: more than 1 means ahead, whatever the unit.
type Result struct {
	Name  string             `json:"name"`
	Unit  string             `json:"unit"`
	Ours  float64            `json:"ours"`
	Peers map[string]float64 `json:"peers"`
	Goal  float64            `json:"goal,omitempty"`
	Ratio float64            `json:"ratio"`
}

// Measure measures everybody Runs times, by turns, so that what slows the machine down slows all of them.
func (c Contest) Measure(ctx context.Context) (Result, error) {
	if !names.MatchString(c.Name) || c.Unit == "" {
		return Result{}, fmt.Errorf("benchmark %q, unit %q: it needs a name in lower case with dashes, and a unit", c.Name, c.Unit)
	}
	if c.Runs < 1 || (len(c.Peers) == 0) != (c.Goal > 0) {
		return Result{}, fmt.Errorf("benchmark %s: it needs at least one run, and either peers or a goal", c.Name)
	}
	all := append([]Contender{c.Ours}, c.Peers...)
	figures := make([][]float64, len(all))
	for range c.Runs {
		for i, who := range all {
			f, err := who.Run(ctx)
			if err == nil && (!(f > 0) || math.IsInf(f, 0)) {
				err = fmt.Errorf("the figure is %v", f)
			}
			if err != nil {
				return Result{}, fmt.Errorf("benchmark %s: measure %s: %w", c.Name, who.Name, err)
			}
			figures[i] = append(figures[i], f)
		}
	}
	ours, best := median(figures[0]), c.Goal
	r := Result{Name: c.Name, Unit: c.Unit, Ours: round(ours), Peers: map[string]float64{}, Goal: round(c.Goal)}
	for i, p := range c.Peers {
		f := median(figures[i+1])
		r.Peers[p.Name] = round(f)
		if best == 0 || c.HigherIsBetter == (f > best) {
			best = f
		}
	}
	r.Ratio = round(ours / best)
	if !c.HigherIsBetter {
		r.Ratio = round(best / ours)
	}
	return r, nil
}

// round keeps four significant digits: more than that no two runs agree on.
func round(f float64) float64 {
	f, err := strconv.ParseFloat(strconv.FormatFloat(f, 'g', 4, 64), 64)
	if err != nil {
		panic("benchmark: a number that was formatted is none: " + err.Error())
	}
	return f
}

// median is the middle figure, or the mean of the two in the middle.
func median(f []float64) float64 {
	f = slices.Sorted(slices.Values(f))
	n := len(f)
	return (f[(n-1)/2] + f[n/2]) / 2
}

// Report measures, logs the row, and stores it in the folder that BRANCHPOINT_BENCH_DIR names, if any.
func Report(tb testing.TB, c Contest) {
	tb.Helper()
	r, err := c.Measure(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Log(r)
	dir := os.Getenv("BRANCHPOINT_BENCH_DIR")
	if dir == "" {
		return
	}
	b, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, r.Name+".json"), append(b, '\n'), 0o644)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// String is the row as people read it.
func (r Result) String() string {
	var peers []string
	for n, f := range r.Peers {
		peers = append(peers, fmt.Sprintf("%s %.3g", n, f))
	}
	if r.Goal > 0 {
		peers = append(peers, fmt.Sprintf("goal %.3g", r.Goal))
	}
	slices.Sort(peers)
	return fmt.Sprintf("%-18s %8.3g %-6s %6.2f x   %s", r.Name, r.Ours, r.Unit, r.Ratio, strings.Join(peers, ", "))
}
