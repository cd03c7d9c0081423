package central

import (
	"context"
	"net/http"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/danielgtaylor/huma/v2"
)

// maxRequest bounds the body of a request without files, in bytes.
const maxRequest = 4 << 20

const tagConfiguration, tagOrders = "Configuration", "Orders"

// configurationOperations adds what is asked of the configuration, and orders to branches.
func (c *Central) configurationOperations(a *api) {
	addEffect(a, anyRole, huma.Operation{
		OperationID: "apply", Method: http.MethodPost, Path: client.PathApply, Tags: []string{tagConfiguration}, MaxBodyBytes: maxApplyBody,
		Summary: "Put documents in force", Description: "All files together are one change: all of it or nothing. Faults are all told at once, with file, line and column (problems). A change that would make computers erase their disks has to be confirmed (409).",
	}, posts(c.Apply))
	addEffect(a, anyRole, huma.Operation{
		OperationID: "deleteDocuments", Method: http.MethodPost, Path: client.PathDelete, Tags: []string{tagConfiguration},
		Summary: "Take documents out of force", Description: "All of them or none; refused as long as documents that stay refer to one of them.",
	}, posts(c.Delete))
	addEffect(a, anyRole, huma.Operation{
		OperationID: "importComputers", Method: http.MethodPost, Path: client.PathImportComputers, Tags: []string{tagConfiguration}, MaxBodyBytes: maxApplyBody,
		Summary: "Import a list of computers", Description: "The list is a CSV file. Each line is reported; where lines have errors nothing is imported, unless it is asked to skip them.",
	}, posts(c.ImportComputers))
	addEffect(a, anyRole, huma.Operation{
		OperationID: "rollback", Method: http.MethodPost, Path: client.PathRollback, Tags: []string{tagConfiguration},
		Summary: "Go back to an earlier configuration", Description: "The whole configuration as it was after a change, or one document as it was in a revision. It is a new change, and checked as any other.",
	}, posts(c.Rollback))
	add(a, anyRole, huma.Operation{
		OperationID: "listDocuments", Method: http.MethodGet, Path: client.PathDocuments, Tags: []string{tagConfiguration},
		Summary: "List the documents in force", Description: "Those that one may read, by kind and name. All pages show the configuration as it was when the first one was made.",
	}, c.listDocuments)
	add(a, anyRole, huma.Operation{
		OperationID: "listChanges", Method: http.MethodGet, Path: client.PathChanges, Tags: []string{tagConfiguration},
		Summary: "List who changed the configuration when", Description: "Newest first.",
	}, c.listChanges)
	add(a, anyRole, huma.Operation{
		OperationID: "listRevisions", Method: http.MethodGet, Path: client.PathRevisions, Tags: []string{tagConfiguration},
		Summary: "List revisions of a document, or of a change", Description: "A document's are listed oldest first, a change's by kind and name.",
	}, c.listRevisions)

	addEffect(a, anyRole, huma.Operation{
		OperationID: "clear", Method: http.MethodPost, Path: client.PathClears, Tags: []string{tagOrders},
		Summary: "Let what has run on computers run again", Description: "Required advertisements run once on a computer, until this. More computers than may unasked have to be confirmed (409).",
	}, posts(c.Clear))
	addEffect(a, anyRole, huma.Operation{
		OperationID: "approve", Method: http.MethodPost, Path: client.PathApprovals, Tags: []string{tagOrders},
		Summary: "Let a site go beyond its wipe cap", Description: "A site begins a bounded number of deployments an hour that erase disks; this lets it begin more.",
	}, posts(c.Approve))
	add(a, anyRole, huma.Operation{
		OperationID: "listConflicts", Method: http.MethodGet, Path: client.PathConflicts, Tags: []string{tagOrders},
		Summary: "List conflicting records", Description: "Machines that a site cannot tell from others, and gives nothing therefore; the one that was first seen last comes first.",
	}, lists(c.Conflicts, func(r *provisioning.ConflictRecord) string { return newestFirst(r.FirstSeen, r.Site+"/"+r.ID) }))
	addEffect(a, anyRole, huma.Operation{
		OperationID: "resolveConflict", Method: http.MethodPost, Path: client.PathResolve, Tags: []string{tagOrders},
		Summary: "Take a conflicting record from the list", Description: "It comes again if the machine is seen again and the documents still contradict each other.",
	}, posts(c.ResolveConflict))

	const tag = "Settings"
	add(a, anyRole, huma.Operation{
		OperationID: "getSettings", Method: http.MethodGet, Path: client.PathSettings, Tags: []string{tag}, Summary: "Read central's settings",
	}, asks(c.Settings))
	add(a, anyRole, huma.Operation{
		OperationID: "putSettings", Method: http.MethodPut, Path: client.PathSettings, Tags: []string{tag}, Summary: "Replace central's settings",
		Description: "An administrator's role without limits is wanted.",
	}, takes(c.PutSettings))
}

// documents returns the documents in force of that kind and name; empty chooses all.
func (c *Central) documents(ctx context.Context, kind provisioning.Kind, name string) ([]provisioning.Document, error) {
	all, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	return chosen(all, kind, name), nil
}

// chosen are those of the documents that are of that kind and name; empty chooses all.
func chosen(all []provisioning.Document, kind provisioning.Kind, name string) []provisioning.Document {
	out := []provisioning.Document{}
	for _, d := range all {
		if (kind == "" || d.Kind == kind) && (name == "" || d.Name == name) {
			out = append(out, d)
		}
	}
	return out
}
