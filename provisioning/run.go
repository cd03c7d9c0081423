package provisioning

import "time"

// RunState is how far a run of a task sequence has come.
type RunState string

// The states of a run.
const (
	// RunStarted: the agent has fetched its policy.
	RunStarted RunState = "started"
	// RunSucceeded and RunFailed are final.
	RunSucceeded RunState = "succeeded"
	RunFailed    RunState = "failed"
)

// Run is one run of an advertised task sequence on one computer, as the branch remembers it.
type Run struct {
	// ID is random, 32 hexadecimal digits.
	ID            string   `json:"id"`
	Computer      string   `json:"computer"`
	Advertisement string   `json:"advertisement"`
	TaskSequence  string   `json:"taskSequence"`
	State         RunState `json:"state"`
	// Spent is set when the first destructive step begins: from then on "once" is used up (FEATURES F11).
	Spent bool `json:"spent"`
	// SpentAt is when that was, by the branch's clock.
	SpentAt time.Time `json:"spentAt,omitzero"`
	// Cleared is set by a person's order to let the advertisement run again: the run counts for nothing any more but the
	// wipe cap.
	Cleared bool `json:"cleared,omitempty"`
	// Machine is what the run was given to.
	Machine Machine `json:"machine,omitzero"`
	// Unknown: no record named the machine when it was given the run.
	Unknown bool `json:"unknown,omitempty"`
	// Boot tells the boot that it was last given to from others, 32 hexadecimal digits: within one boot nothing runs again.
	Boot string `json:"boot,omitempty"`
	// Allowance is the ID of the approval by which it went beyond the wipe cap; empty where it did not.
	Allowance string    `json:"allowance,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// Status message codes, numbered as the field's classic products number them, so that existing reports and habits hold.
const (
	StatusPolicyReceived  = 10002 // the agent has its task sequence
	StatusSequenceStarted = 11140 // the task sequence started
	StatusStepStarted     = 11133 // a step started; our own number, the classic products report only its end
	StatusStepDone        = 11134 // a step was done
	StatusStepFailed      = 11135 // a step failed
	StatusRestart         = 11142 // the computer restarts
	StatusSequenceDone    = 11143 // the task sequence succeeded
	StatusSequenceFailed  = 11141 // the task sequence failed
)

// StatusMessage is one thing that happened in a run, reported by the agent, kept by branch and central.
type StatusMessage struct {
	// ID is random, 32 hexadecimal digits, made by the reporter: a message that arrives twice counts once.
	ID string `json:"id"`
	// Site and Computer say where; Run which run.
	Site          string `json:"site"`
	Computer      string `json:"computer"`
	Run           string `json:"run"`
	Advertisement string `json:"advertisement"`
	TaskSequence  string `json:"taskSequence"`
	// Time is the reporter's clock, UTC; Sequence orders messages of one run, from 1.
	Time     time.Time `json:"time"`
	Sequence int       `json:"sequence"`
	// Machine is what the run was given to. The branch adds it to the start of each step that overwrites disks, and to no
	// other message.
	Machine Machine `json:"machine,omitzero"`
	// Code is one of the Status constants.
	Code int `json:"code"`
	// Step is the step's position from 1, Title its name, Action its kind; zero where the message is not about a step.
	Step   int    `json:"step,omitempty"`
	Title  string `json:"title,omitempty"`
	Action string `json:"action,omitempty"`
	// ExitCode is a step's exit code; 0 is success.
	ExitCode int `json:"exitCode"`
	// Text is for people. Output is the last output of a command, at most MaxStatusOutput bytes.
	Text   string `json:"text"`
	Output string `json:"output,omitempty"`
	// Facts are the branch's, not the reporter's; nil before it has added them.
	Facts *RunFacts `json:"facts,omitempty"`
}

// RunFacts are what a branch knows of a run right after a message about it, by its own clock. They travel with the message, so
// that central, and an appliance that takes the branch's place, decide by the same history.
type RunFacts struct {
	State     RunState  `json:"state"`
	Spent     bool      `json:"spent,omitempty"`
	SpentAt   time.Time `json:"spentAt,omitzero"`
	Cleared   bool      `json:"cleared,omitempty"`
	Machine   Machine   `json:"machine,omitzero"`
	Unknown   bool      `json:"unknown,omitempty"`
	Allowance string    `json:"allowance,omitempty"`
	StartedAt time.Time `json:"startedAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// FactsOf are the facts of a run as it is.
func FactsOf(r *Run) *RunFacts {
	return &RunFacts{
		State: r.State, Spent: r.Spent, SpentAt: r.SpentAt, Cleared: r.Cleared, Machine: r.Machine, Unknown: r.Unknown, Allowance: r.Allowance,
		StartedAt: r.StartedAt, UpdatedAt: r.UpdatedAt,
	}
}

// maxAllowance bounds the ID of an approval in bytes.
const maxAllowance = 64

func (f *RunFacts) valid() bool {
	return f == nil || len(f.Allowance) <= maxAllowance && (f.Machine == Machine{} || f.Machine.check() == nil) &&
		(f.State == RunStarted || f.State == RunSucceeded || f.State == RunFailed)
}

// MaxStatusOutput bounds a status message's Output in bytes.
const MaxStatusOutput = 4096

// maxStatusTitle and maxStatusAction bound its Title and Action in bytes.
const (
	maxStatusTitle  = 256
	maxStatusAction = 64
)

// Validate checks a status message that came over the network: bounded fields, known shape.
func (m *StatusMessage) Validate() error {
	switch {
	case !ValidID(m.ID) || !ValidID(m.Run):
		return Errorf(CodeInvalid, "", "a status message's id or run is malformed")
	case len(m.Output) > MaxStatusOutput || len(m.Text) > MaxStatusOutput || len(m.Title) > maxStatusTitle || len(m.Action) > maxStatusAction:
		return Errorf(CodeInvalid, "", "status message %s is longer than allowed", m.ID)
	case m.Machine != (Machine{}) && m.Machine.check() != nil:
		return Errorf(CodeInvalid, "", "status message %s has a malformed machine", m.ID)
	case m.Code < 10000 || m.Code > 99999 || m.Step < 0 || m.Sequence < 1:
		return Errorf(CodeInvalid, "", "status message %s has a code, step or sequence out of range", m.ID)
	case !m.Facts.valid():
		return Errorf(CodeInvalid, "", "what status message %s says of its run is malformed", m.ID)
	}
	for _, n := range []string{m.Site, m.Computer, m.Advertisement, m.TaskSequence} {
		if err := checkName(n); err != nil {
			return Errorf(CodeInvalid, "", "status message %s: %w", m.ID, err)
		}
	}
	return nil
}

// ValidID reports whether s is 32 lower-case hexadecimal digits.
func ValidID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Assignment is what a branch gives an agent to do: one run, with everything it needs.
type Assignment struct {
	Run      Run          `json:"run"`
	Site     string       `json:"site"`
	Computer Computer     `json:"computer"`
	Sequence TaskSequence `json:"sequence"`
	// Content maps the names of the operating system images in the sequence to their content.
	Content map[string]ContentRef `json:"content"`
	// NextStatus is the Sequence number of the run's next status message.
	NextStatus int `json:"nextStatus"`
	// Secrets are the variables whose values are neither reported, shown nor logged, by name. They win over the others of the
	// same name.
	Secrets map[string]string `json:"secrets,omitempty"`
}
