package client

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"branchpoint/provisioning"
)

// AdminFile is what an administrator's command line needs to reach central. It holds a secret.
type AdminFile struct {
	// Address is central's "host:port".
	Address string `json:"address"`
	// CA is central's CA certificate, PEM.
	CA string `json:"ca"`
	// Token is the administrator's.
	Token string `json:"token"`
}

// ReadAdminFile reads the file that central writes to its data folder, or that a login has written.
func ReadAdminFile(path string) (AdminFile, error) {
	f, err := ReadConnection(path)
	if err == nil && f.Token == "" {
		err = provisioning.Errorf(provisioning.CodeInvalid, "Log in: branchpoint login NAME", "the administrator's file %s holds no token", path)
	}
	if err != nil {
		return AdminFile{}, err
	}
	return f, nil
}

// ReadConnection reads an administrator's file that may lack the token: what one needs to log in.
func ReadConnection(path string) (AdminFile, error) {
	const next = "Central writes it to its data folder as admin.json: name it with --admin FILE or BRANCHPOINT_ADMIN."
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return AdminFile{}, provisioning.Errorf(provisioning.CodeNotFound, next, "there is no administrator's file %s", path)
	}
	if err != nil {
		return AdminFile{}, provisioning.Errorf(provisioning.CodeForbidden, next, "read the administrator's file: %w", err)
	}
	var f AdminFile
	if err := json.Unmarshal(b, &f); err != nil {
		return AdminFile{}, provisioning.Errorf(provisioning.CodeInvalid, next, "read the administrator's file %s: %w", path, err)
	}
	if f.Address == "" || f.CA == "" {
		return AdminFile{}, provisioning.Errorf(provisioning.CodeInvalid, next, "the administrator's file %s is incomplete", path)
	}
	return f, nil
}

// Admin speaks with central for an administrator.
type Admin struct {
	base string
	http *http.Client
}

// NewAdmin makes an administrator's client. It does not contact central yet.
func NewAdmin(f AdminFile, now func() time.Time) (*Admin, error) {
	p, _ := pem.Decode([]byte(f.CA))
	if p == nil || p.Type != "CERTIFICATE" {
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "Take the file from central's data folder again.", "the administrator's file holds no CA certificate")
	}
	c := newHTTP(pinnedTLS(provisioning.SumSHA256(p.Bytes), now))
	c.Transport = authorized{c.Transport, f.Token}
	return &Admin{base: "https://" + f.Address, http: c}, nil
}

// authorized adds the administrator's token to every request.
type authorized struct {
	next  http.RoundTripper
	token string
}

func (a authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+a.token)
	return a.next.RoundTrip(r)
}

// HTTP is the authorised client, and URL central's base URL: content is managed with them.
func (a *Admin) HTTP() *http.Client { return a.http }

// URL is central's base URL, without a slash at its end.
func (a *Admin) URL() string { return a.base }

// CreateToken makes an enrolment token for a site; approval wants a person to approve the appliance that presents it.
func (a *Admin) CreateToken(ctx context.Context, site string, valid time.Duration, approval bool) (Token, error) {
	var t Token
	r := TokenRequest{Site: site, ValidSeconds: int64(valid / time.Second), Approval: approval}
	err := a.ask(ctx, http.MethodPost, PathTokens, r, &t)
	return t, err
}

// defaultRuns is how many runs Status asks for unless it is told otherwise.
const defaultRuns = 100

// Status returns reports of the runs that f chooses, newest first, as many as f says. Next is the Before of those that follow.
func (a *Admin) Status(ctx context.Context, f provisioning.StatusFilter) (StatusReport, error) {
	if f.Runs <= 0 {
		f.Runs = defaultRuns
	}
	q := url.Values{"computer": {f.Computer}, "taskSequence": {f.TaskSequence}, "run": {f.Run}}
	if f.Before > 0 {
		q.Set("after", strconv.FormatUint(f.Before, 10))
	}
	runs := []provisioning.RunReport{}
	for {
		q.Set("limit", strconv.Itoa(min(f.Runs-len(runs), MaxPage)))
		page, err := get[StatusReport](ctx, a, PathStatus, q)
		if err != nil {
			return page, fmt.Errorf("read status: %w", err)
		}
		runs = append(runs, page.Runs...)
		if page.Next == "" || len(runs) >= f.Runs {
			page.Runs = runs
			provisioning.SortReports(page.Runs) // pages are of runs by when central first heard of them
			return page, nil
		}
		q.Set("after", page.Next)
	}
}

// Sites says where every site stands.
func (a *Admin) Sites(ctx context.Context) ([]SiteState, error) {
	return list[SiteState](ctx, a, PathSites, nil)
}
