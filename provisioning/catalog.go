package provisioning

import (
	"fmt"
	"slices"
)

// Key names a configuration document.
type Key struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
}

// Key returns the object's key.
func (o *Object) Key() Key { return Key{o.Kind, o.Name} }

// Catalog is a whole configuration: every document that is in force, by key.
type Catalog map[Key]Object

// NewCatalog gathers objects; a key that stands twice is a problem at its second place.
func NewCatalog(objects []Object) (Catalog, Problems) {
	c := Catalog{}
	var ps Problems
	for _, o := range objects {
		if first, ok := c[o.Key()]; ok {
			ps = append(ps, problemAt(o.file, o.node, "$.metadata.name",
				fmt.Sprintf("%s %s is already described in %s", o.Kind, o.Name, first.file)))
			continue
		}
		c[o.Key()] = o
	}
	return c, ps
}

// Check checks what the documents in names refer to: in the catalog, and content by packages (name → newest version).
// Identities must be unique: no MAC address or SMBIOS GUID may belong to two computers.
func (c Catalog) Check(names []Key, packages map[string]int) Problems {
	var ps Problems
	owners := c.identities()
	for _, k := range names {
		o, ok := c[k]
		if !ok {
			continue
		}
		at := func(path, format string, args ...any) {
			ps = append(ps, problemAt(o.file, o.node, path, fmt.Sprintf(format, args...)))
		}
		need := func(path string, kind Kind, name string) {
			if _, ok := c[Key{kind, name}]; !ok {
				at(path, "there is no %s %q; describe it in a document, or correct the name", kind, clip(name))
			}
		}
		switch o.Kind {
		case KindComputer:
			if s := o.Computer.Spec.Site; s != "" {
				need("$.spec.site", KindSite, s)
			}
			for i, m := range o.Computer.Spec.MACAddresses {
				if n := owners[string(m)]; len(n) > 1 {
					at(fmt.Sprintf("$.spec.macAddresses[%d]", i), "%s belongs to more than one computer: %v; a machine must be known by one name", m, n)
				}
			}
			if g := o.Computer.Spec.SMBIOSGUID; g != "" && len(owners[string(g)]) > 1 {
				at("$.spec.smbiosGUID", "%s belongs to more than one computer: %v; a machine must be known by one name", g, owners[string(g)])
			}
		case KindOperatingSystemImage:
			s := o.OperatingSystemImage.Spec
			switch newest, ok := packages[s.Package]; {
			case !ok:
				at("$.spec.package", "there is no content package %q; add it first: branchpoint content add %s FILE", clip(s.Package), s.Package)
			case s.Version > newest:
				at("$.spec.version", "package %s has no version %d; its newest is %d", s.Package, s.Version, newest)
			}
		case KindTaskSequence:
			for i, st := range o.TaskSequence.Spec.Steps {
				if st.ApplyOperatingSystemImage != nil {
					need(fmt.Sprintf("$.spec.steps[%d].applyOperatingSystemImage.image", i), KindOperatingSystemImage, st.ApplyOperatingSystemImage.Image)
				}
			}
		case KindAdvertisement:
			need("$.spec.taskSequence", KindTaskSequence, o.Advertisement.Spec.TaskSequence)
			for i, n := range o.Advertisement.Spec.Computers {
				need(fmt.Sprintf("$.spec.computers[%d]", i), KindComputer, n)
			}
		}
	}
	return ps
}

// identities maps each MAC address and GUID to the names of the computers that claim it, sorted.
func (c Catalog) identities() map[string][]string {
	owners := map[string][]string{}
	for _, o := range c {
		if o.Computer == nil {
			continue
		}
		for _, m := range o.Computer.Spec.MACAddresses {
			owners[string(m)] = append(owners[string(m)], o.Name)
		}
		if g := o.Computer.Spec.SMBIOSGUID; g != "" {
			owners[string(g)] = append(owners[string(g)], o.Name)
		}
	}
	for _, n := range owners {
		slices.Sort(n)
	}
	return owners
}
