package client

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"branchpoint/provisioning"
)

// PathBranchReports is where branches report of their machines, with their site's certificate; PathConflicts where
// administrators see what cannot be told apart, and PathResolve where they say that it can.
const (
	PathBranchReports = "/branch/v1/reports"
	PathConflicts     = "/v1/conflicts"
	PathResolve       = "/v1/conflicts/resolve"
)

// MaxSiteReports bounds the reports of one batch.
const MaxSiteReports = 500

// SiteReportBatch is what a branch reports at once.
type SiteReportBatch struct {
	Reports []provisioning.SiteReport `json:"reports"`
}

// ResolveRequest names a conflicting record.
type ResolveRequest struct {
	Site string `json:"site"`
	ID   string `json:"id"`
}

// ReportSite delivers site reports, any number. Reports that were delivered before do no harm; ones that central finds invalid
// are delivered, too: it sets them aside.
func (b *Branch) ReportSite(ctx context.Context, reports []provisioning.SiteReport) error {
	for len(reports) > 0 {
		n := min(len(reports), MaxSiteReports)
		if _, err := b.call(ctx, http.MethodPost, PathBranchReports, SiteReportBatch{Reports: reports[:n]}, nil); err != nil {
			return fmt.Errorf("report machines to central: %w", err)
		}
		reports = reports[n:]
	}
	return nil
}

// Conflicts returns the conflicting records that are not resolved, the one that was seen last first.
func (a *Admin) Conflicts(ctx context.Context) ([]provisioning.ConflictRecord, error) {
	out, err := list[provisioning.ConflictRecord](ctx, a, PathConflicts, nil)
	slices.SortStableFunc(out, func(a, b provisioning.ConflictRecord) int { return b.LastSeen.Compare(a.LastSeen) })
	return out, err
}

// Resolve takes a conflicting record from the list, until a branch sees it again.
func (a *Admin) Resolve(ctx context.Context, in ResolveRequest) error {
	_, err := post[ResolveRequest](ctx, a, PathResolve, in)
	return err
}
