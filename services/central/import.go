package central

import (
	"context"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/provisioning/computers"
	"branchpoint/services/central/client"
)

// ImportComputers puts the computers of a list (package computers) in force as one change. Where lines have errors nothing is
// imported and they come back as provisioning.Problems, unless they are to be skipped; a dry run reports them with the others.
func (c *Central) ImportComputers(ctx context.Context, in client.ImportRequest) (client.ImportResult, error) {
	var list computers.Result
	made := map[provisioning.Key]*wanted{} // by the call before
	answer := func(r client.ChangeResult) client.ImportResult {
		return client.ImportResult{ChangeResult: r, Lines: list.Lines, Errors: list.Errors}
	}
	result, err := c.change(ctx, changeRequest{
		command: provisioning.CommandImport, note: "of " + in.File.Name, Caution: in.Caution,
		answer: func(r client.ChangeResult) any { return answer(r) },
		edit: func(stored []provisioning.Document) (edit, error) {
			catalog, err := c.decoded.catalog(stored)
			if err != nil {
				return edit{}, err
			}
			list, err = computers.Import(in.File, catalog, computers.Options{Site: in.Site, Collection: in.Collection, SkipErrors: in.SkipErrors})
			if err != nil {
				return edit{}, err
			}
			if ps := lineProblems(in.File.Name, list.Lines); len(ps) > 0 && !in.SkipErrors && !in.DryRun {
				return edit{}, ps
			}
			return importEdit(list.Objects(), made)
		},
	})
	if err != nil {
		return client.ImportResult{}, err
	}
	return answer(result), nil
}

// importEdit makes the edit that sets objects; made remembers what it is made of.
func importEdit(objects []provisioning.Object, made map[provisioning.Key]*wanted) (edit, error) {
	e := edit{set: make(map[provisioning.Key]*wanted, len(objects))}
	for _, o := range objects {
		text, err := o.Encode()
		if err != nil {
			return edit{}, err
		}
		k := o.Key()
		if w := made[k]; w == nil || w.text != text {
			made[k] = &wanted{object: o, text: text}
		}
		e.set[k] = made[k]
	}
	return e, nil
}

// lineProblems are the errors of a list's lines.
func lineProblems(file string, lines []computers.Line) provisioning.Problems {
	var ps provisioning.Problems
	for _, l := range lines {
		if l.Outcome == computers.Error {
			ps = append(ps, provisioning.Problem{File: file, Line: l.Line, Column: 1, Message: strings.Join(l.Texts, "; ")})
		}
	}
	return ps
}
