package store

import (
	"fmt"
	"testing"
	"time"

	"branchpoint/provisioning"
)

// TestHosts: each appliance's last word is kept, news is told from what is known, and the number of each site's is bounded.
func TestHosts(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	at := noon
	put := func(site, key string, n int, news bool) {
		t.Helper()
		at = at.Add(time.Minute)
		h := provisioning.Hardware{MACAddresses: []provisioning.MAC{provisioning.MAC(fmt.Sprintf("52:54:00:00:00:%02x", n))}}
		if got, err := s.PutHost(ctx, site, provisioning.SHA256(key), at, h); err != nil || got != news {
			t.Errorf("%s %s %d: news %t, %v", site, key, n, got, err)
		}
	}
	listed := func() string {
		t.Helper()
		s = reopen(t, s)
		list, err := s.Hosts(ctx)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, h := range list {
			out += fmt.Sprint(h.Site, h.MACAddresses, " ")
		}
		return out
	}
	put("LON", "a", 1, true)
	put("LON", "a", 1, false)
	put("PAR", "a", 1, true)
	put("LON", "b", 2, true) // another appliance in its place: the one before is kept
	if got := listed(); got != "LON[52:54:00:00:00:01] LON[52:54:00:00:00:02] PAR[52:54:00:00:00:01] " {
		t.Error(got)
	}
	if news, err := s.PutHost(ctx, "LON", "b", at.Add(hostPause-time.Second), provisioning.Hardware{}); provisioning.CodeOf(err) != provisioning.CodeUnavailable || news {
		t.Error(news, err)
	}
	at = at.Add(hostPause)
	put("LON", "c", 2, true) // the same machine with a blank disk
	put("LON", "a", 3, true)
	if got := listed(); got != "LON[52:54:00:00:00:03] LON[52:54:00:00:00:02] PAR[52:54:00:00:00:01] " {
		t.Error(got)
	}
	for i := range keptHosts + 10 {
		put("LON", fmt.Sprint("k", i), 10+i, true)
	}
	list, err := s.Hosts(ctx)
	if err != nil || len(list) != keptHosts+1 {
		t.Errorf("%d are kept, %v", len(list), err)
	}
	put("LON", fmt.Sprint("k", keptHosts+9), 10+keptHosts+9, false) // the last one is among them
}

// TestForgetHost: one appliance's word is forgotten, with its entry in the audit log, and no other's.
func TestForgetHost(t *testing.T) {
	s := openTemp(t)
	ctx := t.Context()
	for _, k := range []struct{ site, key string }{{"LON", "a"}, {"LON", "b"}, {"PAR", "a"}} {
		h := provisioning.Hardware{MACAddresses: []provisioning.MAC{provisioning.MAC("52:54:00:00:00:0" + k.key)}}
		if _, err := s.PutHost(ctx, k.site, provisioning.SHA256(k.key), noon, h); err != nil {
			t.Fatal(err)
		}
	}
	entry := provisioning.AuditEntry{At: noon, Action: "forget", Kind: "Host", Name: "a", Site: "LON"}
	if err := s.ForgetHost(ctx, "ROM", "a", entry); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	if err := s.ForgetHost(ctx, "LON", "a", entry); err != nil {
		t.Fatal(err)
	}
	if err := s.ForgetHost(ctx, "LON", "a", entry); provisioning.CodeOf(err) != provisioning.CodeNotFound {
		t.Error(err)
	}
	s = reopen(t, s)
	left, err := s.Hosts(ctx)
	if err != nil || len(left) != 2 || left[0].Site != "LON" || left[0].Key != "b" || left[1].Site != "PAR" || !left[0].At.Equal(noon) {
		t.Errorf("%+v, %v", left, err)
	}
	if log, err := s.Audit(ctx, provisioning.AuditFilter{}); err != nil || len(log) != 1 {
		t.Errorf("%+v, %v", log, err)
	}
}
