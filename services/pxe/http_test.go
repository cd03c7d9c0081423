package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/u-root/u-root/pkg/cpio"
)

// get asks the handler of s as client.
func get(s *Service, client, path string, mods ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://192.0.2.10"+path, nil)
	r.RemoteAddr = client + ":1000"
	for _, m := range mods {
		m(r)
	}
	w := httptest.NewRecorder()
	(&handler{s, Interface{"lo", prefix}}).ServeHTTP(w, r)
	return w
}

// asked makes the service decide about mac as if its DISCOVER had come.
func asked(t *testing.T, s *Service, p *dhcpv4.DHCPv4) (string, bool) {
	t.Helper()
	return s.bootFor(t.Context(), s.deps.Log, s.cfg.Interfaces[0], parsed(t, p), false)
}

var policyBoot = policy.Decision{Action: policy.Boot}

var nonceRE = regexp.MustCompile(`/boot/secret/[0-9a-f]{32}\.cpio`)

func TestConfigurationOfOneBoot(t *testing.T) {
	const client1, client2 = "192.0.2.101", "192.0.2.102"
	for _, c := range []struct {
		name, path, nothing string
	}{
		{"grub", "/boot/grub/52:54:00:00:00:01.cfg", grubNothing},
		{"ipxe", "/boot/ipxe?mac=52:54:00:00:00:01", ipxeNothing},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p, now, log := newTestService(t)
			if got := get(s, client1, c.path).Body.String(); got != c.nothing {
				t.Fatalf("a machine that has not asked by DHCP gets\n%s", got)
			}
			if _, ok := asked(t, s, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7))); !ok {
				t.Fatal("the machine that is to boot gets no offer")
			}
			w := get(s, client1, c.path)
			body := w.Body.String()
			path := nonceRE.FindString(body)
			if path == "" || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("no boot layer, or one that caches keep: %v\n%s", w.Header(), body)
			}
			golden(t, "boot-"+c.name, strings.ReplaceAll(body, path, "/boot/secret/NONCE.cpio"))
			if strings.Contains(body, secretText) {
				t.Error("the secret stands in the configuration")
			}
			if c.name == "grub" {
				grubParses(t, body)
			}

			if w := get(s, client2, path); w.Code != 404 || strings.Contains(w.Body.String(), secretText) {
				t.Errorf("another address gets the boot layer: %d", w.Code)
			}
			for i := range secretFetches {
				if w := get(s, client1, "/"+path); w.Code != 200 || !strings.Contains(w.Body.String(), secretText) {
					t.Fatalf("fetch %d: status %d", i, w.Code)
				}
			}
			if w := get(s, client1, path); w.Code != 404 {
				t.Errorf("fetch %d: status %d", secretFetches+1, w.Code)
			}

			second := nonceRE.FindString(get(s, client1, c.path).Body.String())
			if second == path || second == "" {
				t.Fatal("the second configuration names no new layer")
			}
			*now = now.Add(secretTime)
			if w := get(s, client1, second); w.Code != 404 {
				t.Errorf("a layer that has run out: status %d", w.Code)
			}

			p.set(known, false) // its run has ended
			if got := get(s, client1, c.path).Body.String(); got != c.nothing {
				t.Errorf("a machine that has nothing to do any more gets\n%s", got)
			}
			p.set(known, true)
			*now = now.Add(exchangeTime)
			if got := get(s, client1, c.path).Body.String(); got != c.nothing {
				t.Errorf("a machine that asked by DHCP long ago gets\n%s", got)
			}
			for _, secret := range []string{secretText, path, second, strings.TrimPrefix(path, "/boot/secret/")} {
				if strings.Contains(log.String(), secret) {
					t.Errorf("%q stands in the log:\n%s", secret, log)
				}
			}
		})
	}
}

// grubParses has GRUB's own checker look at a configuration, where it is installed.
func grubParses(t *testing.T, text string) {
	t.Helper()
	tool, err := exec.LookPath("grub-script-check")
	if err != nil {
		t.Log("grub-script-check is not installed; the syntax is not looked at")
		return
	}
	file := t.TempDir() + "/grub.cfg"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, file).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestConfigurationOfSilentMachine(t *testing.T) {
	s, p, _, _ := newTestService(t)
	if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7))); ok {
		t.Fatal("a machine with nothing to do gets an offer")
	}
	p.set(idle, true) // became due after the decision: the next boot's matter
	if got := get(s, "192.0.2.101", "/boot/grub/52:54:00:00:00:02.cfg").Body.String(); got != grubNothing {
		t.Errorf("got\n%s", got)
	}
}

func TestConfigurationRefused(t *testing.T) {
	discover := client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7))
	const path = "/boot/grub/52:54:00:00:00:01.cfg"
	t.Run("no layer", func(t *testing.T) {
		s, _, _, log := newTestService(t)
		asked(t, s, discover)
		files := bootFiles()
		delete(files, FileAgentLayer)
		s.deps.Files = files
		if got := get(s, "192.0.2.101", path).Body.String(); got != grubNothing || !strings.Contains(log.String(), "boot image is incomplete") {
			t.Errorf("got\n%s\nlog:\n%s", got, log)
		}
	})
	t.Run("no boot configuration", func(t *testing.T) {
		s, _, _, log := newTestService(t)
		s.deps.Boots = fakeBoots{errors.New("store is locked")}
		asked(t, s, discover)
		if got := get(s, "192.0.2.101", path).Body.String(); got != grubNothing || !strings.Contains(log.String(), "store is locked") || strings.Contains(log.String(), secretText) {
			t.Errorf("got\n%s\nlog:\n%s", got, log)
		}
	})
	t.Run("another machine's address", func(t *testing.T) {
		s, _, _, log := newTestService(t)
		s.neighbour = func(a netip.Addr) (provisioning.MAC, bool) {
			if a == netip.MustParseAddr("192.0.2.101") {
				return known, true
			}
			return idle, true
		}
		asked(t, s, discover)
		if got := get(s, "192.0.2.102", path).Body.String(); got != grubNothing || !strings.Contains(log.String(), "another machine asks") {
			t.Errorf("got\n%s\nlog:\n%s", got, log)
		}
		if got := get(s, "192.0.2.101", path).Body.String(); got == grubNothing {
			t.Errorf("its own address is refused:\n%s", log)
		}
	})
	t.Run("too often", func(t *testing.T) {
		s, _, now, _ := newTestService(t)
		asked(t, s, discover)
		for range configBurst {
			if got := get(s, "192.0.2.101", path).Body.String(); got == grubNothing {
				t.Fatal("refused too early")
			}
		}
		if got := get(s, "192.0.2.101", path).Body.String(); got != grubNothing {
			t.Error("not refused")
		}
		*now = now.Add(configInterval)
		if got := get(s, "192.0.2.101", path).Body.String(); got == grubNothing {
			t.Error("refused for ever")
		}
	})
	t.Run("extra layer", func(t *testing.T) {
		s, _, _, _ := newTestService(t)
		files := bootFiles()
		files[FileExtraLayer] = files[FileAgentLayer]
		s.deps.Files = files
		asked(t, s, discover)
		if got := get(s, "192.0.2.101", path).Body.String(); !strings.Contains(got, "agent.cpio.zst (http,192.0.2.10)/boot/files/extra.cpio.zst (http,192.0.2.10)/boot/secret/") {
			t.Errorf("got\n%s", got)
		}
	})
}

// TestHTTPDoesNotFillTheLog: whoever asks again and again, for whatever, is not worth a line each time.
func TestHTTPDoesNotFillTheLog(t *testing.T) {
	s, _, now, log := newTestService(t)
	asked(t, s, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7)))
	asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7)))
	layer := nonceRE.FindString(get(s, "192.0.2.101", "/boot/grub/52:54:00:00:00:01.cfg").Body.String())
	asks := func(file string, paths ...string) {
		t.Helper()
		s.deps.Files = bootFiles()
		delete(s.deps.Files.(fstest.MapFS), file)
		before := strings.Count(log.String(), "\n")
		for range 1000 {
			for i, p := range paths {
				if w := get(s, fmt.Sprintf("192.0.2.%d", 101+i), p); w.Code == 400 || layer == "" {
					t.Fatalf("%s: status %d", p, w.Code)
				}
			}
		}
		if n := strings.Count(log.String(), "\n") - before; n == 0 || n > len(paths)*(clientLineBurst+2*complaintBurst) {
			t.Errorf("%d lines about %q", n, paths)
		}
	}
	asks("", layer, "/boot/secret/00112233445566778899aabbccddeeff.cpio")
	asks("", "/boot/grub/02:00:00:00:00:01.cfg", "/boot/grub/52:54:00:00:00:02.cfg")
	asks(FileShim, "/boot/files/shimx64.efi")
	asks(FileAgentLayer, "/boot/grub/52:54:00:00:00:01.cfg")
	s.neighbour = func(netip.Addr) (provisioning.MAC, bool) { return idle, true }
	*now = now.Add(time.Minute)
	asks("", "/boot/grub/52:54:00:00:00:01.cfg")
}

func TestFilesByHTTP(t *testing.T) {
	s, _, _, _ := newTestService(t)
	want := bootFiles()[FileKernel].Data
	for _, c := range []struct {
		path   string
		mod    func(*http.Request)
		status int
		body   []byte
	}{
		{"/boot/files/vmlinuz", nil, 200, want},
		{"//boot//files/./vmlinuz", nil, 200, want},
		{"/boot/files/x/../vmlinuz", nil, 200, want},
		{"/boot/files/vmlinuz", func(r *http.Request) { r.Header.Set("Range", "bytes=3-9") }, 206, want[3:10]},
		{"/boot/files/vmlinuz", func(r *http.Request) { r.Method = http.MethodHead }, 200, nil},
		{"/boot/files/vmlinuz", func(r *http.Request) { r.Method = http.MethodPost }, 405, nil},
		{"/boot/files/vmlinuz", func(r *http.Request) { r.Method = http.MethodPut }, 405, nil},
		{"/boot/files/extra.cpio.zst", nil, 404, nil},
		{"/boot/files/", nil, 404, nil},
		{"/boot/files/site.yaml", nil, 404, nil},
		{"/boot/files/../../etc/passwd", nil, 404, nil},
		{"/boot/files/%2e%2e/%2e%2e/etc/passwd", nil, 404, nil},
		{"/boot/secret/", nil, 404, nil},
		{"/boot/secret/.cpio", nil, 404, nil},
		{"/boot/grub/../../x.cfg", nil, 404, nil},
		{"/boot/ipxe", nil, 400, nil},
		{"/boot/ipxe?mac=hello", nil, 400, nil},
		{"/", nil, 404, nil},
	} {
		w := get(s, "192.0.2.101", c.path, func(r *http.Request) {
			if c.mod != nil {
				c.mod(r)
			}
		})
		if w.Code != c.status || c.body != nil && !bytes.Equal(w.Body.Bytes(), c.body) {
			t.Errorf("%s: status %d with %d octets, want %d with %d", c.path, w.Code, w.Body.Len(), c.status, len(c.body))
		}
		if c.status == 200 && w.Header().Get("Content-Length") != fmt.Sprint(len(want)) {
			t.Errorf("%s: Content-Length %q", c.path, w.Header().Get("Content-Length"))
		}
	}
}

func TestBootLayer(t *testing.T) {
	b, err := bootLayer([]byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range records {
		content := ""
		if r.ReaderAt != nil {
			c, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil {
				t.Fatal(err)
			}
			content = string(c)
		}
		got = append(got, fmt.Sprintf("%s %o %s", r.Name, r.Mode, content))
	}
	want := []string{"etc 40755 ", "etc/branchpoint 40755 ", "etc/branchpoint/boot.json 100600 {}"}
	if fmt.Sprint(got) != fmt.Sprint(want) || len(b)%4 != 0 {
		t.Errorf("%d octets: got %q, want %q", len(b), got, want)
	}
	if _, err := bootLayer(make([]byte, maxBootConfig+1)); err == nil {
		t.Error("a configuration of any size is accepted")
	}
}

func TestSecretsAreBounded(t *testing.T) {
	s := newSecrets()
	a := netip.MustParseAddr("192.0.2.1")
	for i := range maxSecrets + 1 {
		mac := provisioning.MAC(fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255))
		_, err := s.put(mac, a, nil, defaultRandom, start)
		if (err != nil) != (i == maxSecrets) {
			t.Fatalf("secret %d: %v", i, err)
		}
	}
	if _, err := s.put("52:54:00:00:00:00", a, nil, defaultRandom, start); err != nil {
		t.Errorf("a machine that has one: %v", err)
	}
	if _, err := s.put("52:54:00:99:99:99", a, nil, defaultRandom, start.Add(secretTime)); err != nil || len(s.byNonce) != 1 {
		t.Errorf("those that ran out are kept: %d, %v", len(s.byNonce), err)
	}
	if _, err := s.put(known, a, nil, bytes.NewReader(nil), start); err == nil {
		t.Error("a nonce without randomness")
	}

	// One machine: the oldest of its secrets goes first, and one address has one.
	s = newSecrets()
	var nonces []string
	for i := range maxAskers + 1 {
		n, err := s.put(known, a.Next(), nil, defaultRandom, start.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		a = a.Next()
		nonces = append(nonces, n)
	}
	for i, n := range nonces {
		if _, there := s.byNonce[n]; there != (i > 0) {
			t.Errorf("secret %d of %d: kept is %t", i, len(nonces), there)
		}
	}
	if _, err := s.put(known, a, nil, defaultRandom, start.Add(time.Minute)); err != nil || len(s.byNonce) != maxAskers || s.byNonce[nonces[maxAskers]] != nil {
		t.Errorf("one address has two secrets: %d, %v", len(s.byNonce), err)
	}
}

// TestOthersDoNotEndABoot: whoever asks in the name of a machine behind a router gets no more than a configuration. The
// machine's own layer stays, is nobody else's, and it may ask for its configuration as before.
func TestOthersDoNotEndABoot(t *testing.T) {
	s, _, _, log := newTestService(t)
	const path = "/boot/grub/52:54:00:00:00:01.cfg"
	const machine, other, here = "198.51.100.7", "203.0.113.9", "127.0.0.9" // here is on our own segment
	asked(t, s, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7), relayed("198.51.100.1")))
	for range 3 * configBurst {
		if got := get(s, here, path).Body.String(); got != grubNothing {
			t.Fatalf("an address that cannot be the machine's gets\n%s", got)
		}
	}
	layer := nonceRE.FindString(get(s, machine, path).Body.String())
	if layer == "" {
		t.Fatalf("the machine gets no configuration; log:\n%s", log)
	}
	for range 3 * configBurst {
		if theirs := nonceRE.FindString(get(s, other, path).Body.String()); theirs == layer || theirs != "" && get(s, machine, theirs).Code != 404 {
			t.Fatal("two addresses have one layer")
		}
	}
	if w := get(s, other, layer); w.Code != 404 {
		t.Errorf("another address gets the machine's layer: %d", w.Code)
	}
	if w := get(s, machine, layer); w.Code != 200 || !strings.Contains(w.Body.String(), secretText) {
		t.Errorf("the machine's layer: status %d", w.Code)
	}
	for range configBurst - 1 {
		if nonceRE.FindString(get(s, machine, path).Body.String()) == "" {
			t.Errorf("the machine gets no configuration any more; log:\n%s", log)
		}
	}
}

func TestExchanges(t *testing.T) {
	s, p, now, _ := newTestService(t)
	d := func(mods ...mod) *request {
		return parsed(t, client(t, known, dhcpv4.MessageTypeDiscover, append([]mod{ovmf(7)}, mods...)...))
	}
	decide := func(r *request, bootServer bool) bool {
		_, ok := s.bootFor(t.Context(), s.deps.Log, s.cfg.Interfaces[0], r, bootServer)
		return ok
	}
	if !decide(d(), false) {
		t.Fatal("no offer")
	}
	p.set(known, false)
	for _, c := range []struct {
		name       string
		r          *request
		bootServer bool
		after      time.Duration
		want       bool
		asked      int
	}{
		{"the same exchange", d(), false, 0, true, 1},
		{"boot server, own transaction", d(xid(1)), true, 0, true, 1},
		{"another GUID", d(option(97, make([]byte, 17)...)), true, 0, false, 2},
		{"a new exchange", d(xid(2)), false, 0, false, 3},
	} {
		*now = now.Add(c.after)
		if got := decide(c.r, c.bootServer); got != c.want || p.times(known) != c.asked {
			t.Errorf("%s: %t after %d decisions, want %t after %d", c.name, got, p.times(known), c.want, c.asked)
		}
	}
	p.set(known, true)
	if decide(d(xid(2)), false) {
		t.Error("a decision changes within its exchange")
	}
	*now = now.Add(decisionTime)
	if !decide(d(xid(2)), false) {
		t.Error("a decision holds for ever")
	}
	e := newExchanges(3)
	for i := range 10 {
		m := provisioning.Machine{MAC: provisioning.MAC(fmt.Sprint(i))}
		e.put(m, dhcpv4.TransactionID{}, policyBoot, start)
		e.put(m, dhcpv4.TransactionID{}, policyBoot, start)
		if i == 5 {
			e.decision(provisioning.Machine{MAC: "3"}, dhcpv4.TransactionID{}, true, time.Hour, start)
		}
		if i == 7 {
			if _, ok := e.recent("3", start); !ok {
				t.Error("the one that was seen last is forgotten first")
			}
		}
	}
	if len(e.byKey) != 3 || e.order.Len() != 3 {
		t.Errorf("%d exchanges kept, want 3", len(e.byKey))
	}
}

func TestNoOfferWhereBootWouldFail(t *testing.T) {
	uefi, bios, inner := ovmf(7), ovmf(0), ipxe(0)
	for _, c := range []struct {
		missing string
		mod     mod
		want    bool
	}{
		{"", uefi, true},
		{FileKernel, uefi, false},
		{FileBaseLayer, inner, false},
		{FileAgentLayer, bios, false},
		{FileExtraLayer, uefi, true},
		{FileShim, uefi, false},
		{FileGRUB, uefi, false},
		{FileShim, bios, true},
		{FileUndionly, bios, false},
		{FileUndionly, inner, true},
		{FileMokManager, uefi, true},
	} {
		s, _, _, log := newTestService(t)
		files := bootFiles()
		delete(files, c.missing)
		s.deps.Files = files
		if _, got := asked(t, s, client(t, known, dhcpv4.MessageTypeDiscover, c.mod)); got != c.want || !c.want && !strings.Contains(log.String(), c.missing) {
			t.Errorf("without %q: offer %t, want %t; log:\n%s", c.missing, got, c.want, log)
		}
	}
}

func TestEndlessBootsEnd(t *testing.T) {
	s, p, now, log := newTestService(t)
	try := func(n byte) bool {
		_, ok := asked(t, s, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7), xid(n)))
		return ok
	}
	n := byte(0)
	for ; n < 100 && try(n); n++ {
		*now = now.Add(45 * time.Second) // loads, fails, restarts
	}
	if n < bootBurst || n > 2*bootBurst {
		t.Errorf("left alone after %d boots", n)
	}
	if !strings.Contains(log.String(), "left alone") {
		t.Errorf("nothing is said of it:\n%s", log)
	}
	if get(s, "192.0.2.101", "/boot/grub/52:54:00:00:00:01.cfg").Body.String() != grubNothing {
		t.Error("it gets a configuration all the same")
	}
	*now = now.Add(bootInterval)
	if !try(200) {
		t.Error("left alone for ever")
	}
	p.set(idle, true)
	if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7))); !ok {
		t.Error("another machine pays for it")
	}
}

func TestLimiter(t *testing.T) {
	l := newLimiter[string](2, time.Second, 2)
	for i, c := range []struct {
		key  string
		at   time.Duration
		want bool
	}{
		{"a", 0, true},
		{"a", 0, true},
		{"a", 0, false},
		{"b", 0, true},
		{"a", time.Second, true},
		{"a", time.Second, false},
		{"a", -time.Hour, false}, // a clock that goes back gives nothing
		{"c", 0, true},           // b is forgotten
		{"a", 2 * time.Hour, true},
		{"a", 2 * time.Hour, true},
		{"a", 2 * time.Hour, false},
	} {
		if got := l.allow(c.key, start.Add(c.at)); got != c.want {
			t.Errorf("%d: %s: %t", i, c.key, got)
		}
	}
	if len(l.byKey) != 2 || l.order.Len() != 2 {
		t.Errorf("%d keys kept, want 2", len(l.byKey))
	}
}
