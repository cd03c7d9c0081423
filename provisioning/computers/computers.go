// Package computers reads lists of computers, as spreadsheets and vendors write them (CSV, RFC 4180 and its relatives), and
// decides what importing one would change. It is pure: what is stored comes in as a catalog, and what is to be applied goes
// out as documents, with a report of every line.
//
// A list begins with a line of headings, in any order and case: name; mac (or mac address); smbios guid (or guid, uuid);
// source computer (or source); site; description; and var:NAME for a task sequence variable. Columns are separated by
// commas, semicolons or tabs. A cell that is empty changes nothing.
package computers

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"branchpoint/provisioning"
)

// Bounds of a list: bytes, lines after the headings, columns, and bytes of a cell.
const (
	MaxSize    = 64 << 20
	MaxLines   = 200_000
	MaxColumns = 1000
	MaxCell    = provisioning.MaxVariable
)

// Options say how a list is imported.
type Options struct {
	// Site is given to new computers whose line names no site; empty gives them none.
	Site string
	// Collection, where given, gets every computer of the list as a direct member; it is made where there is none.
	Collection string
	// SkipErrors imports the other lines of a list in which lines have errors; without it nothing is.
	SkipErrors bool
}

// Outcome is what becomes of a line.
type Outcome string

// The outcomes.
const (
	New       Outcome = "new"
	Changed   Outcome = "changed"
	Unchanged Outcome = "unchanged"
	Error     Outcome = "error"
)

// Line is what becomes of one line of a list.
type Line struct {
	// Line is where it begins, from 1 at the top of the file.
	Line int `json:"line"`
	// Computer is the name that stands there, shortened where it is none.
	Computer string  `json:"computer,omitempty"`
	Outcome  Outcome `json:"outcome"`
	// Texts say what is wrong, or what changes.
	Texts []string `json:"texts,omitempty"`
}

// Result is what importing a list changes.
type Result struct {
	// Lines are the lines in the order of the file, without empty ones.
	Lines []Line
	// Errors counts those with an error.
	Errors int
	// Computers, Associations and Collection are to be applied, in the order of the file; the collection is nil where it
	// does not change. All are empty where lines have errors and these are not to be skipped.
	Computers    []provisioning.Computer
	Associations []provisioning.ComputerAssociation
	Collection   *provisioning.Collection
}

// Objects are the documents to apply.
func (r *Result) Objects() []provisioning.Object {
	out := make([]provisioning.Object, 0, len(r.Computers)+len(r.Associations)+1)
	for i := range r.Computers {
		out = append(out, provisioning.Object{Kind: provisioning.KindComputer, Name: r.Computers[i].Name, Computer: &r.Computers[i]})
	}
	if r.Collection != nil {
		out = append(out, provisioning.Object{Kind: provisioning.KindCollection, Name: r.Collection.Name, Collection: r.Collection})
	}
	for i := range r.Associations {
		a := &r.Associations[i]
		out = append(out, provisioning.Object{Kind: provisioning.KindComputerAssociation, Name: a.Name, ComputerAssociation: a})
	}
	return out
}

// Import decides what importing a list would change in a configuration. It fails with provisioning.Problems where the list
// cannot be read at all, or its headings are wrong, and with CodeNotFound or CodeInvalid where the options name what is not
// possible; what is wrong with single lines is in the result.
func Import(file provisioning.File, stored provisioning.Catalog, o Options) (Result, error) {
	im := newImporter(stored, o)
	if err := im.options(); err != nil {
		return Result{}, err
	}
	if err := read(file, im.add); err != nil {
		return Result{}, err
	}
	im.compare()
	return im.result(), nil
}

// row is one line of a list with the computer that it makes.
type row struct {
	line     int
	name     string // as people are shown it
	computer provisioning.Computer
	// before is the computer as it is stored, nil where it is not.
	before *known
	source string
	texts  []string
	failed bool
}

func (r *row) fail(format string, args ...any) {
	if !r.failed {
		r.failed, r.texts = true, nil
	}
	if len(r.texts) < 10 {
		r.texts = append(r.texts, fmt.Sprintf(format, args...))
	}
}

func (r *row) changes(format string, args ...any) {
	if !r.failed {
		r.texts = append(r.texts, fmt.Sprintf(format, args...))
	}
}

// known is a computer that is stored.
type known struct {
	computer *provisioning.Computer
	// rows counts the lines without error that describe it anew: without one it stays as it is.
	rows int
}

// importer makes the result of one list.
type importer struct {
	stored provisioning.Catalog
	opts   Options
	known  map[string]*known // by name in lower case
	names  []string          // the keys of known, sorted
	// pairs are the stored associations by source and destination, sources those by destination; in lower case.
	pairs   map[[2]string]bool
	sources map[string]*provisioning.ComputerAssociation
	rows    []*row
}

func newImporter(stored provisioning.Catalog, o Options) *importer {
	im := &importer{
		stored: stored, opts: o, known: map[string]*known{}, pairs: map[[2]string]bool{},
		sources: map[string]*provisioning.ComputerAssociation{},
	}
	for _, o := range stored {
		if o.Computer != nil {
			im.known[strings.ToLower(o.Name)] = &known{computer: o.Computer}
		}
		if a := o.ComputerAssociation; a != nil {
			pair := [2]string{strings.ToLower(a.Spec.Source), strings.ToLower(a.Spec.Destination)}
			im.pairs[pair] = true
			if first := im.sources[pair[1]]; first == nil || a.Name < first.Name {
				im.sources[pair[1]] = a
			}
		}
	}
	im.names = slices.Sorted(maps.Keys(im.known))
	return im
}

// options checks what the options name.
func (im *importer) options() error {
	if s := im.opts.Site; s != "" && !im.site(s) {
		return provisioning.Errorf(provisioning.CodeNotFound, "Describe it in a document of kind Site and apply it.", "there is no site %.64q", s)
	}
	c := im.opts.Collection
	if c == "" {
		return nil
	}
	if provisioning.BuiltIn(strings.ToLower(c)) {
		return provisioning.Errorf(provisioning.CodeInvalid, "Name another collection, or none: every computer belongs to all-systems.", "collection %s is built in", c)
	}
	return provisioning.CheckName(c)
}

func (im *importer) site(name string) bool {
	_, ok := im.stored[provisioning.Key{Kind: provisioning.KindSite, Name: name}]
	return ok
}

// result gathers what the lines make.
func (im *importer) result() Result {
	var r Result
	taken := map[string]bool{}
	var members []string
	for _, row := range im.rows {
		l := Line{Line: row.line, Computer: row.name, Outcome: Error, Texts: row.texts}
		if row.failed {
			r.Errors++
			r.Lines = append(r.Lines, l)
			continue
		}
		members = append(members, row.computer.Name)
		a := im.association(row, taken)
		if a != nil {
			l.Texts = append(l.Texts, "restores the state of "+a.Spec.Source)
			r.Associations = append(r.Associations, *a)
		}
		switch {
		case row.before == nil:
			l.Outcome, l.Texts = New, nil
			r.Computers = append(r.Computers, row.computer)
		case len(row.texts) > 0:
			l.Outcome = Changed
			r.Computers = append(r.Computers, row.computer)
		case a != nil:
			l.Outcome = Changed
		default:
			l.Outcome = Unchanged
		}
		r.Lines = append(r.Lines, l)
	}
	r.Collection = im.collection(members)
	if r.Errors > 0 && !im.opts.SkipErrors {
		r.Computers, r.Associations, r.Collection = nil, nil, nil
	}
	return r
}

// collection is the wanted collection with the members that it lacks, nil where it lacks none.
func (im *importer) collection(members []string) *provisioning.Collection {
	if im.opts.Collection == "" || len(members) == 0 {
		return nil
	}
	c := provisioning.Collection{Name: im.opts.Collection}
	if o, ok := im.stored[provisioning.Key{Kind: provisioning.KindCollection, Name: c.Name}]; ok {
		c = *o.Collection
	}
	has := make(map[string]bool, len(c.Spec.Computers))
	for _, n := range c.Spec.Computers {
		has[n] = true
	}
	before := len(c.Spec.Computers)
	c.Spec.Computers = slices.Clone(c.Spec.Computers)
	for _, n := range members {
		if !has[n] {
			c.Spec.Computers = append(c.Spec.Computers, n)
		}
	}
	if len(c.Spec.Computers) == before {
		return nil
	}
	return &c
}
