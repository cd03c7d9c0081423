package central_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// TestIdempotencyKey sends each request that has an effect twice under one key: there is one effect, and one answer.
func TestIdempotencyKey(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	file := func(text string) string {
		b, err := json.Marshal(client.ApplyRequest{Files: []provisioning.File{{Name: "x.yaml", Text: []byte(text)}}, Caution: client.Caution{Diff: true}})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	list, err := json.Marshal(client.ImportRequest{File: provisioning.File{Name: "x.csv", Text: []byte("name,mac\nnew-1,52:54:00:00:09:01\n")}, Site: "LON"})
	if err != nil {
		t.Fatal(err)
	}
	conflict := provisioning.Conflict{Machine: provisioning.Machine{MAC: "52:54:00:00:01:01"}, Text: "two of them"}
	if _, err := s.TakeReports(ctx, "LON", []provisioning.SiteReport{{ID: strings.Repeat("1", 32), Site: "LON", Kind: provisioning.ReportConflict, At: s.clock.Now(), Conflict: &conflict}}); err != nil {
		t.Fatal(err)
	}
	waiting, err := s.admin.CreateToken(ctx, "LON", time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.bare().Enrol(ctx, waiting.Token, request(t, newKey(t)))
	wantCode(t, err, provisioning.CodeUnavailable, "")
	tokens, err := s.admin.Tokens(ctx)
	if err != nil || tokens[0].Fingerprint == "" {
		t.Fatal(tokens, err)
	}
	s.account("jo")
	s.createRoot()

	entries := func() int {
		page, err := s.admin.Audit(ctx, provisioning.AuditFilter{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return len(page.Entries)
	}
	bodies := map[string]struct {
		body   string
		path   string // where it has names in it
		secret bool
		silent bool // nothing is noted of it
	}{
		"apply":                {body: file(computer("desk-8", "LON", 8))},
		"deleteDocuments":      {body: `{"documents":[{"kind":"Advertisement","name":"rollout"}]}`},
		"importComputers":      {body: string(list)},
		"rollback":             {body: `{"document":{"kind":"Site","name":"LON"},"revision":1}`, silent: true}, // it is that already
		"clear":                {body: `{"computers":["desk-1"]}`},
		"approve":              {body: `{"site":"LON","wipes":1,"validMinutes":1}`},
		"resolveConflict":      {body: `{"site":"LON","id":"` + conflict.ID() + `"}`},
		"createAPIToken":       {body: `{"account":"jo","name":"second","validSeconds":3600}`, secret: true},
		"createAccount":        {body: `{"name":"mo","password":"correct horse battery"}`},
		"nextEpoch":            {body: `{"rotateKey":true}`, silent: true},
		"createEnrolmentToken": {body: `{"site":"LON","validSeconds":3600}`, secret: true},
		"approveSite":          {body: `{"fingerprint":"` + tokens[0].Fingerprint + `"}`, path: "/v1/sites/LON/approve"},
		"revokeSite":           {body: `{"why":"stolen"}`, path: "/v1/sites/PAR/revoke"},
	}
	for name, op := range s.operations() {
		method, path, _ := strings.Cut(name, " ")
		if method != http.MethodPost || op.OperationID == "login" || op.OperationID == "previewCollection" {
			continue
		}
		c, ok := bodies[op.OperationID]
		if !ok {
			t.Errorf("%s is not tried", op.OperationID)
			continue
		}
		if c.path != "" {
			path = c.path
		}
		key := `Idempotency-Key: "` + op.OperationID + `-1"`
		before := entries()
		first := s.send(s.admin, method, path, c.body, key)
		if first.status != http.StatusOK {
			t.Errorf("%s: %d %s", op.OperationID, first.status, first.body)
			continue
		}
		after := entries()
		if after == before && !c.silent {
			t.Errorf("%s: nothing was noted", op.OperationID)
		}
		again := s.send(s.admin, method, path, " "+c.body, "Idempotency-Key: "+op.OperationID+"-1") // written otherwise, and the key without quotes
		if c.secret {
			var made struct{ ID string }
			if err := json.Unmarshal(first.body, &made); err != nil || len(made.ID) != 16 {
				t.Fatalf("%s: %s %v", op.OperationID, first.body, err)
			}
			if p := again.problem(t, http.StatusConflict); !strings.Contains(p.Detail, made.ID) || p.Next == "" {
				t.Errorf("%s: %+v", op.OperationID, p)
			}
		} else if again.status != first.status || !bytes.Equal(again.body, first.body) {
			t.Errorf("%s: first %d %s\nthen %d %s", op.OperationID, first.status, first.body, again.status, again.body)
		}
		if n := entries(); n != after {
			t.Errorf("%s: sent again it had another effect", op.OperationID)
		}
		other := strings.Replace(c.body, "{", `{"confirm":"7",`, 1)
		switch op.OperationID {
		case "resolveConflict":
			other = `{"site":"LON","id":"other"}`
		case "createAPIToken":
			other = `{"account":"jo","name":"third","validSeconds":3600}`
		case "createAccount":
			other = `{"name":"mo","password":"another horse battery"}`
		case "nextEpoch":
			other = `{}`
		case "createEnrolmentToken":
			other = `{"site":"LON","validSeconds":7200}`
		case "approveSite":
			other = `{"fingerprint":"0"}`
		case "revokeSite":
			other = `{"why":"lost"}`
		}
		s.send(s.admin, method, path, other, key).problem(t, http.StatusUnprocessableEntity)
	}

	// What is kept tells no secrets.
	files, err := filepath.Glob(filepath.Join(s.dir, "central.db*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err != nil || bytes.Contains(b, []byte("correct horse battery")) {
			t.Errorf("%s holds a password, or %v", f, err)
		}
	}
}

func TestIdempotencyKeys(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents + role("bosses", "administrator", "boss", ""))
	ctx := t.Context()
	boss := s.account("boss", "bosses")
	clears := func(a *client.Admin, key string) reply {
		return s.send(a, http.MethodPost, client.PathClears, `{"computers":["desk-1"]}`, "Idempotency-Key: "+key)
	}
	orders := func() int {
		all, err := s.store.Orders(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return int(all[len(all)-1].Number)
	}
	for _, bad := range []string{`"`, `""`, `"a`, `a b`, `a"b`, strings.Repeat("x", 256), "\u00e4"} {
		clears(s.admin, bad).problem(t, http.StatusBadRequest)
	}
	// Many at once have one effect, and all get its answer.
	var wg sync.WaitGroup
	replies := make([]reply, 8)
	for i := range replies {
		wg.Go(func() { replies[i] = clears(s.admin, `"k"`) })
	}
	wg.Wait()
	for _, r := range replies {
		if r.status != http.StatusOK || !bytes.Equal(r.body, replies[0].body) {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if n := orders(); n != 1 {
		t.Errorf("%d orders", n)
	}
	// Another account's key is another; without a key each request has its effect.
	if r := clears(boss, `"k"`); r.status != http.StatusOK || bytes.Equal(r.body, replies[0].body) || orders() != 2 {
		t.Errorf("%d %s, %d orders", r.status, r.body, orders())
	}
	for range 2 {
		if r := s.send(s.admin, http.MethodPost, client.PathClears, `{"computers":["desk-1"]}`); r.status != http.StatusOK {
			t.Errorf("%d %s", r.status, r.body)
		}
	}
	if n := orders(); n != 4 {
		t.Errorf("%d orders", n)
	}
	// It is kept over a restart, for 24 hours.
	s.clock.Advance(24*time.Hour - time.Minute)
	s.stop()
	now := s.clock
	s = start(t, s.dir)
	s.clock.Advance(now.Now().Sub(s.clock.Now()))
	if r := clears(s.admin, `"k"`); !bytes.Equal(r.body, replies[0].body) || orders() != 4 {
		t.Errorf("%d %s, %d orders", r.status, r.body, orders())
	}
	s.clock.Advance(2 * time.Minute)
	if r := clears(s.admin, `"k"`); r.status != http.StatusOK || bytes.Equal(r.body, replies[0].body) || orders() != 5 {
		t.Errorf("%d %s, %d orders", r.status, r.body, orders())
	}
	// A request that was refused may be sent again under its key.
	key := `Idempotency-Key: "refused"`
	body := `{"computers":["desk-7"]}`
	s.send(s.admin, http.MethodPost, client.PathClears, body, key).problem(t, http.StatusNotFound)
	s.mustApply(computer("desk-7", "LON", 7))
	if r := s.send(s.admin, http.MethodPost, client.PathClears, body, key); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	// What was put in force since is not undone by an older request that arrives again.
	one := computer("desk-7", "LON", 70)
	b, err := json.Marshal(client.ApplyRequest{Files: []provisioning.File{{Name: "x.yaml", Text: []byte(one)}}})
	if err != nil {
		t.Fatal(err)
	}
	s.send(s.admin, http.MethodPost, client.PathApply, string(b), `Idempotency-Key: "one"`)
	s.mustApply(computer("desk-7", "LON", 71))
	if r := s.send(s.admin, http.MethodPost, client.PathApply, string(b), `Idempotency-Key: "one"`); r.status != http.StatusOK {
		t.Errorf("%d %s", r.status, r.body)
	}
	docs, err := s.admin.Documents(ctx, provisioning.KindComputer, "desk-7")
	if err != nil || len(docs) != 1 || !strings.Contains(docs[0].Text, "52:54:00:00:00:47") {
		t.Error(docs, err)
	}
}

// TestLostAnswer cuts a connection when central answers: the client sends the request again, and it has one effect.
func TestLostAnswer(t *testing.T) {
	s := start(t, t.TempDir())
	s.content.set("debian-13", 1)
	s.mustApply(documents)
	ctx := t.Context()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool
	var wg sync.WaitGroup
	over, end := context.WithCancel(ctx)
	wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", s.address)
			if err != nil {
				t.Error(err)
				return
			}
			hangUp := func() { _, _ = near.Close(), far.Close() }
			context.AfterFunc(over, hangUp)
			wg.Go(func() {
				defer hangUp()
				_, _ = io.Copy(far, near)
			})
			wg.Go(func() {
				defer hangUp()
				b := make([]byte, 32<<10)
				for {
					n, err := far.Read(b)
					if err != nil || cut.CompareAndSwap(true, false) {
						return
					}
					if _, err := near.Write(b[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	a, err := client.NewAdmin(client.AdminFile{Address: l.Addr().String(), CA: string(s.CA()), Token: s.token}, s.clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer wg.Wait()
	defer end()
	defer l.Close()
	if _, err := a.Sites(ctx); err != nil {
		t.Fatal(err)
	}
	cut.Store(true)
	given, err := a.Clear(ctx, client.ClearRequest{Computers: []string{"desk-1"}})
	if err != nil || len(given.Orders) != 1 || given.Orders[0].Number != 1 || cut.Load() {
		t.Errorf("%+v %v", given, err)
	}
	if all, err := s.store.Orders(ctx); err != nil || len(all) != 1 {
		t.Errorf("%+v %v", all, err)
	}
}
