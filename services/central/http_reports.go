package central

import (
	"context"
	"net/http"

	"branchpoint/services/central/client"

	"github.com/danielgtaylor/huma/v2"
)

const tagMachines = "Machines"

// readers are those who have a role that reads, whatever the method: what they ask for changes nothing.
var readers = rights{text: "any role; within its limits", guard: (*Central).readOnly}

// readOnly lets requests of accounts through that have a role which reads.
func (c *Central) readOnly(next http.HandlerFunc) http.Handler {
	return c.signedIn(func(w http.ResponseWriter, r *http.Request) {
		if err := callerOf(r.Context()).mayAsk(http.MethodGet); err != nil {
			c.fail(w, r, err)
			return
		}
		next(w, r)
	})
}

// ExplainQuery names a machine.
type ExplainQuery struct {
	Machine  string `query:"machine" required:"true" maxLength:"256" doc:"A computer's name, or a MAC address in any usual notation."`
	Site     string `query:"site" maxLength:"256" doc:"Where it would boot; empty means the computer's own site, or the only one there is."`
	At       string `query:"at" maxLength:"64" doc:"When: RFC 3339, or in the site's time zone as 2026-11-20 22:00, or 22:00 for today; empty means now."`
	GUID     string `query:"guid" maxLength:"64" doc:"The SMBIOS GUID that its firmware gives, none where it gives none; empty means what is known of the machine."`
	Firmware string `query:"firmware" maxLength:"16" doc:"bios, uefi or http (UEFI HTTP Boot); empty means what is known of the machine, else uefi."`
}

// DeploymentsQuery chooses computers of an advertisement.
type DeploymentsQuery struct {
	Paging
	Name  string                 `path:"name" maxLength:"256" doc:"The advertisement's name."`
	State client.DeploymentState `query:"state" doc:"Only computers in this state: waiting, running, succeeded or failed."`
}

// UnprovisionedQuery chooses computers.
type UnprovisionedQuery struct {
	Paging
	Site string `query:"site" maxLength:"256" doc:"Only computers that are limited to this site, and machines that it has told of."`
}

// MembersQuery names a collection.
type MembersQuery struct {
	Paging
	Name string `path:"name" maxLength:"256" doc:"The collection's name; the built-in ones have members, too."`
}

// reportOperations adds what is asked about machines.
func (c *Central) reportOperations(a *api) {
	add(a, anyRole, huma.Operation{
		OperationID: "explain", Method: http.MethodGet, Path: client.PathExplain, Tags: []string{tagMachines},
		Summary: "Say what a machine would get, and why", Description: "Every rule in order, with its outcome: by the function by which the site's appliance decides, with what is published for the site and what the site has reported. Nothing is changed.",
	}, func(ctx context.Context, in *ExplainQuery) (*answer[client.Explanation], error) {
		return answered(c.Explain(ctx, client.ExplainRequest{Machine: in.Machine, Site: in.Site, At: in.At, GUID: in.GUID, Firmware: in.Firmware}))
	})
	add(a, anyRole, huma.Operation{
		OperationID: "listAdvertisements", Method: http.MethodGet, Path: client.PathAdvertisements, Tags: []string{tagMachines},
		Summary: "Count how far advertisements have come", Description: "By name. Each computer that one may see counts once for an advertisement, by the newest run that no order has cleared.",
	}, func(ctx context.Context, in *Paging) (*page[client.AdvertisementStatus], error) {
		return answered(c.Advertisements(ctx, in.page()))
	})
	add(a, anyRole, huma.Operation{
		OperationID: "listDeployments", Method: http.MethodGet, Path: client.PathAdvertisements + "/{name}/computers", Tags: []string{tagMachines},
		Summary: "List the computers of an advertisement", Description: "By name, each with its state, its last step, and what went wrong.",
	}, func(ctx context.Context, in *DeploymentsQuery) (*answer[client.DeploymentPage], error) {
		return answered(c.AdvertisementComputers(ctx, in.Name, in.State, in.page()))
	})
	add(a, anyRole, huma.Operation{
		OperationID: "listUnprovisioned", Method: http.MethodGet, Path: client.PathUnprovisioned, Tags: []string{tagMachines},
		Summary: "List the computers that were never deployed", Description: "Known computers on which no task sequence that erases a disk has ever succeeded, by name; and machines that sites have told of and that no record names.",
	}, func(ctx context.Context, in *UnprovisionedQuery) (*answer[client.UnprovisionedPage], error) {
		return answered(c.Unprovisioned(ctx, in.Site, in.page()))
	})
	add(a, anyRole, huma.Operation{
		OperationID: "listMembers", Method: http.MethodGet, Path: client.PathCollections + "/{name}/members", Tags: []string{tagMachines},
		Summary: "List who belongs to a collection", Description: "By name, with the computers that its query gives no answer about, which are no members.",
	}, func(ctx context.Context, in *MembersQuery) (*answer[client.MemberPage], error) {
		return answered(c.Members(ctx, in.Name, in.page()))
	})
	add(a, readers, huma.Operation{
		OperationID: "previewCollection", Method: http.MethodPost, Path: client.PathPreview, Tags: []string{tagMachines},
		Summary: "List who would belong to a collection that is not applied", Description: "Nothing is stored. Faults of the document, and of its query, are told with line and column (problems).",
	}, takes(c.Preview))
}

// page is what a list's parameters say.
func (p *Paging) page() client.Page { return client.Page{After: p.After, Limit: p.Limit} }
