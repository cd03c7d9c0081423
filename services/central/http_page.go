package central

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// Paging is what every list takes. A page begins after the last entry of the page before, wherever that is by then: what is
// added or goes meanwhile moves nothing else into a page or out of one.
type Paging struct {
	After string `query:"after" maxLength:"1000" doc:"Where the page begins: the next of the page before; empty is the first page."`
	Limit int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"How many entries at most. There may be fewer although there are more: see next."`
}

// number reads the number after which a page begins, 0 where it is the first one.
func (p *Paging) number() (uint64, error) {
	if p.After == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(p.After, 10, 63) // numbers of the store have 63 bits
	if err != nil {
		return 0, provisioning.Errorf(provisioning.CodeInvalid, "Take it from the next of the page before.", "after is %.64q; a number is wanted", p.After)
	}
	return n, nil
}

// page is the answer to a request for a list.
type page[T any] = answer[client.List[T]]

// cut makes a page of all entries of a list. key orders them; it is unique and never changes. Entries that keep does not
// accept are left out; nil accepts all.
func cut[T any](p *Paging, all []T, key func(*T) string, keep func(*T) bool) *page[T] {
	byKey := func(a, b T) int { return strings.Compare(key(&a), key(&b)) }
	if !slices.IsSortedFunc(all, byKey) {
		all = slices.Clone(all)
		slices.SortFunc(all, byKey)
	}
	from := 0
	if p.After != "" {
		var found bool
		if from, found = slices.BinarySearchFunc(all, p.After, func(e T, after string) int { return strings.Compare(key(&e), after) }); found {
			from++
		}
	}
	out := client.List[T]{Items: []T{}}
	for i := from; i < len(all); i++ {
		if keep != nil && !keep(&all[i]) {
			continue
		}
		if len(out.Items) == p.Limit {
			out.Next = key(&out.Items[p.Limit-1])
			break
		}
		out.Items = append(out.Items, all[i])
	}
	return &page[T]{out}
}

// cutRead makes a page of the entries that were read by its limit. Those that keep does not accept are left out but count, so
// that no request reads more than its limit.
func cutRead[T any](p *Paging, read []T, cursor func(*T) string, keep func(*T) bool) *page[T] {
	out := client.List[T]{Items: []T{}}
	if len(read) >= p.Limit {
		out.Next = cursor(&read[len(read)-1])
	}
	for i := range read {
		if keep == nil || keep(&read[i]) {
			out.Items = append(out.Items, read[i])
		}
	}
	return &page[T]{out}
}

// newestFirst is a key that orders by time, the newest first, then by id.
func newestFirst(t time.Time, id string) string {
	return fmt.Sprintf("%019d %s", uint64(math.MaxInt64-t.UnixNano()), id)
}

// lists makes an operation of one of central's methods that returns a whole list.
func lists[T any](do func(context.Context) ([]T, error), key func(*T) string) func(context.Context, *Paging) (*page[T], error) {
	return func(ctx context.Context, in *Paging) (*page[T], error) {
		all, err := do(ctx)
		if err != nil {
			return nil, err
		}
		return cut(in, all, key, nil), nil
	}
}

// DocumentsQuery chooses documents.
type DocumentsQuery struct {
	Paging
	Kind provisioning.Kind `query:"kind" doc:"Only documents of this kind, such as Site or Computer."`
	Name string            `query:"name" doc:"Only documents of this name."`
}

func (c *Central) listDocuments(ctx context.Context, in *DocumentsQuery) (*page[provisioning.Document], error) {
	if in.Kind != "" && !slices.Contains(provisioning.Kinds, in.Kind) {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "", "kind %.64q is unknown", in.Kind)
	}
	paging, at, err := in.moment()
	if err != nil {
		return nil, err
	}
	docs, at, err := c.documentsAt(ctx, at)
	if err != nil {
		return nil, err
	}
	sees, err := c.sees(ctx)
	if err != nil {
		return nil, err
	}
	out := cut(&paging, chosen(docs, in.Kind, in.Name), documentKey, sees)
	if out.Body.Next != "" {
		out.Body.Next += fmt.Sprintf("@%d", at)
	}
	return out, nil
}

// moment takes the change apart from where a page of documents begins: Computer/desk-99@12 is what follows desk-99 in the
// configuration as it was after change 12. All pages of a list are of the moment of its first one, whose change is 0.
func (p *Paging) moment() (Paging, uint64, error) {
	out := *p
	i := strings.LastIndexByte(p.After, '@')
	if i < 0 {
		return out, 0, nil
	}
	out.After = p.After[:i]
	change := Paging{After: p.After[i+1:]}
	at, err := change.number()
	return out, at, err
}

// documentsAt returns the documents that were in force after a change, and the change; 0 is the newest.
func (c *Central) documentsAt(ctx context.Context, at uint64) ([]provisioning.Document, uint64, error) {
	newest, err := c.newestChange(ctx)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case at == 0:
		at = newest
	case at > newest:
		return nil, 0, provisioning.Errorf(provisioning.CodeConflict, "Begin the list again, without after.",
			"there is no change %d: central was restored from a backup since, or after is not from it", at)
	}
	if at == newest { // the store has these at hand
		docs, err := c.cfg.Store.Documents(ctx)
		if err != nil {
			return nil, 0, err
		}
		if now, err := c.newestChange(ctx); err != nil || now == at {
			return docs, at, err
		}
		if at == 0 { // the first change came just now
			return c.documentsAt(ctx, 0)
		}
	}
	var docs []provisioning.Document
	err = c.reporting.do(ctx, func() (err error) {
		docs, err = c.cfg.Store.DocumentsAt(ctx, at)
		return err
	})
	return docs, at, err
}

func (c *Central) newestChange(ctx context.Context) (uint64, error) {
	newest, err := c.cfg.Store.Changes(ctx, 0, 1)
	if err != nil || len(newest) == 0 {
		return 0, err
	}
	return newest[0].Number, nil
}

func documentKey(d *provisioning.Document) string { return string(d.Kind) + "/" + d.Name }

func (c *Central) listChanges(ctx context.Context, in *Paging) (*page[provisioning.Change], error) {
	after, err := in.number()
	if err != nil {
		return nil, err
	}
	read, err := c.cfg.Store.Changes(ctx, after, in.Limit)
	if err != nil {
		return nil, err
	}
	return cutRead(in, c.visibleChanges(ctx, read), func(x *provisioning.Change) string { return strconv.FormatUint(x.Number, 10) }, nil), nil
}

// RevisionsQuery chooses the revisions of a document, oldest first, or those that a change made, by kind and name.
type RevisionsQuery struct {
	Paging
	Change int64             `query:"change" minimum:"0" doc:"The change whose revisions are wanted; else kind and name."`
	Kind   provisioning.Kind `query:"kind" doc:"The kind of the document whose revisions are wanted."`
	Name   string            `query:"name" doc:"Its name."`
}

func (c *Central) listRevisions(ctx context.Context, in *RevisionsQuery) (*page[provisioning.Revision], error) {
	read, cursor, err := c.revisions(ctx, in)
	if err != nil {
		return nil, err
	}
	out := cutRead(&in.Paging, read, cursor, nil)
	out.Body.Items, err = c.visibleRevisions(ctx, read)
	return out, err
}

// revisions reads a page of revisions, and returns what makes the cursor of one. It fails with CodeNotFound where there are none
// at all.
func (c *Central) revisions(ctx context.Context, in *RevisionsQuery) ([]provisioning.Revision, func(*provisioning.Revision) string, error) {
	if in.Change != 0 {
		var after provisioning.Key
		if kind, name, ok := strings.Cut(in.After, "/"); ok {
			after = provisioning.Key{Kind: provisioning.Kind(kind), Name: name}
		}
		read, err := c.cfg.Store.ChangeRevisions(ctx, uint64(in.Change), after, in.Limit)
		if err == nil && len(read) == 0 && in.After == "" {
			err = provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint history", "there is no change %d", in.Change)
		}
		return read, func(r *provisioning.Revision) string { return documentKey(&r.Document) }, err
	}
	after, err := in.number()
	if err != nil {
		return nil, nil, err
	}
	read, err := c.cfg.Store.Revisions(ctx, provisioning.Key{Kind: in.Kind, Name: in.Name}, int64(after), in.Limit)
	if err == nil && len(read) == 0 && in.After == "" {
		err = provisioning.Errorf(provisioning.CodeNotFound, "See which there are: branchpoint get", "there never was a %.64s %.64q", in.Kind, in.Name)
	}
	return read, func(r *provisioning.Revision) string { return strconv.FormatInt(r.Revision, 10) }, err
}

// AuditQuery chooses entries of the audit log.
type AuditQuery struct {
	Paging
	Account string `query:"account" doc:"Only what this account did."`
	Kind    string `query:"kind" doc:"Only what concerns this kind of documents or other things, such as Account or APIToken."`
	Name    string `query:"name" doc:"Only what concerns what has this name."`
	Site    string `query:"site" doc:"Only what concerns this site's document, enrolment and orders."`
}

func (c *Central) listAudit(ctx context.Context, in *AuditQuery) (*page[provisioning.AuditEntry], error) {
	after, err := in.number()
	if err != nil {
		return nil, err
	}
	read, err := c.cfg.Store.Audit(ctx, provisioning.AuditFilter{
		Before: after, Limit: in.Limit, Account: in.Account, Kind: in.Kind, Name: in.Name, Site: in.Site,
	})
	if err != nil {
		return nil, err
	}
	who := callerOf(ctx)
	return cutRead(&in.Paging, read, func(e *provisioning.AuditEntry) string { return strconv.FormatUint(e.Number, 10) }, func(e *provisioning.AuditEntry) bool {
		return who == nil || who.seesEntry(e)
	}), nil
}
