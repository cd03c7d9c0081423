package central

import (
	"maps"
	"slices"

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
	// values says that it was given with the values of secrets: whoever learns that they are right must be allowed to change it.
	values bool
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
	values        bool   // of wanted
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
	provisioning.SortKeys(keys)
	keys = slices.Compact(keys)
	check := append(slices.Clone(keys), p.after.Dependants(keys...)...)
	provisioning.SortKeys(check)
	ps := p.after.Check(check, packages)
	for _, k := range keys {
		if w := e.set[k]; w != nil {
			ps = append(ps, queryProblems(&w.object)...)
		}
	}
	if len(ps) > 0 {
		return nil, ps
	}
	for _, k := range keys {
		t := touched{key: k, old: texts[k], effect: client.Deleted}
		if o, ok := before[k]; ok {
			t.before = &o
		}
		if w, ok := e.set[k]; ok {
			o := w.object
			t.after, t.text, t.effect, t.values = &o, w.text, client.Created, w.values
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
