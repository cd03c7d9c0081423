package store

import (
	"context"
	"database/sql"
	"time"

	"branchpoint/provisioning"
)

// AddOrders stores orders, all or none, and returns them with their numbers. What it has done is what it returns
// (provisioning.Once).
func (s *Store) AddOrders(ctx context.Context, orders []provisioning.Order) ([]provisioning.Order, error) {
	out := make([]provisioning.Order, len(orders))
	err := s.effect(ctx, "store orders", func(tx *sql.Tx) (any, error) {
		for i, o := range orders {
			r, err := tx.ExecContext(ctx, `INSERT INTO orders (at, given_by, computer, site, wipes, expires) VALUES (?, ?, ?, ?, ?, ?)`,
				stamp(o.At), o.By, o.Computer, o.Site, o.Wipes, stamp(o.Expires))
			if err != nil {
				return nil, err
			}
			n, err := r.LastInsertId()
			if err != nil {
				return nil, err
			}
			o.Number = uint64(n)
			out[i] = o
			if err := appendAudit(ctx, tx, auditOrder(ctx, o)); err != nil {
				return nil, err
			}
		}
		return out, nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Orders returns every order that was not dropped, by number.
func (s *Store) Orders(ctx context.Context) ([]provisioning.Order, error) {
	out, err := orders(ctx, s.db)
	return out, s.fail("read orders", err)
}

func orders(ctx context.Context, q querier) ([]provisioning.Order, error) {
	out := []provisioning.Order{}
	err := rows(ctx, q, func(r *sql.Rows) error {
		var o provisioning.Order
		var at, expires string
		if err := r.Scan(&o.Number, &at, &o.By, &o.Computer, &o.Site, &o.Wipes, &expires); err != nil {
			return err
		}
		var err error
		if o.At, err = parseStamp(at); err != nil {
			return err
		}
		o.Expires, err = parseStamp(expires)
		out = append(out, o)
		return err
	}, `SELECT number, at, given_by, computer, site, wipes, expires FROM orders ORDER BY number`)
	return out, err
}

// DropOrders forgets the orders with those numbers. Ones that it does not know do no harm.
func (s *Store) DropOrders(ctx context.Context, numbers []uint64) error {
	return s.update(ctx, "drop orders", func(tx *sql.Tx) error {
		for _, n := range numbers {
			if _, err := tx.ExecContext(ctx, `DELETE FROM orders WHERE number = ?`, int64(n)); err != nil {
				return err
			}
		}
		return nil
	})
}

// SaveInventories stores what computers said of their hardware, by name, in place of what they said before.
func (s *Store) SaveInventories(ctx context.Context, at time.Time, inventories map[string]provisioning.Inventory) error {
	return s.update(ctx, "store inventories", func(tx *sql.Tx) error {
		for computer, v := range inventories {
			if err := putInventory(ctx, tx, at, computer, v); err != nil {
				return err
			}
		}
		return nil
	})
}

func putInventory(ctx context.Context, tx *sql.Tx, at time.Time, computer string, v provisioning.Inventory) error {
	text, err := encode(v)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO inventories (computer, at, inventory) VALUES (?, ?, ?)
		ON CONFLICT (computer) DO UPDATE SET at = excluded.at, inventory = excluded.inventory`, computer, stamp(at), text)
	return err
}

// Inventories returns what computers last said of their hardware, by name.
func (s *Store) Inventories(ctx context.Context) (map[string]provisioning.Inventory, error) {
	out, err := inventories(ctx, s.db)
	return out, s.fail("read inventories", err)
}

func inventories(ctx context.Context, q querier) (map[string]provisioning.Inventory, error) {
	out := map[string]provisioning.Inventory{}
	err := rows(ctx, q, func(r *sql.Rows) error {
		var computer, text string
		if err := r.Scan(&computer, &text); err != nil {
			return err
		}
		v, err := decode[provisioning.Inventory](text)
		out[computer] = v
		return err
	}, `SELECT computer, inventory FROM inventories`)
	return out, err
}
