package client

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// PathAdvertisements is where administrators ask how far advertisements have come: all of them, or at …/{name}/computers one.
// PathUnprovisioned is where they ask which computers were never deployed.
const (
	PathAdvertisements = "/v1/advertisements"
	PathUnprovisioned  = "/v1/unprovisioned"
)

// DeploymentState is how far an advertisement has come on a computer.
type DeploymentState string

// The states of an advertisement on a computer, by the newest run that no order has cleared.
const (
	// Waiting: it is for the computer, and has not begun there.
	Waiting DeploymentState = "waiting"
	// Running: it has begun, and its end was not reported. A computer that was switched off stays so.
	Running   DeploymentState = "running"
	Succeeded DeploymentState = "succeeded"
	Failed    DeploymentState = "failed"
)

// Page asks for a part of a list, which is sorted.
type Page struct {
	// After is the Next of the part before; empty asks for the first one.
	After string
	// Limit bounds the part, 1 to MaxPage; 0 is MaxPage.
	Limit int
}

func (p Page) query() url.Values {
	if p.Limit == 0 {
		p.Limit = MaxPage
	}
	return url.Values{"after": {p.After}, "limit": {strconv.Itoa(p.Limit)}}
}

// AdvertisementStatus counts the computers of an advertisement that the caller may see, each once.
type AdvertisementStatus struct {
	Name         string               `json:"name"`
	TaskSequence string               `json:"taskSequence"`
	Purpose      provisioning.Purpose `json:"purpose"`
	// Collection is whom it is for, empty where it lists computers.
	Collection string `json:"collection,omitempty"`
	// Expired: nothing begins any more, and nothing waits.
	Expired   bool `json:"expired,omitempty"`
	Waiting   int  `json:"waiting"`
	Running   int  `json:"running"`
	Succeeded int  `json:"succeeded"`
	Failed    int  `json:"failed"`
}

// Deployment is an advertisement on one computer, or the last thing that ran on it.
type Deployment struct {
	Computer string `json:"computer"`
	// Site is where it ran, or, as long as it waits, the computer's own; empty where it is limited to none.
	Site string `json:"site,omitempty"`
	// State is empty where nothing ran, and nothing was asked about.
	State DeploymentState `json:"state,omitempty"`
	// Run, and what follows, is empty as long as it waits. Step is the number of the last step that was told of, Title its
	// name, ExitCode what it ended with, and Text the last message.
	Run           string    `json:"run,omitempty"`
	Advertisement string    `json:"advertisement,omitempty"`
	TaskSequence  string    `json:"taskSequence,omitempty"`
	Step          int       `json:"step,omitempty"`
	Title         string    `json:"title,omitempty"`
	ExitCode      int       `json:"exitCode,omitempty"`
	Text          string    `json:"text,omitempty"`
	StartedAt     time.Time `json:"startedAt,omitzero"`
	UpdatedAt     time.Time `json:"updatedAt,omitzero"`
}

// DeploymentPage is a part of an advertisement's computers, by name.
type DeploymentPage struct {
	// Advertisement counts all of them.
	Advertisement AdvertisementStatus `json:"advertisement"`
	Items         []Deployment        `json:"items"`
	// Next is the after of the part that follows; empty where there is none.
	Next string `json:"next,omitempty"`
}

// UnprovisionedPage is a part of the known computers on which no task sequence that erases a disk has ever succeeded, by name.
type UnprovisionedPage struct {
	// Count is how many there are, and Items are those of this part, each with the last run on it.
	Count int          `json:"count"`
	Items []Deployment `json:"items"`
	// Next is the after of the part that follows; empty where there is none.
	Next string `json:"next,omitempty"`
	// Unknown are machines that sites have told of and that no record names, the last seen first, at most MaxPage; the first
	// part alone has them.
	Unknown []UnknownMachine `json:"unknown,omitempty"`
}

// UnknownMachine is a machine that asked at a site and that no record names.
type UnknownMachine struct {
	Site    string               `json:"site"`
	Machine provisioning.Machine `json:"machine"`
	// LastSeen is when the site last told of it, by the site's clock, and Text what it told.
	LastSeen time.Time `json:"lastSeen"`
	Text     string    `json:"text"`
}

// Advertisements says how far advertisements have come.
func (a *Admin) Advertisements(ctx context.Context, p Page) (List[AdvertisementStatus], error) {
	return get[List[AdvertisementStatus]](ctx, a, PathAdvertisements, p.query())
}

// AdvertisementComputers says how far an advertisement has come on each of its computers: in one state, or in any ("").
// It fails with CodeNotFound where there is no such advertisement.
func (a *Admin) AdvertisementComputers(ctx context.Context, name string, state DeploymentState, p Page) (DeploymentPage, error) {
	q := p.query()
	q.Set("state", string(state))
	return get[DeploymentPage](ctx, a, PathAdvertisements+"/"+url.PathEscape(name)+"/computers", q)
}

// Unprovisioned says on which known computers no task sequence that erases a disk has ever succeeded: of one site, or of all ("").
func (a *Admin) Unprovisioned(ctx context.Context, site string, p Page) (UnprovisionedPage, error) {
	q := p.query()
	q.Set("site", site)
	return get[UnprovisionedPage](ctx, a, PathUnprovisioned, q)
}
