package central_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// httpOf asks for one status.
type httpOf struct {
	c    *http.Client
	base string
}

func (h httpOf) status(t *testing.T, method, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, h.base+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := h.c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func effects(r client.ChangeResult) string {
	var out []string
	for _, d := range r.Documents {
		out = append(out, fmt.Sprint(d.Effect, " ", d.Name))
	}
	return strings.Join(out, ", ")
}

func TestApply(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	if got := effects(s.mustApply(documents)); got != "created LON, created PAR, created desk-1, created debian, created install, created rollout" {
		t.Error(got)
	}
	if got := effects(s.mustApply("# the same, written differently\n" + documents)); strings.Count(got, "unchanged") != 6 {
		t.Error(got)
	}
	one := strings.Replace(documents[strings.Index(documents, "apiVersion: branchpoint/v1\nkind: Computer"):strings.Index(documents, "---\napiVersion: branchpoint/v1\nkind: Op")], "34:56", "34:57", 1)
	if got := effects(s.mustApply(one)); got != "changed desk-1" {
		t.Error(got)
	}
	docs, err := s.admin.Documents(t.Context(), provisioning.KindComputer, "desk-1")
	if err != nil || len(docs) != 1 || docs[0].Revision != 2 || !strings.Contains(docs[0].Text, "52:54:00:12:34:57") {
		t.Error(docs, err)
	}
	// References to what is stored hold.
	s.mustApply("apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: more}\nspec: {taskSequence: install, computers: [desk-1], purpose: required}\n")
	_, err = s.admin.Documents(t.Context(), "Nonsense", "")
	wantCode(t, err, provisioning.CodeInvalid, "unknown")
}

// TestApplyFaults applies configurations with one fault each: the place is named and nothing is stored.
func TestApplyFaults(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: other}\nspec: {macAddresses: [\"52:54:00:99:99:99\"]}\n")
	for _, c := range []struct{ name, old, new, want string }{
		{"unknown field", "pxe:", "pxx:", `all.yaml:4:8: unknown field "pxx"`},
		{"missing sequence", "taskSequence: install", "taskSequence: instal", `all.yaml:29:22: there is no TaskSequence "instal"`},
		{"missing site", "site: LON", "site: ROM", `there is no Site "ROM"`},
		{"missing content", "debian-13", "debian-14", "branchpoint content add debian-14 FILE"},
		{"twice", "name: PAR", "name: LON", "Site LON is already described"},
		{"MAC of a stored computer", "52:54:00:12:34:56", "52-54-00-99-99-99", `52:54:00:99:99:99 belongs to more than one computer: [desk-1 other]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(documents, c.old, c.new, 1)
			if text == documents {
				t.Fatal("the change does not apply")
			}
			_, err := s.apply(text)
			ps, ok := err.(provisioning.Problems)
			if !ok || len(ps) != 1 || !strings.Contains(ps[0].String(), c.want) {
				t.Errorf("%T %v, want %s", err, err, c.want)
			}
			if docs, err := s.admin.Documents(t.Context(), "", ""); err != nil || len(docs) != 1 {
				t.Errorf("stored: %v %v", docs, err)
			}
		})
	}
	for name, files := range map[string][]provisioning.File{"no file": nil, "empty file": {{Name: "a", Text: nil}}, "comments": {{Name: "a", Text: []byte("# nothing\n---\n")}}} {
		if _, err := s.admin.Apply(t.Context(), client.ApplyRequest{Files: files}); provisioning.CodeOf(err) != provisioning.CodeInvalid || provisioning.NextOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := s.admin.Apply(t.Context(), client.ApplyRequest{Files: []provisioning.File{{Name: "a", Text: make([]byte, 40<<20)}}})
	wantCode(t, err, provisioning.CodeInvalid, "larger than")
}

// TestApplyChecksWhatRefers: a change that is right by itself may not break what is stored.
func TestApplyChecksWhatRefers(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	// The content is gone: whoever touches the image hears of it, whoever touches the computer does not.
	s.content.set("debian-13", 0)
	_, err := s.apply("apiVersion: branchpoint/v1\nkind: OperatingSystemImage\nmetadata: {name: debian}\nspec: {package: debian-13, description: x}\n")
	wantCode(t, err, provisioning.CodeInvalid, "there is no content package")
	s.mustApply("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: desk-1}\nspec: {site: LON, macAddresses: [\"52:54:00:12:34:58\"]}\n")
}

// TestConcurrentApplies: every one of many applies at once is stored, and the snapshot holds them all.
func TestConcurrentApplies(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	b, key := s.enrol("LON")
	const n = 12
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			_, err := s.apply(fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: pc-%d}\nspec: {site: LON, macAddresses: [\"52:54:00:aa:00:%02x\"]}\n", i, i))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	signed, err := b.Snapshot(t.Context(), 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	snap, err := signed.Open(key)
	if err != nil || len(snap.Computers) != n+1 {
		t.Errorf("%d computers, %v", len(snap.Computers), err)
	}
}

// TestConflictingApplies: of two applies at once that claim one MAC address, one is refused.
func TestConflictingApplies(t *testing.T) {
	s := start(t, t.TempDir())
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = s.apply(fmt.Sprintf("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: pc-%d}\nspec: {macAddresses: [\"52:54:00:aa:00:01\"]}\n", i))
		})
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) {
		t.Error(errs)
	}
}

// poll asks for a newer snapshot in the background and gives its number, 0 for none.
func poll(ctx context.Context, b *client.Branch, number uint64, wait time.Duration) <-chan uint64 {
	out := make(chan uint64, 1)
	go func() {
		signed, err := b.Snapshot(ctx, 1, number, wait)
		var n uint64
		if err == nil && signed != nil {
			_, rest, _ := strings.Cut(string(signed.Payload), `"number":`)
			_, _ = fmt.Sscanf(rest, "%d", &n)
		}
		out <- n
	}()
	return out
}

func TestLongPoll(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	lon, _ := s.enrol("LON")
	par, _ := s.enrol("PAR")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if n := <-poll(ctx, lon, 0, time.Minute); n != 1 {
		t.Fatal("the first snapshot does not come at once:", n)
	}
	waiting, elsewhere := poll(ctx, lon, 1, time.Minute), poll(ctx, par, 1, time.Minute)
	// The same again changes nothing; a computer of LON changes LON alone.
	s.mustApply(documents)
	s.mustApply("apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: desk-2}\nspec: {site: LON, macAddresses: [\"52:54:00:00:00:02\"]}\n")
	if n := <-waiting; n != 2 {
		t.Fatal("after apply:", n)
	}
	waiting = poll(ctx, lon, 2, time.Minute)
	s.content.set("debian-13", 2)
	if err := s.Publish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := <-waiting; n != 3 {
		t.Fatal("after new content:", n)
	}
	select {
	case n := <-elsewhere:
		t.Fatal("PAR was given", n)
	default:
	}
	if sites, err := s.admin.Sites(ctx); err != nil || sites[0].Number != 3 || sites[1].Number != 1 {
		t.Errorf("%+v %v", sites, err)
	}
	if n := <-poll(ctx, lon, 3, 10*time.Millisecond); n != 0 {
		t.Error("nothing new:", n)
	}
	if n := <-poll(ctx, lon, 9, 10*time.Millisecond); n != 0 {
		t.Error("an older one was handed out:", n)
	}
	begin := time.Now()
	s.stop() // with PAR's poll under way: it ends at once, and so does the server
	if took := time.Since(begin); took > 4*time.Second {
		t.Error("stopping took", took)
	}
	if n := <-elsewhere; n != 0 || ctx.Err() != nil {
		t.Error("PAR's poll ended with", n, ctx.Err())
	}
}
