package provisioning

import (
	"cmp"
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

// Resolve makes the part of a snapshot that the catalog decides for one site: its computers, the advertisements for
// them, the sequences and images these use, and the content behind. content gives a package's version, 0 the newest.
// Everything is sorted by name, so that the same configuration gives the same bytes.
func (c Catalog) Resolve(site string, content func(pkg string, version int) (ContentRef, error)) (*Snapshot, error) {
	so, ok := c[Key{KindSite, site}]
	if !ok {
		return nil, Errorf(CodeNotFound, "Describe it in a document of kind Site and apply it.", "there is no site %q", clip(site))
	}
	s := &Snapshot{Site: *so.Site}
	mine := map[string]bool{}
	sequences := map[string]bool{}
	images := map[string]bool{}
	for _, o := range c {
		if o.Computer != nil && (o.Computer.Spec.Site == "" || o.Computer.Spec.Site == site) {
			mine[o.Name] = true
			s.Computers = append(s.Computers, *o.Computer)
		}
	}
	for _, o := range c {
		if o.Advertisement == nil {
			continue
		}
		a := *o.Advertisement
		a.Spec.Computers = slices.DeleteFunc(slices.Clone(a.Spec.Computers), func(n string) bool { return !mine[n] })
		if len(a.Spec.Computers) == 0 {
			continue
		}
		s.Advertisements = append(s.Advertisements, a)
		sequences[a.Spec.TaskSequence] = true
	}
	for name := range sequences {
		o, ok := c[Key{KindTaskSequence, name}]
		if !ok {
			return nil, Errorf(CodeConflict, "", "there is no TaskSequence %q", clip(name))
		}
		s.TaskSequences = append(s.TaskSequences, *o.TaskSequence)
		for _, st := range o.TaskSequence.Spec.Steps {
			if st.ApplyOperatingSystemImage != nil {
				images[st.ApplyOperatingSystemImage.Image] = true
			}
		}
	}
	seen := map[Key]bool{}
	for name := range images {
		o, ok := c[Key{KindOperatingSystemImage, name}]
		if !ok {
			return nil, Errorf(CodeConflict, "", "there is no OperatingSystemImage %q", clip(name))
		}
		im := *o.OperatingSystemImage
		ref, err := content(im.Spec.Package, im.Spec.Version)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		im.Spec.Version = ref.Version // the snapshot says which one "newest" is
		s.Images = append(s.Images, im)
		if k := (Key{Kind(ref.Package), string(ref.Manifest)}); !seen[k] {
			seen[k] = true
			s.Content = append(s.Content, ref)
		}
	}
	slices.SortFunc(s.Computers, func(a, b Computer) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Advertisements, func(a, b Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.TaskSequences, func(a, b TaskSequence) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Images, func(a, b OperatingSystemImage) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(s.Content, func(a, b ContentRef) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.Version, b.Version))
	})
	return s, nil
}
