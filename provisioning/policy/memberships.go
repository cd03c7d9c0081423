package policy

import (
	"slices"
	"sync"
	"sync/atomic"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
)

// maxRemembered bounds the computers whose memberships are remembered. A machine that boots asks several times over, and
// not more machines than these boot at one time.
const maxRemembered = 512

// memory remembers which collections computers belong to, for the very inventory and deployments that it was decided by: it
// saves time, and changes no answer.
type memory struct {
	mu sync.Mutex
	of map[*provisioning.Computer]*memberships
}

// memberships are those of one computer as far as they were asked for. It is safe for concurrent use.
type memberships struct {
	computer    *provisioning.Computer
	inventory   *provisioning.Inventory // a copy; nil where nothing is known
	deployments []collection.Deployment
	subject     *collection.Subject
	decided     []atomic.Pointer[collection.Membership] // by the collection's index
}

// membershipsOf returns those of a computer with these runs, of which those with its name count.
func (p *Policy) membershipsOf(c *provisioning.Computer, h *History, runs []*provisioning.Run) *memberships {
	var hardware *provisioning.Inventory
	if i, ok := h.Inventories[c.Name]; ok {
		hardware = &i
	} else if i, ok := p.snapshot.Inventories[c.Name]; ok {
		hardware = &i
	}
	ran := make([]provisioning.Run, 0, len(runs))
	for _, r := range runs {
		ran = append(ran, *r)
	}
	deployments := collection.Deployments(ran, c.Name)
	if p.computers[c.Name] != c { // one that was discovered: history's, and another each time
		return p.newMemberships(c, hardware, deployments)
	}
	p.memory.mu.Lock()
	defer p.memory.mu.Unlock()
	if m := p.memory.of[c]; m != nil && m.by(hardware, deployments) {
		return m
	}
	if p.memory.of == nil || len(p.memory.of) >= maxRemembered {
		p.memory.of = map[*provisioning.Computer]*memberships{}
	}
	m := p.newMemberships(c, hardware, deployments)
	p.memory.of[c] = m
	return m
}

func (p *Policy) newMemberships(c *provisioning.Computer, hardware *provisioning.Inventory, deployments []collection.Deployment) *memberships {
	return &memberships{
		computer: c, inventory: hardware, deployments: deployments,
		subject: collection.NewSubject(c, hardware, deployments), decided: make([]atomic.Pointer[collection.Membership], len(p.collections)),
	}
}

// by reports whether m was decided by these facts.
func (m *memberships) by(hardware *provisioning.Inventory, deployments []collection.Deployment) bool {
	if (m.inventory == nil) != (hardware == nil) || hardware != nil && *m.inventory != *hardware {
		return false
	}
	return slices.Equal(m.deployments, deployments)
}

// of decides about one collection, once.
func (m *memberships) of(collections []*collection.Collection, i int) *collection.Membership {
	if d := m.decided[i].Load(); d != nil {
		return d
	}
	d := collections[i].Member(m.subject)
	m.decided[i].Store(&d)
	return &d
}
