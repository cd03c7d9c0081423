package provisioning

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// erased is a sound message that says that a run began to erase a disk.
func erased() StatusMessage {
	m := said(strings.Repeat("a", 32), 3, StatusStepStarted, 1, 0)
	m.ID, m.Action, m.Machine = strings.Repeat("b", 32), "partitionDisk", Machine{MAC: "52:54:00:00:00:01"}
	m.Facts = &RunFacts{State: RunStarted, Spent: true, SpentAt: m.Time, Machine: m.Machine, StartedAt: reportStart, UpdatedAt: m.Time}
	return m
}

// TestSalvage: whatever is malformed beside a message's core, that the run has erased is not lost.
func TestSalvage(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*StatusMessage)
		kept  func(*StatusMessage) bool
	}{
		"output": {func(m *StatusMessage) { m.Output = "x" + strings.Repeat("é", MaxStatusOutput/2) + "end" }, func(m *StatusMessage) bool {
			return strings.HasSuffix(m.Output, "éend") && utf8.ValidString(m.Output)
		}},
		"text":  {func(m *StatusMessage) { m.Text = "x" + strings.Repeat("é", MaxStatusOutput) }, func(m *StatusMessage) bool { return strings.HasPrefix(m.Text, "xé") && utf8.ValidString(m.Text) }},
		"title": {func(m *StatusMessage) { m.Title = strings.Repeat("t", 257) }, func(m *StatusMessage) bool { return len(m.Title) == 256 }},
		"step":  {func(m *StatusMessage) { m.Step = -1 }, func(m *StatusMessage) bool { return m.Step == 0 }},
		"names": {func(m *StatusMessage) { m.Advertisement, m.TaskSequence = "", "no name" }, func(m *StatusMessage) bool {
			return m.Advertisement == malformedName && m.TaskSequence == malformedName
		}},
		"machine": {func(m *StatusMessage) { m.Machine.MAC = "x" }, func(m *StatusMessage) bool { return m.Machine == Machine{} && m.Facts.Machine.MAC != "" }},
		"facts' machine": {func(m *StatusMessage) { m.Facts.Machine.GUID = "x" }, func(m *StatusMessage) bool {
			return m.Facts.Machine == m.Machine && m.Machine.MAC != ""
		}},
		"facts' state":     {func(m *StatusMessage) { m.Facts.State = "strange" }, func(m *StatusMessage) bool { return m.Facts.State == RunStarted }},
		"facts' allowance": {func(m *StatusMessage) { m.Facts.Allowance = strings.Repeat("7", 65) }, func(m *StatusMessage) bool { return m.Facts.Allowance == "" }},
	} {
		m := erased()
		given := *m.Facts
		m.Facts = &given
		c.spoil(&m)
		if m.Validate() == nil {
			t.Fatalf("%s: it is valid", name)
		}
		facts, before := m.Facts, given
		if !m.Salvage() || m.Validate() != nil || !c.kept(&m) || m.Action != "partitionDisk" || m.Facts == nil || !m.Facts.Spent {
			t.Errorf("%s: %+v, %+v", name, m, m.Facts)
		}
		if *facts != before && !strings.HasPrefix(name, "facts") {
			t.Errorf("%s: it changed what was given", name)
		}
	}
	for name, spoil := range map[string]func(*StatusMessage){
		"id": func(m *StatusMessage) { m.ID = "x" }, "run": func(m *StatusMessage) { m.Run = "" }, "site": func(m *StatusMessage) { m.Site = "" },
		"computer": func(m *StatusMessage) { m.Computer = "no name" }, "code": func(m *StatusMessage) { m.Code = 7 }, "sequence": func(m *StatusMessage) { m.Sequence = 0 },
	} {
		m := erased()
		if spoil(&m); m.Salvage() {
			t.Errorf("a message with a malformed %s is salvaged: %+v", name, m)
		}
	}
	sound := erased()
	if m := erased(); !m.Salvage() || !reflect.DeepEqual(m, sound) {
		t.Errorf("what is sound became %+v", m)
	}
}

// TestSalvageStatus: what of a message cannot even be decoded is left out.
func TestSalvageStatus(t *testing.T) {
	text, err := json.Marshal(erased())
	if err != nil {
		t.Fatal(err)
	}
	spoilt := func(field, value string) []byte {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(text, &fields); err != nil {
			t.Fatal(err)
		}
		fields[field] = json.RawMessage(value)
		out, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	received := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	for field, value := range map[string]string{
		"facts": `{"state":"started","spent":7}`, "time": `"yesterday"`, "text": `["a"]`, "machine": `"x"`, "exitCode": `1e99`, "step": `"first"`,
	} {
		m, ok := SalvageStatus(spoilt(field, value), received)
		if !ok || m.Validate() != nil || m.Action != "partitionDisk" || m.Time.IsZero() || (field == "time") != m.Time.Equal(received) || (field == "facts") != (m.Facts == nil) {
			t.Errorf("%s: %v %+v", field, ok, m)
		}
		// After a message with facts, too.
		r, before := RunRecord{}, said(m.Run, 1, StatusPolicyReceived, 0, 0)
		before.Facts = &RunFacts{State: RunStarted, StartedAt: reportStart, UpdatedAt: reportStart}
		r.Note(&before)
		if r.Note(&m); !r.Run.Spent || r.Run.SpentAt.IsZero() {
			t.Errorf("%s: %+v", field, r.Run)
		}
	}
	for _, text := range [][]byte{spoilt("run", "7"), spoilt("sequence", `"1"`), []byte("null"), []byte("[]"), []byte(`"x"`), nil} {
		if m, ok := SalvageStatus(text, received); ok {
			t.Errorf("%s is salvaged: %+v", text, m)
		}
	}
}
