package network

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestWatchCardsTellsWhatHasSettled(t *testing.T) {
	card := PCIDevice{Slot: "0000:00:03.0", Vendor: "10ec", Device: "8029"}
	other := PCIDevice{Slot: "0000:00:04.0", Vendor: "1022", Device: "2000"}
	all := Cards{Driven: 1}
	none := Cards{Undriven: []PCIDevice{card}}
	note := Cards{Driven: 1, Undriven: []PCIDevice{card}}
	two := Cards{Driven: 1, Undriven: []PCIDevice{card, other}}
	times := func(n int, c Cards) (list []Cards) {
		for range n {
			list = append(list, c)
		}
		return list
	}
	join := func(parts ...[]Cards) (list []Cards) {
		for _, p := range parts {
			list = append(list, p...)
		}
		return list
	}
	broken := Cards{Driven: -1} // stands for a look that fails
	for _, c := range []struct {
		name string
		seen []Cards
		told []Cards
	}{
		{"every card has a driver", times(20, all), nil},
		{"no card at all", times(20, Cards{}), nil},
		{"one never has a driver", times(20, none), []Cards{none}},
		{"one of several", times(20, note), []Cards{note}},
		{"a driver that takes its time", join(times(3, none), times(20, all)), nil},
		{"drivers that take their time one after the other", join(times(3, two), times(3, note), times(20, all)), nil},
		{"a driver that comes late", join(times(9, none), times(20, all)), []Cards{none, all}},
		{"a card that is plugged in beside it", join(times(9, none), times(9, note), times(9, two)), []Cards{none, note, two}},
		{"a second card with a driver is no news", join(times(9, note), times(9, Cards{Driven: 2, Undriven: note.Undriven})), []Cards{note}},
		{"looks that fail", join(times(3, none), times(9, broken), times(9, none)), []Cards{none}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := 0
			var told []Cards
			WatchCards(t.Context(), func() (Cards, error) {
				if now := c.seen[i]; now.Driven >= 0 {
					return now, nil
				}
				return Cards{}, errors.New("sysfs changed")
			}, func(context.Context, time.Duration) error {
				if i++; i == len(c.seen) {
					return context.Canceled
				}
				return nil
			}, func(now Cards) { told = append(told, now) })
			if !reflect.DeepEqual(told, c.told) {
				t.Errorf("told %v, want %v", told, c.told)
			}
		})
	}
}

func TestIDsAreAListThatFitsAnEvent(t *testing.T) {
	var many Cards
	for range 500 {
		many.Undriven = append(many.Undriven, PCIDevice{"0000:00:03.0", "10ec", "8029", "1af4", "1100"})
	}
	if b, err := json.Marshal(many.IDs()); err != nil || len(b) > 3000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if b, err := json.Marshal(Cards{}.IDs()); err != nil || string(b) != "[]" {
		t.Errorf("no cards are %s, %v", b, err)
	}
}
