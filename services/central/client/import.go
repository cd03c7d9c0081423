package client

import (
	"context"

	"branchpoint/provisioning"
	"branchpoint/provisioning/computers"
)

// ImportRequest is a list of computers as a person gave it.
type ImportRequest struct {
	File provisioning.File `json:"file"`
	// Site is for new computers whose line names none; may be empty.
	Site string `json:"site,omitempty"`
	// Collection gets every computer of the list as a member; may be empty.
	Collection string `json:"collection,omitempty"`
	// SkipErrors imports the lines that have no errors; without it none is.
	SkipErrors bool `json:"skipErrors,omitempty"`
	Caution
}

// ImportResult tells what an import did, or would do.
type ImportResult struct {
	ChangeResult
	// Lines are the list's lines, Errors how many of them have errors.
	Lines  []computers.Line `json:"lines"`
	Errors int              `json:"errors"`
}

// ImportComputers puts the computers of a list in force, as one change. Errors of lines come back as provisioning.Problems.
func (a *Admin) ImportComputers(ctx context.Context, in ImportRequest) (ImportResult, error) {
	return post[ImportResult](ctx, a, PathImportComputers, in)
}
