package computers

import (
	"fmt"
	"strings"

	"branchpoint/provisioning"
)

// compare fails the rows that cannot stand beside one another or beside what is stored: a MAC address, an SMBIOS GUID and a
// name belong to one computer, and a source computer exists. What counts is how everything would be afterwards: two lines
// may swap an address. Of two lines that claim the same nobody knows which is right: both fail. A line that fails leaves
// the computer as it is stored, which may fail others.
func (im *importer) compare() {
	c := comparison{im: im, owners: map[string][]owner{}, named: map[string]*row{}, dependants: map[string][]*row{}}
	for _, r := range im.rows {
		if r.before != nil && !r.failed {
			r.before.rows++
		}
	}
	for _, name := range im.names {
		if k := im.known[name]; k.rows == 0 {
			c.claim(owner{known: k})
		}
	}
	for _, r := range im.rows {
		if r.failed {
			continue
		}
		c.named[strings.ToLower(r.computer.Name)] = r
		c.claim(owner{row: r})
	}
	for _, r := range im.rows {
		c.source(r)
	}
	for len(c.queue) > 0 {
		id := c.queue[0]
		c.queue = c.queue[1:]
		c.settle(id)
	}
}

// owner is who claims an identity: a row, or a stored computer that no row describes anew.
type owner struct {
	row   *row
	known *known
}

func (o owner) stands() bool {
	if o.row != nil {
		return !o.row.failed
	}
	return o.known.rows == 0
}

func (o owner) computer() *provisioning.Computer {
	if o.row != nil {
		return &o.row.computer
	}
	return o.known.computer
}

func (o owner) String() string {
	if o.row != nil {
		return fmt.Sprintf("%s on line %d", o.row.name, o.row.line)
	}
	return o.known.computer.Name + " as it is stored"
}

type comparison struct {
	im *importer
	// owners are who claims an identity; some may stand no more.
	owners map[string][]owner
	// queue are identities that may have several owners.
	queue []string
	// named are the rows by name, dependants those by the name of a source that is not stored; in lower case.
	named      map[string]*row
	dependants map[string][]*row
}

func (c *comparison) claim(o owner) {
	for _, id := range provisioning.Identities(o.computer()) {
		c.owners[id] = append(c.owners[id], o)
		if len(c.owners[id]) > 1 {
			c.queue = append(c.queue, id)
		}
	}
}

// settle fails the rows that claim the same identity.
func (c *comparison) settle(id string) {
	var standing []owner
	for _, o := range c.owners[id] {
		if o.stands() {
			standing = append(standing, o)
		}
	}
	c.owners[id] = standing
	if len(standing) < 2 {
		return
	}
	for i, o := range standing {
		if o.row == nil {
			continue
		}
		other, more := standing[0], ""
		if i == 0 {
			other = standing[1]
		}
		if len(standing) > 2 {
			more = fmt.Sprintf(" and %d more", len(standing)-2)
		}
		c.fail(o.row, "%s is also claimed by %s%s; a machine must be known by one name", id, other, more)
	}
}

// fail fails a row, and what depends on it.
func (c *comparison) fail(r *row, format string, args ...any) {
	stood := !r.failed
	r.fail(format, args...)
	if !stood {
		return
	}
	if r.before != nil {
		if r.before.rows--; r.before.rows == 0 {
			c.claim(owner{known: r.before})
		}
		return
	}
	for _, d := range c.dependants[strings.ToLower(r.computer.Name)] {
		if !d.failed {
			c.fail(d, "its source computer %s on line %d has an error", r.name, r.line)
		}
	}
}

// source checks the source computer of a row, and writes its name as it stands where it is described.
func (c *comparison) source(r *row) {
	if r.failed || r.source == "" {
		return
	}
	lower := strings.ToLower(r.source)
	if a := c.im.sources[strings.ToLower(r.computer.Name)]; a != nil && !c.im.pairs[pair(r.source, r.computer.Name)] {
		c.fail(r, "%s restores the state of %s already (association %s); delete that first", r.computer.Name, a.Spec.Source, a.Name)
		return
	}
	if k := c.im.known[lower]; k != nil {
		r.source = k.computer.Name
		return
	}
	from := c.named[lower]
	switch {
	case from == nil:
		c.fail(r, "there is no source computer %s, stored or in the list without error", r.source)
	case from.failed:
		c.fail(r, "its source computer %s on line %d has an error", from.name, from.line)
	default:
		r.source = from.computer.Name
		c.dependants[lower] = append(c.dependants[lower], r)
	}
}
