package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/netip"

	"branchpoint/provisioning"
)

// Leases are the DHCP leases of a branch.
type Leases struct{ s *Store }

// Leases returns the DHCP leases of a branch.
func (s *Store) Leases() Leases { return Leases{s} }

// Load returns all leases, by address as text.
func (l Leases) Load(ctx context.Context) ([]provisioning.Lease, error) {
	return values[provisioning.Lease](ctx, l.s, "leases", `SELECT lease FROM leases ORDER BY address`)
}

// Save stores a lease, in place of an earlier one of the same address. It has reached the disk on return.
func (l Leases) Save(ctx context.Context, x provisioning.Lease) error {
	b, err := json.Marshal(x)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "encode lease: %w", err)
	}
	return l.s.update(ctx, "store lease of "+x.Address.String(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO leases (address, lease) VALUES (?, ?)`, x.Address.String(), string(b))
		return err
	})
}

// Delete forgets the lease of an address; that there is none is no error.
func (l Leases) Delete(ctx context.Context, a netip.Addr) error {
	return l.s.update(ctx, "delete lease of "+a.String(), func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM leases WHERE address = ?`, a.String())
		return err
	})
}
