package client

import (
	"context"
	"fmt"
	"net/http"

	"branchpoint/provisioning"
)

// PathBranchHost is where an appliance says what its machine is recognised by, with its site's certificate.
const PathBranchHost = "/branch/v1/host"

// TellHost tells central what the machine is recognised by that the appliance runs on. To tell it again does no harm.
func (b *Branch) TellHost(ctx context.Context, h provisioning.Hardware) error {
	if _, err := b.call(ctx, http.MethodPost, PathBranchHost, h, nil); err != nil {
		return fmt.Errorf("tell central what this appliance is recognised by: %w", err)
	}
	return nil
}
