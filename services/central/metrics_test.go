package central_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// get asks central as anybody can, with a token if there is one.
func (s *site) get(method, path, token string) (int, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.address+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA())
	anybody := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	answer, err := anybody.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	s := start(t, t.TempDir())
	if code, body := s.get(http.MethodGet, "/metrics", ""); code != http.StatusUnauthorized || strings.Contains(body, "branchpoint_") {
		t.Errorf("without a token: %d, %s", code, body)
	}
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	batch := []provisioning.StatusMessage{message(1, provisioning.StatusSequenceStarted, 0), message(2, provisioning.StatusStepStarted, 1)}
	for range 3 { // the answer was lost, twice
		if err := lon.Report(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if snapshot, err := lon.Snapshot(t.Context(), 0, 0, 0); err != nil || snapshot == nil {
		t.Fatal(snapshot, err)
	}
	for _, path := range []string{"/one-of-many", "/another", client.PathContentAdmin + "/chunks/aaaa", client.PathContentAdmin + "/chunks/bbbb"} {
		s.get(http.MethodGet, path, "")
	}
	code, body := s.get(http.MethodGet, "/metrics", s.token)
	if code != http.StatusOK {
		t.Fatalf("%d: %s", code, body)
	}
	for _, want := range []string{
		`branchpoint_central_requests_total{route="GET /metrics",status="401"} 1`,
		`branchpoint_central_requests_total{route="other",status="404"} 2`,
		`branchpoint_central_requests_total{route="` + client.PathContentAdmin + `/",status="401"} 2`,
		`branchpoint_central_requests_total{route="POST ` + client.PathBranchStatus + `",status="200"} 3`,
		`branchpoint_central_enrolments_total{result="accepted"} 1`,
		`branchpoint_central_enrolments_total{result="refused"} 0`,
		`branchpoint_central_status_messages_total{result="stored"} 2`,
		`branchpoint_central_status_messages_total{result="duplicate"} 4`,
		`branchpoint_central_snapshots_published_total 2`,
		`branchpoint_central_snapshots_sent_total 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("%s is missing in:\n%s", want, body)
		}
	}
	for _, name := range []string{"LON", "desk-1", "rollout", "aaaa", "one-of-many"} {
		if strings.Contains(body, name) {
			t.Errorf("%q came from the wire into:\n%s", name, body)
		}
	}
	if problems, err := testutil.GatherAndLint(s.metrics); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

func TestHealth(t *testing.T) {
	s := start(t, t.TempDir())
	ask := func() (int, string, string) {
		t.Helper()
		code, body := s.get(http.MethodGet, "/healthz", "")
		var h struct {
			Status string `json:"status"`
			Roles  map[string]struct{ State, Text string }
		}
		if err := json.Unmarshal([]byte(body), &h); err != nil {
			t.Fatalf("%v in %q", err, body)
		}
		return code, h.Status, h.Roles["database"].State
	}
	if code, status, database := ask(); code != http.StatusOK || status != "ok" || database != "ok" {
		t.Errorf("%d, %s, %s", code, status, database)
	}
	if code, _ := s.get(http.MethodPost, "/healthz", ""); code != http.StatusMethodNotAllowed && code != http.StatusNotFound {
		t.Errorf("POST: %d", code)
	}
	if code, _ := s.get(http.MethodHead, "/healthz", ""); code != http.StatusOK {
		t.Errorf("HEAD: %d", code)
	}
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	if code, status, database := ask(); code != http.StatusServiceUnavailable || status != "problem" || database != "problem" {
		t.Errorf("without its database: %d, %s, %s", code, status, database)
	}
}
