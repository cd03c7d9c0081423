package appliance

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"branchpoint/appliance/screen"
	"branchpoint/services/branch"
	"branchpoint/services/content"
	"branchpoint/services/store"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestHealthOf(t *testing.T) {
	secret := "pc-0815 at 192.0.2.1 with token XYZ"
	ok, busy, bad := screen.Item{State: screen.OK, Text: secret}, screen.Item{State: screen.Busy, Text: secret}, screen.Item{State: screen.Problem, Text: secret, Next: secret}
	for _, c := range []struct {
		name   string
		items  map[string]screen.Item
		status string
		states map[string]string
	}{
		{"nothing has begun", nil, "ok", map[string]string{}},
		{"all is well", map[string]screen.Item{topicDisk: ok, topicPXE: ok}, "ok", map[string]string{"data-disk": "ok", "pxe": "ok"}},
		{"one waits", map[string]screen.Item{topicDisk: ok, topicContent: busy}, "ok", map[string]string{"data-disk": "ok", "content": "busy"}},
		{"one has a problem", map[string]screen.Item{topicDisk: bad, topicContent: busy, topicPXE: ok}, "problem", map[string]string{"data-disk": "problem", "content": "busy", "pxe": "ok"}},
		{"what is no role", map[string]screen.Item{"Status": bad, topicMedium: bad, topicPXE: ok}, "ok", map[string]string{"pxe": "ok"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := healthOf(c.items, false)
			states := map[string]string{}
			for role, r := range h.Roles {
				states[role] = r.State
				if r.Text == "" {
					t.Errorf("%s says nothing", role)
				}
			}
			if h.Status != c.status || !reflect.DeepEqual(states, c.states) {
				t.Errorf("%+v, want %s %v", h, c.status, c.states)
			}
			if b, err := json.Marshal(h); err != nil || strings.Contains(string(b), "0815") {
				t.Errorf("%s, %v: it tells what is on the screen", b, err)
			}
		})
	}
	// Every role has its own words for every state.
	seen := map[string]bool{}
	for _, r := range healthTopics {
		if seen[r.role] || r.ok == "" || r.busy == "" || r.problem == "" {
			t.Errorf("%+v", r)
		}
		seen[r.role] = true
	}
}

func ask(t *testing.T, a *appliance, method, path string) (int, string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	a.metricsHandler().ServeHTTP(w, httptest.NewRequest(method, path, nil))
	b, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(b), w.Header()
}

func TestMetricsAndHealthAreServed(t *testing.T) {
	a := testAppliance()
	roles := prometheus.NewRegistry()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "branch.db"), store.Alone(), store.Metrics(roles))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	chunks, err := content.Open(filepath.Join(t.TempDir(), "content"), a.Log, content.Metrics(roles))
	if err != nil {
		t.Fatal(err)
	}
	defer chunks.Close()
	if _, err := branch.New(t.Context(), branch.Config{Site: "LON", Store: db, Log: a.Log, Now: a.Now, Metrics: roles}); err != nil {
		t.Fatal(err)
	}
	a.setRoles(roles)
	a.setDisk(diskInUse, "", &mountedDisk{device: "/dev/vdb", name: "/dev/vdb"})
	a.metrics.room(diskSight{Free: 1 << 30, Total: 2 << 30})
	code, body, _ := ask(t, a, http.MethodGet, "/metrics")
	if code != http.StatusOK {
		t.Errorf("status %d", code)
	}
	for _, want := range []string{
		"go_goroutines ", "process_resident_memory_bytes ", "branchpoint_appliance_data_disk_free_bytes 1.073741824e+09",
		"branchpoint_appliance_data_disk_size_bytes 2.147483648e+09", `branchpoint_appliance_data_disk_state{state="in-use"} 1`,
		`branchpoint_appliance_data_disk_state{state="missing"} 0`, `branchpoint_store_errors_total{code="corrupt"} 0`,
		"branchpoint_branch_outbox_messages 0", "branchpoint_content_served_bytes_total 0",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("%q is missing in:\n%s", want, body)
		}
	}
	for _, g := range []prometheus.Gatherer{a.metrics.registry, roles} {
		if problems, err := testutil.GatherAndLint(g); err != nil || len(problems) > 0 {
			t.Errorf("lint: %v, %v", problems, err)
		}
	}
	a.setRoles(nil)
	if _, body, _ := ask(t, a, http.MethodGet, "/metrics"); strings.Contains(body, "branchpoint_branch_") || !strings.Contains(body, "process_resident_memory_bytes") {
		t.Errorf("without the roles:\n%s", body)
	}

	if code, body, h := ask(t, a, http.MethodGet, "/healthz"); code != http.StatusOK || h.Get("Content-Type") != "application/json" || !strings.Contains(body, `"data-disk":{"state":"ok"`) {
		t.Errorf("%d, %v, %s", code, h, body)
	}
	a.setDisk(diskFull, "it is full", &mountedDisk{device: "/dev/vdb", name: "/dev/vdb"})
	if code, body, _ := ask(t, a, http.MethodGet, "/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"status":"problem"`) || !strings.Contains(body, `"data-disk":{"state":"problem"`) {
		t.Errorf("%d, %s", code, body)
	}
	for _, c := range []struct {
		method, path string
		want         int
	}{
		{http.MethodHead, "/metrics", http.StatusOK},
		{http.MethodHead, "/healthz", http.StatusServiceUnavailable},
		{http.MethodPost, "/metrics", http.StatusMethodNotAllowed},
		{http.MethodDelete, "/healthz", http.StatusMethodNotAllowed},
		{http.MethodGet, "/", http.StatusNotFound},
		{http.MethodGet, "/debug/pprof/", http.StatusNotFound},
	} {
		if code, _, _ := ask(t, a, c.method, c.path); code != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, code, c.want)
		}
	}
}
