package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// Caution is how a change is to be made.
type Caution struct {
	// DryRun only says what the change would do.
	DryRun bool `json:"dryRun,omitempty"`
	// Diff asks for the differences of the texts.
	Diff bool `json:"diff,omitempty"`
	// Confirm is the Confirm of the Danger that is accepted; empty accepts none.
	Confirm string `json:"confirm,omitempty"`
}

// ApplyRequest is configuration as a person gave it.
type ApplyRequest struct {
	Files []provisioning.File `json:"files"`
	// Prune deletes every document that is not in Files.
	Prune bool `json:"prune,omitempty"`
	Caution
}

// DeleteRequest names documents that shall no longer be in force.
type DeleteRequest struct {
	Documents []provisioning.Key `json:"documents"`
	Caution
}

// RollbackRequest says what to go back to: the whole configuration as it was after Change, or Document as it was in
// Revision.
type RollbackRequest struct {
	Change   uint64           `json:"change,omitempty"`
	Document provisioning.Key `json:"document,omitzero"`
	Revision int64            `json:"revision,omitempty"`
	Caution
}

// Effect is what a change did to a document.
type Effect string

// The effects of a change.
const (
	Created   Effect = "created"
	Changed   Effect = "changed"
	Deleted   Effect = "deleted"
	Unchanged Effect = "unchanged"
)

// ChangedDocument is one document of a change.
type ChangedDocument struct {
	Kind   provisioning.Kind `json:"kind"`
	Name   string            `json:"name"`
	Effect Effect            `json:"effect"`
	// Diff is the unified difference of the canonical texts, where it was asked for.
	Diff string `json:"diff,omitempty"`
}

// ChangeResult tells what a change did, or would do.
type ChangeResult struct {
	// Change is its number; 0 where it was a dry run, or changed nothing.
	Change uint64 `json:"change,omitempty"`
	// Documents are by kind, in the order in which kinds may refer to one another, then by name.
	Documents []ChangedDocument `json:"documents"`
	// Danger is set where the change needs to be confirmed; a dry run says so here, anything else is refused.
	Danger *Danger `json:"danger,omitempty"`
}

// Danger is what a change would start that cannot be undone.
type Danger struct {
	// Count is how many computers would begin to erase their disks because of it, and Computers the first of their names.
	Count     int      `json:"count"`
	Computers []string `json:"computers,omitempty"`
	// UnknownSites are the sites at which it would make unknown machines erase their disks, sorted.
	UnknownSites []string `json:"unknownSites,omitempty"`
	// Always are the advertisements that it would make run again at each boot, sorted.
	Always []string `json:"always,omitempty"`
	// Caps are the wipe caps that it would raise, by site.
	Caps []RaisedCap `json:"caps,omitempty"`
	// Text says all of it, for people.
	Text string `json:"text"`
	// Confirm is what confirms exactly this: a number of computers such as "12", "unknown", and the sum of the new wipe caps such
	// as "100/h", whichever there are, with a plus sign between two.
	Confirm string `json:"confirm"`
}

// RaisedCap is a wipe cap that a change raises: how many deployments that erase disks may begin at a site in an hour.
type RaisedCap struct {
	Site string `json:"site"`
	From int    `json:"from"`
	To   int    `json:"to"`
}

// ClearRequest names computers on which what has run may run again.
type ClearRequest struct {
	Computers []string `json:"computers"`
	// Confirm is the Confirm of the Danger that is accepted; empty accepts none.
	Confirm string `json:"confirm,omitempty"`
}

// ApprovalRequest lets a site begin deployments that erase disks beyond its wipe cap.
type ApprovalRequest struct {
	Site string `json:"site"`
	// Wipes is how many, 1 to 100000, and ValidMinutes for how long, 1 to 10080.
	Wipes        int    `json:"wipes"`
	ValidMinutes int    `json:"validMinutes"`
	Confirm      string `json:"confirm,omitempty"`
}

// OrderResult are the orders that were given.
type OrderResult struct {
	Orders []provisioning.Order `json:"orders"`
}

// Settings are central's own.
type Settings struct {
	// WipesUnconfirmed is how many computers one change may make erase their disks without being confirmed, 0 to 100000.
	WipesUnconfirmed int `json:"wipesUnconfirmed"`
}

// SettingsRequest replaces central's settings.
type SettingsRequest struct {
	Settings
	// Confirm is the new wipesUnconfirmed where that is raised; empty confirms nothing.
	Confirm string `json:"confirm,omitempty"`
}

// Apply puts configuration in force, all of it or nothing. Faults come back as provisioning.Problems; a change that is
// dangerous and not confirmed as CodeConflict.
func (a *Admin) Apply(ctx context.Context, in ApplyRequest) (ChangeResult, error) {
	return post[ChangeResult](ctx, a, PathApply, in)
}

// Delete takes documents out of force. It fails with CodeConflict as long as others refer to them.
func (a *Admin) Delete(ctx context.Context, in DeleteRequest) (ChangeResult, error) {
	return post[ChangeResult](ctx, a, PathDelete, in)
}

// Rollback goes back to what was in force before, by a new change.
func (a *Admin) Rollback(ctx context.Context, in RollbackRequest) (ChangeResult, error) {
	return post[ChangeResult](ctx, a, PathRollback, in)
}

// Clear lets what has run on computers run again.
func (a *Admin) Clear(ctx context.Context, in ClearRequest) (OrderResult, error) {
	return post[OrderResult](ctx, a, PathClears, in)
}

// Approve lets a site go beyond its wipe cap.
func (a *Admin) Approve(ctx context.Context, in ApprovalRequest) (OrderResult, error) {
	return post[OrderResult](ctx, a, PathApprovals, in)
}

// Documents returns the documents in force of that kind, and of that name if it is not empty; "" is every kind.
func (a *Admin) Documents(ctx context.Context, kind provisioning.Kind, name string) ([]provisioning.Document, error) {
	return list[provisioning.Document](ctx, a, PathDocuments, url.Values{"kind": {string(kind)}, "name": {name}})
}

// Changes returns the changes with numbers below before, newest first, at most limit (1 or more); before 0 means from the
// newest.
func (a *Admin) Changes(ctx context.Context, before uint64, limit int) ([]provisioning.Change, error) {
	out, _, err := pages[provisioning.Change](ctx, a, PathChanges, url.Values{"after": {numberOrNone(before)}}, limit)
	return out, err
}

// Revisions returns every revision of a document with its text, oldest first. It fails with CodeNotFound where there never
// was such a document.
func (a *Admin) Revisions(ctx context.Context, k provisioning.Key) ([]provisioning.Revision, error) {
	return list[provisioning.Revision](ctx, a, PathRevisions, url.Values{"kind": {string(k.Kind)}, "name": {k.Name}})
}

// ChangeRevisions returns the revisions that a change made, by kind and name. It fails with CodeNotFound where there is no
// such change.
func (a *Admin) ChangeRevisions(ctx context.Context, change uint64) ([]provisioning.Revision, error) {
	return list[provisioning.Revision](ctx, a, PathRevisions, url.Values{"change": {strconv.FormatUint(change, 10)}})
}

// Settings returns central's settings.
func (a *Admin) Settings(ctx context.Context) (Settings, error) {
	return get[Settings](ctx, a, PathSettings, nil)
}

// PutSettings replaces central's settings. It fails with CodeConflict where more computers would be erased without anybody being
// asked, and that is not confirmed.
func (a *Admin) PutSettings(ctx context.Context, in SettingsRequest) (Settings, error) {
	var out Settings
	err := a.ask(ctx, http.MethodPut, PathSettings, in, &out)
	return out, err
}

// DefaultApproval is how long an approval is good for unless it says otherwise.
const DefaultApproval = 4 * time.Hour
