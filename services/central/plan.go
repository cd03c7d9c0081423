package central

import (
	"maps"
	"slices"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// edit is what somebody wants to become of the configuration: documents as they shall be, and documents that shall go.
type edit struct {
	set    map[provisioning.Key]*wanted
	remove []provisioning.Key
}

// wanted is a document as it shall be.
type wanted struct {
	object provisioning.Object
	// text is its canonical text, once that is known, and sound says that it was decoded again.
	text  string
	sound bool
}

// want makes an edit that sets every document of a catalog.
func want(given provisioning.Catalog) edit {
	e := edit{set: make(map[provisioning.Key]*wanted, len(given))}
	for k, o := range given {
		e.set[k] = &wanted{object: o}
	}
	return e
}

// touched is a document that an edit names, as it was and as it will be; the objects are nil where there is no document.
type touched struct {
	key           provisioning.Key
	effect        client.Effect
	before, after *provisioning.Object
	old, text     string // canonical
}

// plan is what an edit does to the documents in force.
type plan struct {
	before, after provisioning.Catalog
	// touched are the documents that the edit names, in the order of kinds, then by name; unchanged ones too.
	touched []touched
}

// decide plans an edit. The references of what is set are checked, and of everything that refers to it or to what goes:
// faults come back as provisioning.Problems. It can be called again with the same edit and costs less then.
func decide(decoded *decodedDocuments, stored []provisioning.Document, e edit, packages map[string]int) (*plan, error) {
	before, err := decoded.catalog(stored)
	if err != nil {
		return nil, err
	}
	texts := make(map[provisioning.Key]string, len(stored))
	for i := range stored {
		texts[stored[i].Key()] = stored[i].Text
	}
	p := &plan{before: before, after: maps.Clone(before)}
	keys := slices.Collect(maps.Keys(e.set))
	for _, k := range keys {
		w := e.set[k]
		if w.text == "" {
			if w.text, err = w.object.Encode(); err != nil {
				return nil, err
			}
		}
		p.after[k] = w.object // unchanged ones too: what is wrong with them is said of the file that was given
	}
	for _, k := range e.remove {
		if _, ok := e.set[k]; !ok {
			delete(p.after, k)
			keys = append(keys, k)
		}
	}
	sortKeys(keys)
	keys = slices.Compact(keys)
	if ps := p.after.Check(p.affected(keys), packages); len(ps) > 0 {
		return nil, ps
	}
	for _, k := range keys {
		t := touched{key: k, old: texts[k], effect: client.Deleted}
		if o, ok := before[k]; ok {
			t.before = &o
		}
		if w, ok := e.set[k]; ok {
			o := w.object
			t.after, t.text, t.effect = &o, w.text, client.Created
		}
		switch {
		case t.before == nil && t.after == nil:
			continue
		case t.before != nil && t.after != nil && t.old == t.text:
			t.effect = client.Unchanged
		case t.before != nil && t.after != nil:
			t.effect = client.Changed
		}
		p.touched = append(p.touched, t)
	}
	return p, p.verify(decoded, e)
}

// affected are the keys that are to be checked: those that an edit names, and those of documents that refer to one.
func (p *plan) affected(named []provisioning.Key) []provisioning.Key {
	set := make(map[provisioning.Key]bool, len(named))
	for _, k := range named {
		set[k] = true
	}
	check := slices.Clone(named)
	for k, o := range p.after {
		if !set[k] && slices.ContainsFunc(references(o), func(r provisioning.Key) bool { return set[r] }) {
			check = append(check, k)
		}
	}
	sortKeys(check)
	return check
}

// verify decodes again what would be stored: found now a fault costs one command, found at the next start it would cost
// the sites.
func (p *plan) verify(decoded *decodedDocuments, e edit) error {
	for _, t := range p.touched {
		if t.effect != client.Created && t.effect != client.Changed || e.set[t.key].sound {
			continue
		}
		d := provisioning.Document{Kind: t.key.Kind, Name: t.key.Name, Text: t.text}
		o, err := d.Decode()
		if err != nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "%s %s does not survive being stored: %w", t.key.Kind, t.key.Name, err)
		}
		decoded.learn(d, o)
		e.set[t.key].sound = true
	}
	return nil
}

// documents are the revisions that the plan stores.
func (p *plan) documents() []provisioning.Document {
	var out []provisioning.Document
	for _, t := range p.touched {
		if t.effect != client.Unchanged {
			out = append(out, provisioning.Document{Kind: t.key.Kind, Name: t.key.Name, Text: t.text, Deleted: t.after == nil})
		}
	}
	return out
}

// references are the documents that o names. Built-in collections are none.
func references(o provisioning.Object) []provisioning.Key {
	var out []provisioning.Key
	add := func(kind provisioning.Kind, names ...string) {
		for _, n := range names {
			if n != "" && (kind != provisioning.KindCollection || n != provisioning.AllSystems && n != provisioning.AllUnknownComputers) {
				out = append(out, provisioning.Key{Kind: kind, Name: n})
			}
		}
	}
	switch {
	case o.Computer != nil:
		add(provisioning.KindSite, o.Computer.Spec.Site)
	case o.Collection != nil:
		add(provisioning.KindComputer, o.Collection.Spec.Computers...)
	case o.TaskSequence != nil:
		add(provisioning.KindBootImage, o.TaskSequence.Spec.BootImage)
		for _, s := range o.TaskSequence.Spec.Steps {
			if s.ApplyOperatingSystemImage != nil {
				add(provisioning.KindOperatingSystemImage, s.ApplyOperatingSystemImage.Image)
			}
		}
	case o.Advertisement != nil:
		add(provisioning.KindTaskSequence, o.Advertisement.Spec.TaskSequence)
		add(provisioning.KindCollection, o.Advertisement.Spec.Collection)
		add(provisioning.KindComputer, o.Advertisement.Spec.Computers...)
	case o.ComputerAssociation != nil:
		add(provisioning.KindComputer, o.ComputerAssociation.Spec.Source, o.ComputerAssociation.Spec.Destination)
	case o.Role != nil:
		add(provisioning.KindSite, o.Role.Spec.Sites...)
		add(provisioning.KindCollection, o.Role.Spec.Collections...)
	}
	return out
}

// sortKeys sorts by kind, in the order in which kinds may refer to one another, then by name.
func sortKeys(keys []provisioning.Key) {
	order := make(map[provisioning.Kind]int, len(provisioning.Kinds))
	for i, k := range provisioning.Kinds {
		order[k] = i
	}
	slices.SortFunc(keys, func(a, b provisioning.Key) int {
		if d := order[a.Kind] - order[b.Kind]; d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
}
