package client

import (
	"context"
	"net/url"

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
)

// PathCollections is where administrators ask who belongs to a collection, at …/{name}/members, and PathPreview who would
// belong to one that is not applied.
const (
	PathCollections = "/v1/collections"
	PathPreview     = "/v1/preview/collection"
)

// PreviewRequest is a collection that is not applied.
type PreviewRequest struct {
	// File holds one document, of kind Collection.
	File provisioning.File `json:"file"`
	// After is the next of the part before, and Limit bounds the part, 1 to 1000; 0 is 1000.
	After string `json:"after,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

// MemberPage is a part of a collection's members, as far as the caller may see them, by name.
type MemberPage struct {
	Collection string `json:"collection"`
	// Members is how many there are, and Failed how many computers the query gives no answer about, so that they are none; of Computers.
	Members   int `json:"members"`
	Failed    int `json:"failed"`
	Computers int `json:"computers"`
	// Items are those of this part: members, and computers that the query gives no answer about.
	Items []collection.Membership `json:"items"`
	// Next is the after of the part that follows; empty where there is none.
	Next string `json:"next,omitempty"`
}

// Members says who belongs to a collection. It fails with CodeNotFound where there is no such collection.
func (a *Admin) Members(ctx context.Context, name string, p Page) (MemberPage, error) {
	return get[MemberPage](ctx, a, PathCollections+"/"+url.PathEscape(name)+"/members", p.query())
}

// Preview says who would belong to a collection that is not applied. Faults come back as provisioning.Problems.
func (a *Admin) Preview(ctx context.Context, in PreviewRequest) (MemberPage, error) {
	return post[MemberPage](ctx, a, PathPreview, in)
}
