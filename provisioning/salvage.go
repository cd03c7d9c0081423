package provisioning

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// malformedName stands where the name of a salvaged message's advertisement or task sequence was malformed.
const malformedName = "malformed"

// SalvageStatus takes of the JSON text of a status message what is sound, and reports whether that is enough: its id, run, site,
// computer, code and sequence. What else is malformed is left out, or cut: that a disk was erased must not be lost over it. A time
// that cannot be read becomes received. What it returns with true is valid.
func SalvageStatus(text []byte, received time.Time) (StatusMessage, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(text, &fields) != nil {
		return StatusMessage{}, false
	}
	var m StatusMessage
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		next := m
		one, err := json.Marshal(map[string]json.RawMessage{name: fields[name]})
		if err == nil && json.Unmarshal(one, &next) == nil {
			m = next
		}
	}
	if m.Time.IsZero() {
		m.Time = received.UTC()
	}
	return m, m.Salvage()
}

// Salvage leaves out, or cuts, what is malformed in a message whose id, run, site, computer, code and sequence are sound, and
// reports whether it is valid then.
func (m *StatusMessage) Salvage() bool {
	m.Title, m.Text = cutText(m.Title, maxStatusTitle), cutText(m.Text, MaxStatusOutput)
	if n := len(m.Output) - MaxStatusOutput; n > 0 { // its end says more
		m.Output = strings.ToValidUTF8(m.Output[n:], "")
	}
	if len(m.Action) > maxStatusAction {
		m.Action = ""
	}
	m.Step = max(0, m.Step)
	for _, name := range []*string{&m.Advertisement, &m.TaskSequence} {
		if checkName(*name) != nil {
			*name = malformedName
		}
	}
	if m.Machine != (Machine{}) && m.Machine.check() != nil {
		m.Machine = Machine{}
	}
	if m.Facts != nil {
		m.Facts = m.Facts.salvaged(m)
	}
	return m.Validate() == nil
}

// salvaged are the facts without what is malformed in them: above all, whether the run has erased stays.
func (f RunFacts) salvaged(m *StatusMessage) *RunFacts {
	if len(f.Allowance) > maxAllowance {
		f.Allowance = ""
	}
	if f.Machine != (Machine{}) && f.Machine.check() != nil {
		f.Machine = m.Machine
	}
	switch f.State {
	case RunStarted, RunSucceeded, RunFailed:
	default:
		f.State = stateAfter(m.Code)
	}
	return &f
}

// stateAfter is the state of a run by the code of a message about it.
func stateAfter(code int) RunState {
	switch code {
	case StatusSequenceDone:
		return RunSucceeded
	case StatusSequenceFailed:
		return RunFailed
	}
	return RunStarted
}

// cutText is at most the first n bytes of a text, whole characters.
func cutText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
