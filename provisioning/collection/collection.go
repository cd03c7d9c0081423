// Package collection decides who belongs to a Collection: the computers that it lists, and those that its query fits. A
// query is a CEL expression (https://github.com/google/cel-spec) over one computer. It can name
//
//	computer.name, .site, .description, .smbiosGUID     string; MAC addresses and GUIDs in canonical form, lower case
//	computer.macAddresses                               list of string
//	computer.variables                                  map of string to string
//	inventory.manufacturer, .product, .serial,
//	inventory.assetTag, .firmware                       string
//	inventory.memoryMiB                                 int
//	inventory.secureBoot                                bool
//	deployments                                         list of what has run on the computer, each with
//	                                                    .advertisement, .taskSequence, .state (string) and .spent (bool)
//
// with the operators, has(), all(), exists(), exists_one(), size(), contains(), startsWith(), endsWith(), lowerAscii(),
// matches() with an RE2 pattern that is written out, and conversions between numbers and text. all() and exists() go
// through values of one type, and put no texts together; only values and lists of them are compared. What a computer's
// inventory does not say has no value: a query that needs it fails, unless it asks has() first.
//
// A query that fails fits nobody. Compile refuses one that could take long, and evaluation ends one that does.
package collection

import (
	"iter"

	"branchpoint/provisioning"
)

// Collection is a compiled collection. It is safe for concurrent use.
type Collection struct {
	name   string
	listed map[string]bool
	query  *Query
	broken string // why the query fits nobody
}

// New compiles a collection. The collection can be used whatever the error is, which is a QueryErrors: then its query fits
// nobody, and the computers that it lists belong to it all the same. A collection with secrets has a query over documents alone:
// who boots in a computer's name says what its inventory is and what has run. Those built in need no query: AllSystems holds every
// computer, AllUnknownComputers none, as a computer that can be asked about is known.
func New(c provisioning.Collection) (*Collection, error) {
	out := &Collection{name: c.Name}
	if c.Name == provisioning.AllSystems || c.Name == provisioning.AllUnknownComputers {
		return out, nil
	}
	out.listed = make(map[string]bool, len(c.Spec.Computers))
	for _, n := range c.Spec.Computers {
		out.listed[n] = true
	}
	if c.Spec.Query == "" {
		return out, nil
	}
	var err error
	if out.query, err = Compile(c.Spec.Query); err == nil && out.query.claimed != nil && len(c.Spec.Secrets) > 0 {
		err = QueryErrors{*out.query.claimed}
	}
	if err != nil {
		out.broken = err.Error()
	}
	return out, err
}

// Name is the collection's name.
func (c *Collection) Name() string { return c.name }

// Membership is whether a computer belongs to a collection, and why.
type Membership struct {
	Computer string `json:"computer"`
	Member   bool   `json:"member"`
	// Reason says why, for an admin, as the end of a sentence that begins with the computer.
	Reason string `json:"reason"`
	// Failed says that the query gave no answer, so that the computer is no member by it.
	Failed bool `json:"failed,omitempty"`
}

// Member decides about one computer.
func (c *Collection) Member(s *Subject) Membership {
	m := Membership{Computer: s.computer.Name}
	switch {
	case c.name == provisioning.AllSystems:
		m.Member, m.Reason = true, "is a known computer"
	case c.name == provisioning.AllUnknownComputers:
		m.Reason = "is a known computer"
	case c.listed[s.computer.Name]:
		m.Member, m.Reason = true, "is listed"
	case c.broken != "":
		m.Failed, m.Reason = true, "is not listed, and the query cannot be used: "+c.broken
	case c.query == nil:
		m.Reason = "is not listed"
	default:
		fits, err := c.query.Fits(s)
		switch {
		case err != nil:
			m.Failed, m.Reason = true, "gives the query no answer: "+err.Error()
		case fits:
			m.Member, m.Reason = true, "fits the query"
		default:
			m.Reason = "does not fit the query"
		}
	}
	return m
}

// Preview is who belongs to a collection.
type Preview struct {
	// Members are those that belong to it, Failed those whom its query gave no answer about; each in the order of the
	// computers.
	Members []Membership `json:"members"`
	Failed  []Membership `json:"failed"`
	// Computers is how many there are.
	Computers int `json:"computers"`
}

// Preview decides about many computers.
func (c *Collection) Preview(subjects iter.Seq[*Subject]) Preview {
	p := Preview{Members: []Membership{}, Failed: []Membership{}}
	for s := range subjects {
		p.Computers++
		switch m := c.Member(s); {
		case m.Member:
			p.Members = append(p.Members, m)
		case m.Failed:
			p.Failed = append(p.Failed, m)
		}
	}
	return p
}

// Deployment is what a query sees of one run of a task sequence on the computer.
type Deployment struct {
	Advertisement, TaskSequence string
	State                       provisioning.RunState
	Spent                       bool
}

// Deployments are the runs of one computer as a query sees them, in the order of runs. Those that a person has cleared
// count for nothing, and are left out.
func Deployments(runs []provisioning.Run, computer string) []Deployment {
	var out []Deployment
	for i := range runs {
		if r := &runs[i]; r.Computer == computer && !r.Cleared {
			out = append(out, Deployment{r.Advertisement, r.TaskSequence, r.State, r.Spent})
		}
	}
	return out
}
