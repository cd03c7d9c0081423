package benchmark

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
)

func figures(f ...float64) func(context.Context) (float64, error) {
	i := 0
	return func(context.Context) (float64, error) {
		i++
		return f[i-1], nil
	}
}

func TestMeasure(t *testing.T) {
	for _, c := range []struct {
		name   string
		higher bool
		want   float64
	}{{"rate: ours 20, best peer 10", true, 2}, {"duration: ours 20, best peer 5", false, 0.25}} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Contest{
				Name: "x", Unit: "u", HigherIsBetter: c.higher, Runs: 3,
				Ours:  Contender{"ours", figures(1000, 20, 1)},
				Peers: []Contender{{"a", figures(10, 10, 99)}, {"b", figures(5, 4, 6)}},
			}.Measure(t.Context())
			if err != nil || r.Ratio != c.want || r.Ours != 20 || r.Peers["a"] != 10 || r.Peers["b"] != 5 {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
}

// TestMeasureAgainstAGoal: where there are no peers the goal is what ours is held against.
func TestMeasureAgainstAGoal(t *testing.T) {
	for _, c := range []struct {
		name   string
		higher bool
		want   float64
	}{{"rate: 20, wanted 10", true, 2}, {"duration: 20, allowed 10", false, 0.5}} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Contest{Name: "x", Unit: "u", HigherIsBetter: c.higher, Runs: 3, Ours: Contender{"ours", figures(1000, 20, 1)}, Goal: 10}.Measure(t.Context())
			if err != nil || r.Ratio != c.want || r.Ours != 20 || r.Goal != 10 || r.Peers == nil || len(r.Peers) != 0 {
				t.Errorf("%+v %v", r, err)
			}
			b, err := json.Marshal(r)
			if want := fmt.Sprintf(`{"name":"x","unit":"u","ours":20,"peers":{},"goal":10,"ratio":%v}`, c.want); err != nil || string(b) != want {
				t.Errorf("%s, want %s", b, want)
			}
			if got, want := r.String(), fmt.Sprintf("x                        20 u        %.2f x   goal 10", c.want); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		})
	}
}

func TestMeasureFails(t *testing.T) {
	broken := errors.New("broken")
	ours := Contender{"ours", func(context.Context) (float64, error) { return 1, nil }}
	for name, c := range map[string]Contest{
		"no run":     {Name: "x", Unit: "u", Ours: ours, Peers: []Contender{ours}},
		"no peer":    {Name: "x", Unit: "u", Runs: 1, Ours: ours},
		"both":       {Name: "x", Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{ours}, Goal: 1},
		"no goal":    {Name: "x", Unit: "u", Runs: 1, Ours: ours, Goal: -1},
		"peer fails": {Name: "x", Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{{"p", func(context.Context) (float64, error) { return 0, broken }}}},
		"no figure":  {Name: "x", Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(0)}}},
		"no number":  {Name: "x", Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(math.NaN())}}},
		"endless":    {Name: "x", Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(math.Inf(1))}}},
		"no name":    {Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(1)}}},
		"a path":     {Name: "../x", Unit: "u", Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(1)}}},
		"no unit":    {Name: "x", Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(1)}}},
	} {
		if r, err := c.Measure(t.Context()); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestReport(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("BRANCHPOINT_BENCH_DIR", dir)
	Report(t, Contest{
		Name: "some-row", Unit: "s", Runs: 2,
		Ours:  Contender{"ours", figures(2.99999, 3)},
		Peers: []Contender{{"b", figures(12, 12)}, {"a", figures(10, 10)}},
	})
	b, err := os.ReadFile(filepath.Join(dir, "some-row.json"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(b), `{"name":"some-row","unit":"s","ours":3,"peers":{"a":10,"b":12},"ratio":3.333}`+"\n"; got != want {
		t.Errorf("stored %s, want %s", got, want)
	}
	var r Result
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if got, want := r.String(), "some-row                  3 s        3.33 x   a 10, b 12"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
