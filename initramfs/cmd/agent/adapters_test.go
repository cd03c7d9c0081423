package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
	content "branchpoint/services/content/client"
)

// TestContentIsWaitedFor: a branch that is away is no reason to leave a disk half written, and whoever looks at the
// screen sees what is wrong, and that it goes on.
func TestContentIsWaitedFor(t *testing.T) {
	m := provisioning.Manifest{
		Package: "debian", Version: 3, Format: provisioning.FormatDiskImage,
		Files: []provisioning.ManifestFile{{Path: "debian.img", Size: 1, SHA256: provisioning.SumSHA256([]byte("x")), Index: provisioning.SumSHA256([]byte("y"))}},
	}
	encoded := m.Encode()
	console := &buffer{}
	screen := NewScreen(time.Now, Console{console, true})
	const says, again = "Cannot fetch content: there is no data disk. Trying again; the step goes on by itself.\r\n  Look at the appliance.\r\n", "Content comes again"
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if strings.Contains(console.String(), says) {
			_, _ = w.Write(encoded)
			return
		}
		d := provisioning.NewProblemDocument(provisioning.Errorf(provisioning.CodeUnavailable, "Look at the appliance.", "there is no data disk"))
		w.WriteHeader(d.Status)
		_ = json.NewEncoder(w).Encode(d)
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(client.Boot{Server: s.URL, CertificateSHA256: provisioning.SumSHA256(s.Certificate().Raw), Secret: "s"}, key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d := branch{c, func(err error) { screen.Content(err) }}.Content().(distributionPoint)
	if d.c.Patience != contentPatience || contentPatience <= content.DefaultPatience {
		t.Errorf("content is waited for %s", d.c.Patience)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	file, err := d.manifest(ctx, provisioning.ContentRef{Package: m.Package, Version: m.Version, Format: m.Format, Manifest: provisioning.SumSHA256(encoded)})
	if err != nil || file != m.Files[0] {
		t.Errorf("%+v %v", file, err)
	}
	screen.Close()
	if got := console.String(); strings.Count(got, says) != 1 || strings.Count(got, again) != 1 {
		t.Errorf("%q", got)
	}
}

// TestScreenSaysWhyContentIsMissing: once for each cause, however often it is tried, and not for a minute after another one.
func TestScreenSaysWhyContentIsMissing(t *testing.T) {
	console := &buffer{}
	now := time.Unix(1000, 0)
	s := NewScreen(func() time.Time { return now }, Console{console, true})
	chunk := func(cause string) error {
		return provisioning.Errorf(provisioning.CodeUnavailable, "", "GET https://192.0.2.1/chunks/0123: %w", errors.New(cause))
	}
	for _, c := range []struct {
		after time.Duration
		err   error
		said  bool
	}{
		{0, nil, false},
		{0, chunk("refused"), true},
		{time.Second, chunk("refused"), false},
		{time.Hour, chunk("refused"), false},
		{0, chunk("central is away"), true},
		{time.Second, chunk("refused"), false},
		{time.Minute, chunk("refused"), true},
		{0, nil, true},
		{0, nil, false},
		{0, chunk("refused"), true},
	} {
		now = now.Add(c.after)
		if said := s.Content(c.err); said != c.said {
			t.Errorf("after %s, %v: said something is %v", c.after, c.err, said)
		}
	}
	s.Close()
	const tail = ". Trying again; the step goes on by itself.\r\n"
	want := "Cannot fetch content: refused" + tail + "Cannot fetch content: central is away" + tail + "Cannot fetch content: refused" + tail +
		"Content comes again, and the step goes on.\r\n" + "Cannot fetch content: refused" + tail
	if got := console.String(); got != want {
		t.Errorf("%q", got)
	}
}
