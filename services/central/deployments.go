package central

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
	"branchpoint/services/central/client"
)

// Advertisements says how far advertisements have come on computers that the caller may see: each computer counts once for
// each, by the newest run that no order has cleared.
func (c *Central) Advertisements(ctx context.Context, p client.Page) (client.List[client.AdvertisementStatus], error) {
	out := client.List[client.AdvertisementStatus]{Items: []client.AdvertisementStatus{}}
	ads, err := c.advertisements(ctx)
	if err != nil {
		return out, err
	}
	ads, out.Next = part(ads, p, func(a *provisioning.Advertisement) string { return a.Name })
	wanted := map[string]bool{}
	for _, a := range ads {
		wanted[a.Name] = true
	}
	err = c.reporting.do(ctx, func() error {
		s, err := c.survey(ctx, func(name string) bool { return wanted[name] })
		if err != nil {
			return err
		}
		counts := make([]client.AdvertisementStatus, len(ads))
		targets := make([]*target, len(ads))
		for i, a := range ads {
			counts[i], targets[i] = describe(a, c.cfg.Now()), s.target(a)
		}
		s.each(func(x *surveyed) {
			subject := s.subjectOnce(x)
			for i := range counts {
				if d, ok := deployment(x, targets[i], counts[i].Expired, subject); ok {
					count(&counts[i], d.State)
				}
			}
		})
		out.Items = append(out.Items, counts...)
		return nil
	})
	return out, err
}

// AdvertisementComputers says how far an advertisement has come on each of its computers that the caller may see. It fails
// with CodeNotFound where there is no such advertisement.
func (c *Central) AdvertisementComputers(ctx context.Context, name string, state client.DeploymentState, p client.Page) (client.DeploymentPage, error) {
	out := client.DeploymentPage{}
	switch state {
	case "", client.Waiting, client.Running, client.Succeeded, client.Failed:
	default:
		return out, provisioning.Errorf(provisioning.CodeInvalid, "Write waiting, running, succeeded or failed.", "state %.64q is not known", state)
	}
	ads, err := c.advertisements(ctx)
	if err != nil {
		return out, err
	}
	i := slices.IndexFunc(ads, func(a *provisioning.Advertisement) bool { return a.Name == name })
	if i < 0 {
		return out, provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint advertisement status", "there is no Advertisement %.64q", name)
	}
	out.Advertisement = describe(ads[i], c.cfg.Now())
	err = c.reporting.do(ctx, func() error {
		s, err := c.survey(ctx, func(a string) bool { return a == name })
		if err != nil {
			return err
		}
		var all []client.Deployment
		to := s.target(ads[i])
		s.each(func(x *surveyed) {
			if d, ok := deployment(x, to, out.Advertisement.Expired, s.subjectOnce(x)); ok {
				count(&out.Advertisement, d.State)
				if state == "" || d.State == state {
					all = append(all, d)
				}
			}
		})
		out.Items, out.Next = part(all, p, func(d client.Deployment) string { return d.Computer })
		return nil
	})
	return out, err
}

// advertisements are those that the caller may see, by name.
func (c *Central) advertisements(ctx context.Context) ([]*provisioning.Advertisement, error) {
	docs, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return nil, err
	}
	catalog, err := c.decoded.catalog(docs)
	if err != nil {
		return nil, err
	}
	readable, err := c.readable(ctx, docs)
	if err != nil {
		return nil, err
	}
	var out []*provisioning.Advertisement
	for k, o := range catalog {
		if o.Advertisement != nil && readable(k) {
			out = append(out, o.Advertisement)
		}
	}
	slices.SortFunc(out, func(a, b *provisioning.Advertisement) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func describe(a *provisioning.Advertisement, now time.Time) client.AdvertisementStatus {
	return client.AdvertisementStatus{
		Name: a.Name, TaskSequence: a.Spec.TaskSequence, Purpose: a.Spec.Purpose, Collection: a.Spec.Collection,
		Expired: !a.Spec.Expires.IsZero() && !now.Before(a.Spec.Expires.Time),
	}
}

func count(s *client.AdvertisementStatus, state client.DeploymentState) {
	switch state {
	case client.Waiting:
		s.Waiting++
	case client.Running:
		s.Running++
	case client.Succeeded:
		s.Succeeded++
	case client.Failed:
		s.Failed++
	}
}

// target is whom an advertisement is for.
type target struct {
	name   string
	listed map[string]bool
	of     *collection.Collection // nil where it lists computers
}

func (s *survey) target(a *provisioning.Advertisement) *target {
	t := &target{name: a.Name, listed: map[string]bool{}}
	for _, n := range a.Spec.Computers {
		t.listed[n] = true
	}
	if n := a.Spec.Collection; n != "" {
		document := provisioning.Collection{Name: n}
		if o := s.catalog[provisioning.Key{Kind: provisioning.KindCollection, Name: n}]; o.Collection != nil {
			document = *o.Collection
		}
		t.of, _ = collection.New(document) // a query that cannot be used fits nobody, here as at the branch
	}
	return t
}

// deployment is how far an advertisement has come on a computer; false where it is not for it, and did not run there.
func deployment(x *surveyed, t *target, expired bool, subject func() *collection.Subject) (client.Deployment, bool) {
	if r := x.newest[t.name]; r != nil {
		return deploymentOf(x.name, r), true
	}
	if expired || x.computer == nil || x.infrastructure || !t.listed[x.name] && (t.of == nil || !t.of.Member(subject()).Member) {
		return client.Deployment{}, false
	}
	return client.Deployment{Computer: x.name, Site: x.computer.Spec.Site, State: client.Waiting}, true
}

// deploymentOf is a run as it stands.
func deploymentOf(computer string, r *provisioning.RunRecord) client.Deployment {
	state := client.Running
	switch r.Run.State {
	case provisioning.RunSucceeded:
		state = client.Succeeded
	case provisioning.RunFailed:
		state = client.Failed
	}
	return client.Deployment{
		Computer: computer, Site: r.Site, State: state, Run: r.Run.ID, Advertisement: r.Run.Advertisement, TaskSequence: r.Run.TaskSequence,
		Step: r.Step, Title: r.Title, ExitCode: r.ExitCode, Text: r.Text, StartedAt: r.Run.StartedAt, UpdatedAt: r.Run.UpdatedAt,
	}
}

// each calls do with every computer that the caller may see, by name.
func (s *survey) each(do func(*surveyed)) {
	all := slices.Clone(s.computers)
	for _, x := range s.strangers {
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b *surveyed) int { return strings.Compare(a.name, b.name) })
	for _, x := range all {
		if x.visible {
			do(x)
		}
	}
}

// subjectOnce makes a computer's subject when it is first asked for.
func (s *survey) subjectOnce(x *surveyed) func() *collection.Subject {
	var subject *collection.Subject
	return func() *collection.Subject {
		if subject == nil {
			subject = s.subject(x)
		}
		return subject
	}
}

// part is the part of a sorted list that a page asks for, and the Next of that page.
func part[T any](all []T, p client.Page, name func(T) string) ([]T, string) {
	limit := p.Limit
	if limit <= 0 || limit > client.MaxPage {
		limit = client.MaxPage
	}
	from := 0
	if p.After != "" {
		from, _ = slices.BinarySearchFunc(all, p.After, func(x T, after string) int {
			if name(x) <= after {
				return -1
			}
			return 1
		})
	}
	all = all[from:]
	if len(all) <= limit {
		return append([]T{}, all...), ""
	}
	return append([]T{}, all[:limit]...), name(all[limit-1])
}
