package central

import (
	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
)

// query says who belongs to a collection by its query. What has run on a computer is left out: a query that asks for it sees
// a computer on which nothing has.
func (w *world) query(c *provisioning.Collection) func(*provisioning.Computer) bool {
	compiled, _ := collection.New(*c) // a broken query fits nobody, here as at the branch
	return func(computer *provisioning.Computer) bool {
		var inventory *provisioning.Inventory
		if i, ok := w.inventories[computer.Name]; ok {
			inventory = &i
		}
		return compiled.Member(collection.NewSubject(computer, inventory, nil)).Member
	}
}
