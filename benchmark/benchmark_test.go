package benchmark

import (
	"context"
	"errors"
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

func TestMeasureFails(t *testing.T) {
	broken := errors.New("broken")
	ours := Contender{"ours", figures(1, 1)}
	for name, c := range map[string]Contest{
		"no run":     {Ours: ours, Peers: []Contender{ours}},
		"no peer":    {Runs: 1, Ours: ours},
		"peer fails": {Runs: 1, Ours: ours, Peers: []Contender{{"p", func(context.Context) (float64, error) { return 0, broken }}}},
		"no figure":  {Runs: 1, Ours: ours, Peers: []Contender{{"p", figures(0)}}},
	} {
		if r, err := c.Measure(t.Context()); err == nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
