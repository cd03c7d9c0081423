package central

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// Apply puts configuration files in force, all of them or nothing. Faults come back as provisioning.Problems.
func (c *Central) Apply(ctx context.Context, files []provisioning.File) (client.ApplyResult, error) {
	given, err := decodeAll(files)
	if err != nil {
		return client.ApplyResult{}, err
	}
	packages, err := c.cfg.Content.Packages(ctx)
	if err != nil {
		return client.ApplyResult{}, fmt.Errorf("list content packages: %w", err)
	}
	var result client.ApplyResult
	err = c.cfg.Store.UpdateDocuments(ctx, c.cfg.Now(), func(stored []provisioning.Document) ([]provisioning.Document, error) {
		changed, r, err := merge(&c.decoded, stored, given, packages)
		result = r
		return changed, err
	})
	if err != nil {
		return client.ApplyResult{}, err
	}
	for _, d := range result.Documents {
		if d.Effect != client.Unchanged {
			c.cfg.Log.Info("applied", "kind", d.Kind, "name", d.Name, "effect", d.Effect)
		}
	}
	if err := c.Publish(ctx); err != nil {
		// What was applied is stored; the next publication takes it along.
		c.cfg.Log.Error("cannot publish snapshots", "error", err)
	}
	return result, nil
}

// decodeAll decodes files into a catalog. It fails with provisioning.Problems.
func decodeAll(files []provisioning.File) (provisioning.Catalog, error) {
	var objects []provisioning.Object
	var problems provisioning.Problems
	for _, f := range files {
		o, ps := provisioning.Decode(f)
		objects = append(objects, o...)
		problems = append(problems, ps...)
	}
	given, ps := provisioning.NewCatalog(objects)
	problems = append(problems, ps...)
	if len(problems) > 0 {
		return nil, problems
	}
	if len(given) == 0 {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "Give files that hold documents with apiVersion, kind, metadata and spec.",
			"there is no document in what was given")
	}
	return given, nil
}

// merge decides what an apply of given changes. The references of what is given are checked, and of everything that
// refers to it.
func merge(decoded *decodedDocuments, stored []provisioning.Document, given provisioning.Catalog, packages map[string]int) ([]provisioning.Document, client.ApplyResult, error) {
	catalog, err := decoded.catalog(stored)
	if err != nil {
		return nil, client.ApplyResult{}, err
	}
	texts := map[provisioning.Key]string{}
	for _, d := range stored {
		texts[d.Key()] = d.Text
	}
	keys := make([]provisioning.Key, 0, len(given))
	for k, o := range given {
		catalog[k] = o
		keys = append(keys, k)
	}
	sortKeys(keys)
	check := slices.Clone(keys)
	for k, o := range catalog {
		if _, ok := given[k]; !ok && slices.ContainsFunc(references(o), func(r provisioning.Key) bool { _, ok := given[r]; return ok }) {
			check = append(check, k)
		}
	}
	sortKeys(check)
	if ps := catalog.Check(check, packages); len(ps) > 0 {
		return nil, client.ApplyResult{}, ps
	}
	var changed []provisioning.Document
	var result client.ApplyResult
	for _, k := range keys {
		o := given[k]
		text, err := o.Encode()
		if err != nil {
			return nil, client.ApplyResult{}, err
		}
		effect := client.Created
		if old, ok := texts[k]; ok {
			effect = client.Changed
			if old == text {
				effect = client.Unchanged
			}
		}
		result.Documents = append(result.Documents, client.Applied{Kind: k.Kind, Name: k.Name, Effect: effect})
		if effect == client.Unchanged {
			continue
		}
		d := provisioning.Document{Kind: k.Kind, Name: k.Name, Text: text}
		if _, err := d.Decode(); err != nil {
			// Found now it costs one apply; found at the next start it would cost the site.
			return nil, client.ApplyResult{}, provisioning.Errorf(provisioning.CodeInternal, "", "%s %s does not survive being stored: %w", k.Kind, k.Name, err)
		}
		changed = append(changed, d)
	}
	return changed, result, nil
}

// references are the documents that o names.
func references(o provisioning.Object) []provisioning.Key {
	var out []provisioning.Key
	switch {
	case o.Computer != nil && o.Computer.Spec.Site != "":
		out = append(out, provisioning.Key{Kind: provisioning.KindSite, Name: o.Computer.Spec.Site})
	case o.TaskSequence != nil:
		for _, s := range o.TaskSequence.Spec.Steps {
			if s.ApplyOperatingSystemImage != nil {
				out = append(out, provisioning.Key{Kind: provisioning.KindOperatingSystemImage, Name: s.ApplyOperatingSystemImage.Image})
			}
		}
	case o.Advertisement != nil:
		out = append(out, provisioning.Key{Kind: provisioning.KindTaskSequence, Name: o.Advertisement.Spec.TaskSequence})
		for _, n := range o.Advertisement.Spec.Computers {
			out = append(out, provisioning.Key{Kind: provisioning.KindComputer, Name: n})
		}
	}
	return out
}

// sortKeys sorts by kind, in the order in which kinds may refer to one another, then by name.
func sortKeys(keys []provisioning.Key) {
	slices.SortFunc(keys, func(a, b provisioning.Key) int {
		if d := slices.Index(provisioning.Kinds, a.Kind) - slices.Index(provisioning.Kinds, b.Kind); d != 0 {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
}
