package central

import (
	"context"
	"errors"
	"maps"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
	"branchpoint/services/central/client"
)

// Members says who belongs to a collection, of the computers that the caller may see, by the package by which branches decide
// it. It fails with CodeNotFound where there is no such collection.
func (c *Central) Members(ctx context.Context, name string, p client.Page) (client.MemberPage, error) {
	var out client.MemberPage
	err := c.reporting.do(ctx, func() error {
		s, err := c.survey(ctx, noRuns)
		if err != nil {
			return err
		}
		document := provisioning.Collection{Name: name}
		if name != provisioning.AllSystems && name != provisioning.AllUnknownComputers {
			k := provisioning.Key{Kind: provisioning.KindCollection, Name: name}
			o := s.catalog[k]
			if o.Collection == nil || !s.readable(k) {
				return provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint get collections", "there is no Collection %.64q", name)
			}
			document = *o.Collection
		}
		out = s.members(document, p)
		return nil
	})
	return out, err
}

// Preview says who would belong to a collection that is not applied, of the computers that the caller may see. Faults of the
// document come back as provisioning.Problems.
func (c *Central) Preview(ctx context.Context, in client.PreviewRequest) (client.MemberPage, error) {
	var out client.MemberPage
	given, err := decodeAll([]provisioning.File{in.File})
	if err != nil {
		return out, err
	}
	if len(given) != 1 {
		return out, provisioning.Errorf(provisioning.CodeInvalid, "Give a file with one.", "%.128s holds %d documents; one collection is previewed at a time", in.File.Name, len(given))
	}
	for k, o := range given {
		if o.Collection == nil {
			return out, provisioning.Problems{o.Problem("$.kind", "this is a %s; a Collection is wanted", k.Kind)}
		}
		err = c.reporting.do(ctx, func() error {
			s, err := c.survey(ctx, noRuns)
			if err != nil {
				return err
			}
			as := maps.Clone(s.catalog)
			as[k] = o
			if ps := append(as.Check([]provisioning.Key{k}, nil), queryProblems(&o)...); len(ps) > 0 {
				return ps
			}
			out = s.members(*o.Collection, client.Page{After: in.After, Limit: in.Limit})
			return nil
		})
	}
	return out, err
}

// noRuns asks a survey for the runs of no advertisement.
func noRuns(string) bool { return false }

// members are a part of a collection's.
func (s *survey) members(document provisioning.Collection, p client.Page) client.MemberPage {
	out := client.MemberPage{Collection: document.Name}
	compiled, _ := collection.New(document) // a query that cannot be used fits nobody, and says so of each computer
	var all []collection.Membership
	for subject := range s.subjects() {
		out.Computers++
		m := compiled.Member(subject)
		if m.Member {
			out.Members++
		} else if m.Failed {
			out.Failed++
		}
		if m.Member || m.Failed {
			all = append(all, m)
		}
	}
	out.Items, out.Next = part(all, p, func(m collection.Membership) string { return m.Computer })
	return out
}

// queryProblems are the faults of a collection's query, at their places.
func queryProblems(o *provisioning.Object) provisioning.Problems {
	if o.Collection == nil || o.Collection.Spec.Query == "" {
		return nil
	}
	_, err := collection.New(*o.Collection)
	wrong, _ := errors.AsType[collection.QueryErrors](err)
	var ps provisioning.Problems
	for _, e := range wrong {
		ps = append(ps, o.ProblemInText("$.spec.query", e.Line, e.Column, "the query: %s", e.Message))
	}
	return ps
}
