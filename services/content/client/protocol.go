// Package client reads content from a branch or from central over HTTP and uploads it: what the agent, the branch's
// synchronization and the administrator's command line use. Everything read is checked against its name before it is
// given out. It links no part of desync (see package caibx).
package client

import (
	"context"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// Paths of the interface, below the base URL. Reading is served by branches and central, uploading by central.
const (
	PathChunks    = "/content/v1/chunks/"    // + ID: the chunk in its stored form
	PathBatch     = "/content/v1/batch"      // POST: EncodeBatch -> each chunk after a BatchHeader
	PathIndexes   = "/content/v1/indexes/"   // + SHA256: a chunk index, .caibx
	PathManifests = "/content/v1/manifests/" // + SHA256: a manifest, JSON
	PathContent   = "/v1/content"            // GET: []provisioning.ContentRef
	PathUploads   = "/v1/content/uploads"    // POST: BeginRequest -> BeginAnswer; further: + /ID/{missing,chunks/ID,commit}
)

// MaxMissing is how many chunks one question for missing ones may name.
const MaxMissing = 4096

// BeginRequest asks for an upload of a new version of a package.
type BeginRequest struct {
	Package string `json:"package"`
}

// BeginAnswer names the upload.
type BeginAnswer struct {
	ID string `json:"id"`
}

// ChunkList are chunks' names: in a question for missing ones at most MaxMissing, in the answer those that are.
type ChunkList struct {
	Chunks []caibx.ID `json:"chunks"`
}

// CommitRequest describes what was uploaded: a manifest without what the store decides (version and time), and the
// index of its file.
type CommitRequest struct {
	Format provisioning.Format         `json:"format"`
	Files  []provisioning.ManifestFile `json:"files"`
	Index  []byte                      `json:"index"`
}

// Added says what an upload became.
type Added struct {
	Ref provisioning.ContentRef `json:"ref"`
	// Unchanged says that the package's newest version is this content already, and nothing was added.
	Unchanged bool `json:"unchanged"`
}

// Upload is a new version on its way into a store, here or at the other end of a connection. Its methods may be called
// at the same time, but for Commit, which comes last. An upload that is not committed leaves nothing behind.
type Upload interface {
	// Missing returns those of at most MaxMissing chunks that the store does not have.
	Missing(ctx context.Context, ids []caibx.ID) ([]caibx.ID, error)
	// Put adds a chunk in its stored form. The caller may not change stored afterwards.
	Put(ctx context.Context, id caibx.ID, stored []byte) error
	// Commit makes the upload the newest version of its package.
	Commit(ctx context.Context, c CommitRequest) (Added, error)
	// Abort drops the upload. After Commit it does nothing.
	Abort(ctx context.Context)
}
