package central

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"branchpoint/provisioning"
)

// Kinds of what audit entries are about beside documents.
const (
	auditAccount         = "Account"
	auditAPIToken        = "APIToken"
	auditEnrolmentToken  = "EnrolmentToken" //nolint:gosec // no credential
	auditSiteCertificate = "SiteCertificate"
	auditRootKey         = "RootKey"
	auditSettings        = "Settings"
	auditPackage         = "Content"
	auditConsole         = "Console"
	auditHost            = "Host"
)

// entry makes an audit entry by who acts in ctx, now.
func (c *Central) entry(ctx context.Context, action, kind, name, site string) provisioning.AuditEntry {
	a := provisioning.ActorOf(ctx)
	return provisioning.AuditEntry{At: c.cfg.Now(), Account: a.Account, From: a.From, Action: action, Kind: kind, Name: name, Site: site}
}

// seesEntry reports whether whoever asks may read an entry: whoever is limited sees what they did themselves, and what concerns
// their sites, the computers that belong to them, and the collections of their limits.
func (who *caller) seesEntry(e *provisioning.AuditEntry) bool {
	if e.Account == who.account {
		return true
	}
	t := provisioning.Target{Name: e.Name, Scopes: entryScopes(e)}
	return provisioning.Allowed(who.account, who.roles, provisioning.ActionRead, t) == ""
}

// entryScopes are where an entry's document belongs, before and after.
func entryScopes(e *provisioning.AuditEntry) []provisioning.Scope {
	out := []provisioning.Scope{{Site: e.Site}}
	switch provisioning.Kind(e.Kind) {
	case provisioning.KindSite:
		out = append(out, provisioning.Scope{Site: e.Name})
	case provisioning.KindCollection:
		out = append(out, provisioning.Scope{Collections: []string{e.Name}})
	case provisioning.KindComputer:
		for _, text := range slices.Compact([]string{e.Before, e.After}) {
			d := provisioning.Document{Kind: provisioning.KindComputer, Name: e.Name, Text: text}
			if o, err := d.Decode(); err == nil {
				out = append(out, provisioning.Scope{Site: o.Computer.Spec.Site})
			}
		}
	}
	return out
}

// kept is an answer that is remembered while it is sent, as far as it is short.
type kept struct {
	http.ResponseWriter
	status int
	body   []byte
}

// maxKept bounds what is remembered of an answer, in bytes.
const maxKept = 64 << 10

func (k *kept) WriteHeader(status int) {
	k.status = status
	k.ResponseWriter.WriteHeader(status)
}

func (k *kept) Write(b []byte) (int, error) {
	k.body = append(k.body, b[:min(len(b), maxKept-len(k.body))]...)
	return k.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (k *kept) Unwrap() http.ResponseWriter { return k.ResponseWriter }

// auditContent notes each new version of a package that is added by next. The content store is another one than the database:
// where central ends between the two, the version is there without an entry.
func (c *Central) auditContent(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/commit") {
			next(w, r)
			return
		}
		k := &kept{ResponseWriter: w}
		next(k, r)
		var added struct {
			Ref       provisioning.ContentRef `json:"ref"`
			Unchanged bool                    `json:"unchanged"`
		}
		if k.status != 0 && k.status/100 != 2 || json.Unmarshal(k.body, &added) != nil || added.Unchanged || added.Ref.Package == "" {
			return
		}
		e := c.entry(r.Context(), "add", auditPackage, added.Ref.Package, "")
		e.After = fmt.Sprintf("version: %d\nmanifest: %s\nsize: %d\n", added.Ref.Version, added.Ref.Manifest, added.Ref.Size)
		if err := c.cfg.Store.AppendAudit(context.WithoutCancel(r.Context()), e); err != nil {
			c.cfg.Log.Error("cannot note who added content", "package", added.Ref.Package, "error", err)
		}
	}
}
