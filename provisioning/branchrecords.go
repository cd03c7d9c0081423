package provisioning

import "time"

// Allowance is an approval to go beyond the wipe cap as a branch keeps it: one that came from central, or that a person gave
// at the branch's console.
type Allowance struct {
	// ID is central's number for the order, or 32 hexadecimal digits.
	ID string `json:"id"`
	// Wipes is how many were approved, Used how many of them have begun.
	Wipes   int       `json:"wipes"`
	Used    int       `json:"used"`
	Expires time.Time `json:"expires"`
	By      string    `json:"by"`
}

// Left is how many are left at that time.
func (a *Allowance) Left(now time.Time) int {
	if !now.Before(a.Expires) {
		return 0
	}
	return max(0, a.Wipes-a.Used)
}

// BranchChange is what a branch stores in one transaction; what is empty stays as it is.
type BranchChange struct {
	// Snapshot replaces the one in force.
	Snapshot *SignedSnapshot
	// Runs are new or changed ones; Messages are about them, and wait for central. Messages whose id is known stay as they
	// are.
	Runs     []Run
	Messages []StatusMessage
	// Discovered are computers that were unknown until now; Forget names those that central knows by now.
	Discovered []Computer
	Forget     []string
	// Inventories are the newest of computers, by name.
	Inventories map[string]Inventory
	// Allowances are new or changed ones.
	Allowances []Allowance
	// Woken are new or changed records of computers that were woken; ForgetWoken names those that say nothing any more.
	Woken       []Woken
	ForgetWoken []WakeKey
	// Obeyed are the sums of orders that this change obeys.
	Obeyed []SHA256
	// Reports wait for central.
	Reports []SiteReport
	// Identity replaces the branch's identity, and PasswordAttempts its counts of wrong passwords.
	Identity         []byte
	PasswordAttempts []byte
	// Resend queues every status message for central again: it may have lost what it had.
	Resend bool
	// HistoryComplete notes that the runs of before this disk are here, too, and HistoryMissing that it may lack some again.
	HistoryComplete, HistoryMissing bool
}

// BranchRecords is what a branch has stored beside its identity and its snapshot.
type BranchRecords struct {
	Runs        []Run // in the order in which they started
	Discovered  []Computer
	Inventories map[string]Inventory
	Allowances  []Allowance
	Obeyed      []SHA256
	Woken       []Woken
	// HistoryComplete is false as long as runs of before this disk may be missing.
	HistoryComplete bool
	// PasswordAttempts are the counts of wrong passwords as they were stored, nil if there are none.
	PasswordAttempts []byte
}
