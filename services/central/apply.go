package central

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// Apply puts configuration files in force, all of them or nothing. Faults come back as provisioning.Problems; a change that
// would erase more disks than may go unasked as CodeConflict (client.Danger).
func (c *Central) Apply(ctx context.Context, in client.ApplyRequest) (client.ChangeResult, error) {
	given, err := decodeAll(in.Files)
	if err != nil {
		return client.ChangeResult{}, err
	}
	e := want(given)
	return c.change(ctx, changeRequest{
		command: provisioning.CommandApply,
		edit: func(stored []provisioning.Document) (edit, error) {
			e.remove = nil
			for i := range stored {
				if k := stored[i].Key(); in.Prune && e.set[k] == nil {
					e.remove = append(e.remove, k)
				}
			}
			return e, nil
		},
		Caution: in.Caution,
	})
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

// Delete takes documents out of force, all or none. It fails with CodeNotFound where there is no such document, and with
// CodeConflict as long as others refer to one, which it names.
func (c *Central) Delete(ctx context.Context, in client.DeleteRequest) (client.ChangeResult, error) {
	if len(in.Documents) == 0 {
		return client.ChangeResult{}, provisioning.Errorf(provisioning.CodeInvalid, "Name a kind and a name.", "there is nothing to delete in what was given")
	}
	return c.change(ctx, changeRequest{
		command: provisioning.CommandDelete,
		edit: func(stored []provisioning.Document) (edit, error) {
			catalog, err := c.decoded.catalog(stored)
			if err != nil {
				return edit{}, err
			}
			return edit{remove: in.Documents}, deletable(catalog, in.Documents)
		},
		Caution: in.Caution,
	})
}

// maxNamed bounds how many names a message lists.
const maxNamed = 20

// deletable fails where keys name something that does not exist, or that others than themselves refer to.
func deletable(catalog provisioning.Catalog, keys []provisioning.Key) error {
	for _, k := range keys {
		if _, ok := catalog[k]; !ok {
			return provisioning.Errorf(provisioning.CodeNotFound, fmt.Sprintf("See what there is: branchpoint get %s", k.Kind), "there is no %s %q", k.Kind, k.Name)
		}
	}
	users := catalog.Dependants(keys...)
	if len(users) == 0 {
		return nil
	}
	names := make([]string, len(users))
	for i, u := range users {
		names[i] = fmt.Sprintf("%s %s", u.Kind, u.Name)
	}
	var targets []string
	for _, k := range keys {
		if slices.ContainsFunc(users, func(u provisioning.Key) bool { o := catalog[u]; return slices.Contains(o.References(), k) }) {
			targets = append(targets, fmt.Sprintf("%s %s", k.Kind, k.Name))
		}
	}
	return provisioning.Errorf(provisioning.CodeConflict, "Change or delete those first, or delete all of them together.",
		"%s cannot be deleted while others refer to it: %s", listed(targets), listed(names))
}

// listed joins names, a bounded number of them.
func listed(names []string) string {
	if more := len(names) - maxNamed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNamed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// Rollback makes what was in force after an earlier change, or an earlier revision of one document, a new change.
func (c *Central) Rollback(ctx context.Context, in client.RollbackRequest) (client.ChangeResult, error) {
	then, note, err := c.earlier(ctx, in)
	if err != nil {
		return client.ChangeResult{}, err
	}
	wanted := map[provisioning.Key]provisioning.Document{}
	for _, d := range then {
		wanted[d.Key()] = d
	}
	return c.change(ctx, changeRequest{
		command: provisioning.CommandRollback, note: note, Caution: in.Caution,
		edit: func(stored []provisioning.Document) (edit, error) { return back(stored, wanted, in.Change != 0) },
	})
}

// earlier returns the documents that a rollback sets, and says what it goes back to.
func (c *Central) earlier(ctx context.Context, in client.RollbackRequest) ([]provisioning.Document, string, error) {
	switch {
	case in.Change != 0 && in.Document == (provisioning.Key{}):
		docs, err := c.cfg.Store.DocumentsAt(ctx, in.Change)
		return docs, fmt.Sprintf("to change %d", in.Change), err
	case in.Change != 0 || in.Revision <= 0:
		return nil, "", provisioning.Errorf(provisioning.CodeInvalid, "", "a rollback names either a change, or a document and its revision")
	}
	k := in.Document
	revisions, err := c.cfg.Store.Revisions(ctx, k, in.Revision-1, 1)
	if err != nil {
		return nil, "", err
	}
	if len(revisions) == 1 && revisions[0].Revision == in.Revision {
		return []provisioning.Document{revisions[0].Document}, fmt.Sprintf("%s %s to revision %d", k.Kind, k.Name, in.Revision), nil
	}
	return nil, "", provisioning.Errorf(provisioning.CodeNotFound, fmt.Sprintf("See which there are: branchpoint history %s %s", k.Kind, k.Name),
		"there is no revision %d of %s %q", in.Revision, k.Kind, k.Name)
}

// back makes the edit that turns what is stored into what was: all of it where the whole configuration goes back. What is
// the same is left out of it.
func back(stored []provisioning.Document, then map[provisioning.Key]provisioning.Document, whole bool) (edit, error) {
	e := edit{set: map[provisioning.Key]*wanted{}}
	same := map[provisioning.Key]bool{}
	for i := range stored {
		k := stored[i].Key()
		d, ok := then[k]
		same[k] = ok && !d.Deleted && d.Text == stored[i].Text
		if ok && d.Deleted || !ok && whole {
			e.remove = append(e.remove, k)
		}
	}
	var problems provisioning.Problems
	for k, d := range then {
		if same[k] || d.Deleted {
			continue
		}
		// By today's rules: what was right when it was stored may not be any more.
		objects, ps := provisioning.Decode(provisioning.File{Name: fmt.Sprintf("%s %s revision %d", k.Kind, k.Name, d.Revision), Text: []byte(d.Text)})
		problems = append(problems, ps...)
		for _, o := range objects {
			e.set[k] = &wanted{object: o}
		}
	}
	if len(problems) > 0 {
		slices.SortFunc(problems, func(a, b provisioning.Problem) int { return strings.Compare(a.File, b.File) })
		return edit{}, problems
	}
	return e, nil
}
