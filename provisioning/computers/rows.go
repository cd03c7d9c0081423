package computers

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"branchpoint/provisioning"
)

// add makes a row of a line. What it keeps of the cells it copies: they share the memory of the whole line.
func (im *importer) add(columns []heading, rec record) {
	r := &row{line: rec.line}
	im.rows = append(im.rows, r)
	if rec.problem != "" {
		r.fail("%s", rec.problem)
		return
	}
	for i, h := range columns {
		if h.field == fieldName {
			r.name = strings.Clone(strings.TrimSpace(rec.cells[i]))
		}
	}
	name := r.name
	if len(name) > 64 {
		r.name = strings.ToValidUTF8(name[:64], "") + "…"
	}
	switch {
	case name == "":
		r.fail("the name is missing")
		return
	case !provisioning.ValidHostName(name):
		r.fail("%q cannot be a host name: letters, digits and hyphens only, at most 63", r.name)
		return
	}
	im.begin(r, name)
	for i, h := range columns {
		if strings.TrimSpace(rec.cells[i]) != "" {
			im.cell(r, h, rec.cells[i])
		}
	}
	if r.failed {
		return
	}
	o := provisioning.Object{Kind: provisioning.KindComputer, Name: name, Computer: &r.computer}
	for _, p := range o.Validate() {
		r.fail("%s", p.Message)
	}
}

// begin gives a row the computer as it is stored, or a new one.
func (im *importer) begin(r *row, name string) {
	r.before = im.known[strings.ToLower(name)]
	if r.before == nil {
		r.computer = provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{Site: im.opts.Site}}
		return
	}
	r.computer = *r.before.computer
	r.computer.Spec.MACAddresses = slices.Clone(r.computer.Spec.MACAddresses)
	r.computer.Spec.Variables = maps.Clone(r.computer.Spec.Variables)
	if r.computer.Name != name {
		r.fail("the computer is stored as %s; write its name as it stands there", r.computer.Name)
	}
}

// cell puts what a cell says into a row's computer.
func (im *importer) cell(r *row, h heading, text string) {
	s := &r.computer.Spec
	trimmed := strings.Clone(strings.TrimSpace(text))
	switch h.field {
	case fieldMAC:
		im.macs(r, trimmed)
	case fieldGUID:
		g, err := provisioning.ParseGUID(trimmed)
		switch {
		case err != nil:
			r.fail("%v", err)
		case g == "":
			r.fail("%s is no GUID of one computer: firmware without one says that", trimmed)
		case g != s.SMBIOSGUID:
			r.changes("SMBIOS GUID %s, was %s", g, orNone(string(s.SMBIOSGUID)))
			s.SMBIOSGUID = g
		}
	case fieldSource:
		if !provisioning.ValidHostName(trimmed) {
			r.fail("source computer %.64q cannot be a host name", trimmed)
		}
		r.source = trimmed
	case fieldSite:
		if !im.site(trimmed) {
			r.fail("there is no site %.64q", trimmed)
		} else if trimmed != s.Site {
			r.changes("site %s, was %s", trimmed, orNone(s.Site))
			s.Site = trimmed
		}
	case fieldDescription:
		if utf8.RuneCountInString(trimmed) > 1000 {
			r.fail("a description has at most 1000 characters")
		} else if trimmed != s.Description {
			r.changes("description")
			s.Description = trimmed
		}
	case fieldVariable:
		setVariable(r, h.variable, strings.Clone(text))
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// setVariable sets a variable, in place of one whose name is the same but for case.
func setVariable(r *row, name, value string) {
	if err := provisioning.CheckVariable(name, value); err != nil {
		r.fail("%v", err)
		return
	}
	s := &r.computer.Spec
	for other, v := range s.Variables {
		if strings.EqualFold(other, name) {
			if v == value {
				return
			}
			name = other
		}
	}
	if s.Variables == nil {
		s.Variables = map[string]string{}
	}
	s.Variables[name] = value
	r.changes("variable %s", name)
}

// macs reads the MAC addresses of a cell: several are separated by blanks, bars, commas or semicolons.
func (im *importer) macs(r *row, text string) {
	var macs []provisioning.MAC
	take := func(text string) error {
		m, err := provisioning.ParseMAC(text)
		if err == nil && !slices.Contains(macs, m) {
			macs = append(macs, m)
		}
		return err
	}
	for _, part := range strings.FieldsFunc(text, func(c rune) bool { return strings.ContainsRune("|,;\n", c) }) {
		if take(part) == nil { // blanks may also stand between the octets of one
			continue
		}
		for _, word := range strings.Fields(part) {
			if err := take(word); err != nil {
				r.fail("%v", err)
			}
		}
	}
	if len(macs) > provisioning.MaxMACAddresses {
		r.fail("a computer has at most %d MAC addresses", provisioning.MaxMACAddresses)
	}
	s := &r.computer.Spec
	if len(macs) == 0 || sameMACs(macs, s.MACAddresses) {
		return
	}
	r.changes("MAC addresses %s, were %s", join(macs), orNone(join(s.MACAddresses)))
	s.MACAddresses = macs
}

// sameMACs reports whether two lists hold the same addresses, in whatever order.
func sameMACs(a, b []provisioning.MAC) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func join(macs []provisioning.MAC) string {
	texts := make([]string, len(macs))
	for i, m := range macs {
		texts[i] = string(m)
	}
	return strings.Join(texts, " ")
}

// association is the one that a row asks for, nil where there is none or it is stored. Its name is made of the two
// computers' names; where that is too long or taken, of a sum of them. taken are the names given so far.
func (im *importer) association(r *row, taken map[string]bool) *provisioning.ComputerAssociation {
	if r.source == "" || im.pairs[pair(r.source, r.computer.Name)] {
		return nil
	}
	free := func(name string) bool {
		_, stored := im.stored[provisioning.Key{Kind: provisioning.KindComputerAssociation, Name: name}]
		return !stored && !taken[name] && len(name) <= 63
	}
	name := r.computer.Name + "-from-" + r.source
	if !free(name) {
		sum := sha256.Sum256([]byte(r.computer.Name + "\n" + r.source))
		// A name that long says enough, and no two pairs have the same sum.
		name = name[:min(len(name), 30)] + "-" + hex.EncodeToString(sum[:16])
	}
	taken[name] = true
	return &provisioning.ComputerAssociation{Name: name, Spec: provisioning.ComputerAssociationSpec{Source: r.source, Destination: r.computer.Name}}
}

func pair(source, destination string) [2]string {
	return [2]string{strings.ToLower(source), strings.ToLower(destination)}
}
