package client

import (
	"context"
	"net/url"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
)

// PathExplain is where administrators ask what a machine would get, and why.
const PathExplain = "/v1/explain"

// NoGUID is an ExplainRequest's GUID of a machine whose firmware gives none.
const NoGUID = "none"

// ExplainRequest names a machine. Only Machine is needed.
type ExplainRequest struct {
	// Machine is a computer's name, or a MAC address in any usual notation.
	Machine string
	// Site is where the machine would boot; empty is the computer's own site, or the only one that there is.
	Site string
	// At is when: RFC 3339, or a time of the site's time zone as "2026-11-20 22:00", or "22:00" for today; empty is now.
	At string
	// GUID is the SMBIOS GUID that its firmware gives, NoGUID for none; empty is what is known of the machine.
	GUID string
	// Firmware is bios, uefi or http (UEFI HTTP Boot); empty is what is known of the machine, else uefi.
	Firmware string
}

// Explanation is what a machine would get, and why.
type Explanation struct {
	Site    string               `json:"site"`
	Machine provisioning.Machine `json:"machine"`
	// At is the time that it is decided for.
	At time.Time `json:"at"`
	// Epoch and Number are those of the site's snapshot that it is decided by; zero where the site has none.
	Epoch    uint64          `json:"epoch"`
	Number   uint64          `json:"number"`
	Decision policy.Decision `json:"decision"`
	// Notes say in what the site's appliance may know better.
	Notes []string `json:"notes,omitempty"`
}

// Lines are the explanation for people, as the console of the site's appliance words it, with the notes after it.
func (e *Explanation) Lines() []string {
	out := policy.Explanation(e.Machine, &e.Decision)
	for _, n := range e.Notes {
		out = append(out, "note: "+n)
	}
	return out
}

// Explain says what a machine would get, and why, and changes nothing. It fails with CodeInvalid where it cannot be told which
// site is meant.
func (a *Admin) Explain(ctx context.Context, in ExplainRequest) (Explanation, error) {
	return get[Explanation](ctx, a, PathExplain, url.Values{
		"machine": {in.Machine}, "site": {in.Site}, "at": {in.At}, "guid": {in.GUID}, "firmware": {in.Firmware},
	})
}
