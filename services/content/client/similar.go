package client

import (
	"context"
	"encoding/json"
	"net/http"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
)

// MaxSimilar is how many indexes the answer to a question for similar ones names at most.
const MaxSimilar = 4

// Similar is the answer to a question for indexes that share chunks with another: those of other versions of its package,
// the newest first.
type Similar struct {
	Files []provisioning.ManifestFile `json:"files"`
}

// similar returns the indexes of older and newer versions of what x describes. That there are none, or that the server
// does not answer, costs only what could have been reused: it is asked once, for each of them as well.
func (c *Client) similar(ctx context.Context, x *caibx.Index) []*caibx.Index {
	sum := provisioning.SumSHA256(x.Encode())
	b, err := c.once(ctx, http.MethodGet, PathIndexes+string(sum)+"/similar", nil, nil, maxAnswer)
	var s Similar
	if err != nil || json.Unmarshal(b, &s) != nil {
		return nil
	}
	var all []*caibx.Index
	impatient := *c
	impatient.Patience = 0
	for _, f := range s.Files[:min(len(s.Files), MaxSimilar)] {
		if !f.Index.Valid() || f.Size < 0 || f.Size > 4*max(x.Size(), 1<<30) {
			continue // so that what is read of it stays in proportion
		}
		if y, err := impatient.Index(ctx, f); err == nil {
			all = append(all, y)
		}
	}
	return all
}

// sources says where on the disk chunks may lie that are missing: where the image has them a second time, in place, and
// where another version has them that the disk seems to hold.
func (w *diskWriter) sources(ctx context.Context, missing []caibx.Chunk) map[caibx.ID]int64 {
	wanted := make(map[caibx.ID]bool, len(missing))
	for _, k := range missing {
		wanted[k.ID] = true
	}
	sources := map[caibx.ID]int64{}
	for i, k := range w.x.Chunks {
		if w.have[i] && wanted[k.ID] {
			sources[k.ID] = k.Start
		}
	}
	for _, x := range w.c.similar(ctx, w.x) {
		if here, _ := w.sample(x.Chunks); !here {
			continue
		}
		for _, k := range x.Chunks {
			if _, known := sources[k.ID]; wanted[k.ID] && !known {
				sources[k.ID] = k.Start
			}
		}
	}
	return sources
}
