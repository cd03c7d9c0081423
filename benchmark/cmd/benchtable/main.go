// Benchtable prints the rows that benchmarks have stored (see the package benchmark) as a table, and writes them all as one
// JSON list, sorted by name. It fails if a row is missing, and prints the others all the same.
//
//	benchtable -dir build/bench -o build/bench.json
//	benchtable -dir build/bench -only tftp-throughput
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/google/renameio/v2"

	"branchpoint/benchmark"
)

// goals are the rows of a whole run, and the ratio that each is to reach. A row below its goal is shown as such and is no
// failure: how fast a computer is says nothing about whether the program is right.
var goals = map[string]float64{
	"boot-to-agent":   1.25,
	"deploy-image":    1,
	"redeploy-image":  2,
	"tftp-throughput": 1,
	"dhcp-offers":     1,

	"change-reaches-branch": 1,
	"import-and-resolve":    1,
	"large-snapshot":        1,
	"large-snapshot-memory": 1,
}

func main() {
	dir := flag.String("dir", "build/bench", "directory of the stored rows")
	out := flag.String("o", "", "file to write the list to; empty: none")
	only := flag.String("only", "", "the one row that is expected; empty: all")
	flag.Parse()
	expected := slices.Sorted(maps.Keys(goals))
	if *only != "" {
		expected = []string{*only}
	}
	if err := run(os.Stdout, *dir, *out, expected); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

// run prints and writes what there is, and then says what is wrong with it.
func run(w io.Writer, dir, out string, expected []string) error {
	rows, err := read(dir)
	err = errors.Join(err, check(rows, expected))
	if len(rows) > 0 {
		err = errors.Join(err, table(w, rows))
	}
	if out != "" {
		err = errors.Join(err, write(out, rows))
	}
	return err
}

// read returns the rows stored in dir that can be read, sorted by name, and what is wrong with the others.
func read(dir string) ([]benchmark.Result, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list rows: %w", err)
	}
	rows := []benchmark.Result{}
	var wrong error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		r, err := readRow(filepath.Join(dir, e.Name()), name)
		if err != nil {
			wrong = errors.Join(wrong, err)
			continue
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b benchmark.Result) int { return strings.Compare(a.Name, b.Name) })
	return rows, wrong
}

func readRow(path, name string) (benchmark.Result, error) {
	f, err := os.Open(path)
	if err != nil {
		return benchmark.Result{}, fmt.Errorf("read row: %w", err)
	}
	defer f.Close()
	var r benchmark.Result
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return r, fmt.Errorf("read row %s: %w", path, err)
	}
	if r.Name != name {
		return r, fmt.Errorf("read row %s: its name is %q", path, r.Name)
	}
	if r.Unit == "" || !(r.Ours > 0) || !(r.Ratio > 0) || len(r.Peers) == 0 && !(r.Goal > 0) {
		return r, fmt.Errorf("read row %s: it lacks unit, figure, ratio, or peers and a goal", path)
	}
	return r, nil
}

// check names the rows that are expected and missing, and those of which no whole run would notice the lack.
func check(rows []benchmark.Result, expected []string) error {
	has := map[string]bool{}
	var unknown, missing []string
	for _, r := range rows {
		has[r.Name] = true
		if _, ok := goals[r.Name]; !ok {
			unknown = append(unknown, r.Name)
		}
	}
	for _, n := range expected {
		if !has[n] {
			missing = append(missing, n)
		}
	}
	var err error
	if len(missing) > 0 {
		err = fmt.Errorf("no row for %s: its benchmark failed, was not run, or does not report under that name", strings.Join(missing, ", "))
	}
	if len(unknown) > 0 {
		err = errors.Join(err, fmt.Errorf("row without a goal: %s; add it to the list in benchmark/cmd/benchtable", strings.Join(unknown, ", ")))
	}
	return err
}

// table prints one line per row. A ratio of more than 1 is ahead of the best peer, or of what is wanted where there is none.
func table(w io.Writer, rows []benchmark.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "benchmark\tunit\tours\tratio\tgoal\t\tpeers")
	for _, r := range rows {
		goal, met := "-", ""
		if g, ok := goals[r.Name]; ok {
			goal, met = fmt.Sprintf("%.2f", g), "met"
			if r.Ratio < g {
				met = "missed"
			}
		}
		var peers []string
		for _, n := range slices.Sorted(maps.Keys(r.Peers)) {
			peers = append(peers, fmt.Sprintf("%s %.4g", n, r.Peers[n]))
		}
		if r.Goal > 0 {
			peers = append(peers, fmt.Sprintf("wanted: %.4g", r.Goal))
		}
		fmt.Fprintf(t, "%s\t%s\t%.4g\t%.2f\t%s\t%s\t%s\n", r.Name, r.Unit, r.Ours, r.Ratio, goal, met, strings.Join(peers, ", "))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print the table: %w", err)
	}
	return nil
}

// write stores the list; it is an empty one where there are no rows.
func write(path string, rows []benchmark.Result) error {
	if rows == nil {
		rows = []benchmark.Result{}
	}
	b, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
