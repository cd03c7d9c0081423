package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// maxAnswer bounds the answers of the upload interface, in bytes.
const maxAnswer = 4 << 20

// List returns all versions of all packages the server has.
func (c *Client) List(ctx context.Context) ([]provisioning.ContentRef, error) {
	var refs []provisioning.ContentRef
	err := c.call(ctx, http.MethodGet, PathContent, nil, &refs)
	return refs, err
}

// Begin starts the upload of a new version of a package.
func (c *Client) Begin(ctx context.Context, name string) (Upload, error) {
	if err := provisioning.CheckName(name); err != nil {
		return nil, err
	}
	var a BeginAnswer
	if err := c.call(ctx, http.MethodPost, PathUploads, BeginRequest{Package: name}, &a); err != nil {
		return nil, err
	}
	return &upload{c: c, path: PathUploads + "/" + url.PathEscape(a.ID)}, nil
}

// call sends in as JSON and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	header := http.Header{}
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		header.Set("Content-Type", "application/json")
	}
	b, err := c.do(ctx, method, path, header, body, maxAnswer)
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "check that the address is central's", "%s%s: the answer is not what belongs there: %w", c.base, path, err)
	}
	return nil
}

type upload struct {
	c    *Client
	path string
	done bool
}

func (u *upload) Missing(ctx context.Context, ids []caibx.ID) ([]caibx.ID, error) {
	var missing ChunkList
	err := u.c.call(ctx, http.MethodPost, u.path+"/missing", ChunkList{Chunks: ids}, &missing)
	return missing.Chunks, err
}

func (u *upload) Put(ctx context.Context, id caibx.ID, stored []byte) error {
	_, err := u.c.do(ctx, http.MethodPut, u.path+"/chunks/"+id.String(), http.Header{"Content-Type": {"application/zstd"}}, stored, maxAnswer)
	return err
}

// Commit is safe to repeat: content that is there already is answered as unchanged. So a lost answer does no harm.
func (u *upload) Commit(ctx context.Context, r CommitRequest) (Added, error) {
	var a Added
	err := u.c.call(ctx, http.MethodPost, u.path+"/commit", r, &a)
	u.done = err == nil
	return a, err
}

func (u *upload) Abort(ctx context.Context) {
	if !u.done {
		_, _ = u.c.once(ctx, http.MethodDelete, u.path, nil, nil, maxAnswer) // what is left is removed by the store after a day
	}
}
