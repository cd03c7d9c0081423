package central_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

const run = "0123456789abcdef0123456789abcdef"

func message(n, code, step int) provisioning.StatusMessage {
	return provisioning.StatusMessage{
		ID: fmt.Sprintf("%032x", n), Site: "LON", Computer: "desk-1", Run: run, Advertisement: "rollout", TaskSequence: "install",
		Time: time.Date(2026, 11, 20, 12, n, 0, 0, time.UTC), Sequence: n, Code: code, Step: step, Title: "A step", Text: "text", Output: "output",
	}
}

func TestStatus(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	par, _ := s.enrol("PAR")
	ctx := t.Context()
	all := []provisioning.StatusMessage{message(1, provisioning.StatusSequenceStarted, 0), message(2, provisioning.StatusStepStarted, 1), message(3, provisioning.StatusStepDone, 1)}
	for range 3 { // the answer was lost, twice
		if err := lon.Report(ctx, all); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.admin.Status(ctx, provisioning.StatusFilter{})
	if err != nil || len(r.Runs) != 1 || r.Runs[0].State != provisioning.RunStarted || len(r.Runs[0].Steps) != 1 || r.Runs[0].Steps[0].Output != "" {
		t.Errorf("%+v %v", r, err)
	}
	stored, _, err := s.store.Status(ctx, provisioning.StatusFilter{})
	if err != nil || len(stored) != 3 {
		t.Errorf("%d messages stored: %v", len(stored), err)
	}
	r, err = s.admin.Status(ctx, provisioning.StatusFilter{Run: run})
	if err != nil || len(r.Runs) != 1 || r.Runs[0].Steps[0].Output != "output" {
		t.Errorf("%+v %v", r, err)
	}
	if r, err := s.admin.Status(ctx, provisioning.StatusFilter{Computer: "desk-9"}); err != nil || len(r.Runs) != 0 {
		t.Errorf("%+v %v", r, err)
	}

	// What can never be taken in keeps nothing else at the branch, and is counted.
	if err := par.Report(ctx, all); err != nil { // another site's
		t.Error(err)
	}
	bad := message(5, provisioning.StatusStepDone, 1)
	bad.Run = "x"
	if err := lon.Report(ctx, []provisioning.StatusMessage{bad, message(4, provisioning.StatusStepStarted, 2)}); err != nil {
		t.Error(err)
	}
	malformed, err := http.NewRequestWithContext(ctx, http.MethodPost, lon.URL()+client.PathBranchStatus, strings.NewReader(`{"messages":[{"id":7},"nothing",null]}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := lon.HTTP().Do(malformed)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Error(answer.Status)
	}
	if stored, _, err := s.store.Status(ctx, provisioning.StatusFilter{}); err != nil || len(stored) != 4 {
		t.Errorf("%d messages stored: %v", len(stored), err)
	}
	_, body := s.get(http.MethodGet, "/metrics", s.token)
	for result, n := range map[string]int{"stored": 4, "duplicate": 6, "refused": 7} {
		if want := fmt.Sprintf("branchpoint_central_status_messages_total{result=%q} %d\n", result, n); !strings.Contains(body, want) {
			t.Errorf("%s is missing in:\n%s", want, body)
		}
	}

	// A long queue goes in several batches.
	var many []provisioning.StatusMessage
	for i := range 2*client.MaxStatusBatch + 1 {
		many = append(many, message(100+i, provisioning.StatusStepStarted, 1))
	}
	if err := lon.Report(ctx, many); err != nil {
		t.Fatal(err)
	}
	if stored, _, err := s.store.Status(ctx, provisioning.StatusFilter{}); err != nil || len(stored) != 4+len(many) {
		t.Errorf("%d messages stored: %v", len(stored), err)
	}
}

// TestMalformedStatus: a message that says that a disk is being erased is not lost over what else is malformed in it. The site's
// next appliance and the other sites learn of it, and it counts once.
func TestMalformedStatus(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(offices)
	ctx := t.Context()
	lon, _ := s.enrol("LON")
	erase := message(2, provisioning.StatusStepStarted, 1)
	erase.Computer, erase.Action, erase.Text = "desk-1", "partitionDisk", strings.Repeat("x", provisioning.MaxStatusOutput+1)
	erase.Facts = &provisioning.RunFacts{State: "strange", Spent: true, SpentAt: erase.Time, StartedAt: erase.Time, UpdatedAt: erase.Time}
	for range 2 {
		if err := lon.Report(ctx, []provisioning.StatusMessage{erase}); err != nil {
			t.Fatal(err)
		}
	}
	if runs, err := lon.Runs(ctx); err != nil || len(runs) != 1 || !runs[0].Spent || runs[0].Computer != "desk-1" || runs[0].State != provisioning.RunStarted {
		t.Errorf("%+v, %v", runs, err)
	}
	var others []provisioning.SiteRun
	err := s.store.PublishSnapshots(ctx, func(p provisioning.Publication) ([]provisioning.SiteSnapshot, error) {
		others = p.Runs
		return nil, nil
	})
	if err != nil || len(others) != 1 || others[0].Site != "LON" || !others[0].Run.Spent {
		t.Errorf("%+v, %v", others, err)
	}
	if !strings.Contains(s.log.String(), "taken without what is malformed in it") {
		t.Error("the log does not say so")
	}
	foreign := erase
	foreign.ID, foreign.Site = fmt.Sprintf("%032x", 9), "PAR"
	if err := lon.Report(ctx, []provisioning.StatusMessage{foreign}); err != nil {
		t.Fatal(err)
	}
	if stored, _, err := s.store.Status(ctx, provisioning.StatusFilter{}); err != nil || len(stored) != 1 {
		t.Errorf("%+v, %v", stored, err)
	}
}

// TestHostileBodies sends what no client of ours sends; each is refused with a problem document, and central goes on.
func TestHostileBodies(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	long := client.StatusBatch{}
	for i := range client.MaxStatusBatch + 1 {
		long.Messages = append(long.Messages, message(i+1, provisioning.StatusStepStarted, 1))
	}
	batch, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		client *http.Client
		path   string
		body   io.Reader
	}{
		"batch too long":  {lon.HTTP(), client.PathBranchStatus, strings.NewReader(string(batch))},
		"deep":            {lon.HTTP(), client.PathBranchStatus, strings.NewReader(strings.Repeat("[", 1<<20))},
		"wrong type":      {lon.HTTP(), client.PathBranchStatus, strings.NewReader(`{"messages":{}}`)},
		"cut off":         {lon.HTTP(), client.PathBranchStatus, strings.NewReader(`{"messages":[{`)},
		"huge":            {lon.HTTP(), client.PathBranchStatus, io.LimitReader(zeros{}, 65<<20)},
		"huge enrolment":  {lon.HTTP(), client.PathEnrol, io.LimitReader(zeros{}, 1<<20)},
		"huge delete":     {s.admin.HTTP(), client.PathDelete, io.LimitReader(zeros{}, 5<<20)},
		"apply of text":   {s.admin.HTTP(), client.PathApply, strings.NewReader("kind: Site")},
		"apply of number": {s.admin.HTTP(), client.PathApply, strings.NewReader("7")},
		"deep YAML":       {s.admin.HTTP(), client.PathApply, strings.NewReader(`{"files":[{"name":"a","text":"` + strings.Repeat("W1tb", 1<<17) + `"}]}`)},
		"token":           {s.admin.HTTP(), client.PathTokens, strings.NewReader(`{"site":"LON","validSeconds":9223372036854775807}`)},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+s.address+c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			want := http.StatusBadRequest
			if strings.HasPrefix(name, "huge") {
				want = http.StatusRequestEntityTooLarge
			}
			if err != nil || resp.StatusCode != want || resp.Header.Get("Content-Type") != provisioning.ProblemContentType || len(b) > 4096 {
				t.Errorf("%d %s: %.200s %v", resp.StatusCode, resp.Header.Get("Content-Type"), b, err)
			}
		})
	}
	if stored, _, err := s.store.Status(t.Context(), provisioning.StatusFilter{}); err != nil || len(stored) != 0 {
		t.Errorf("%d messages stored: %v", len(stored), err)
	}
	if _, err := s.admin.Sites(t.Context()); err != nil {
		t.Error(err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = '0'
	}
	return len(b), nil
}
