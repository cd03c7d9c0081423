package provisioning

import "time"

// WakeKey names a computer and the advertisement that it is woken for.
type WakeKey struct{ Computer, Advertisement string }

// Woken is what a branch remembers of a computer that it has woken by Wake-on-LAN. Each time that an advertisement becomes due
// on a computer, that is woken once, and a few times more as long as nothing is heard of it.
type Woken struct {
	Computer      string `json:"computer"`
	Advertisement string `json:"advertisement"`
	// Opened and Clear tell one becoming due from another. Opened is when the maintenance window opened, or the advertisement
	// started where that was later; zero where it is bound to neither.
	Opened time.Time `json:"opened,omitzero"`
	// Clear is the number of the newest order to clear the computer; 0 is none.
	Clear uint64 `json:"clear,omitempty"`
	// Tries is how often it was woken, at least 1; Last is when, the last time.
	Tries int       `json:"tries"`
	Last  time.Time `json:"last"`
}

// Key is what there is one of.
func (w *Woken) Key() WakeKey { return WakeKey{w.Computer, w.Advertisement} }
