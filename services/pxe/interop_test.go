package pxe

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// daemon runs a program in a namespace until it is stopped, at the latest with the test; its log is shown where the test
// fails. It runs as a copy, to which no rule of the computer's about the installed one applies (AppArmor).
func daemon(t testing.TB, namespace, program string, env []string, args ...string) (stop func()) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("%s is not installed: run make setup", program)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), filepath.Base(program))
	if err := os.WriteFile(copied, b, 0o700); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	cmd := exec.Command("ip", append([]string{"netns", "exec", namespace, copied}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig means the end of the thread that started it
		defer runtime.UnlockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() { _ = cmd.Process.Kill(); <-ended })
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("%s:\n%s", program, log)
		}
	})
	return stop
}

func config(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// The DHCP servers of a site, for both of its networks: addresses 150 to 199.

func startDNSMasq(t *testing.T, namespace string) (stop func()) {
	t.Helper()
	return daemon(t, namespace, "dnsmasq", nil, "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
		"--interface=d0", "--bind-interfaces", "--dhcp-range=192.0.2.150,192.0.2.199,2m", "--dhcp-range=198.51.100.150,198.51.100.199,255.255.255.0,2m",
		"--no-ping", "--leasefile-ro", "--log-facility=-", "--pid-file=")
}

func startKea(t *testing.T, namespace string) (stop func()) {
	t.Helper()
	dir := t.TempDir()
	return daemon(t, namespace, "kea-dhcp4", []string{"KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=" + dir}, "-c", config(t, `{"Dhcp4": {
		"interfaces-config": {"interfaces": ["d0/192.0.2.1"]},
		"lease-database": {"type": "memfile", "persist": false},
		"valid-lifetime": 120,
		"subnet4": [
			{"id": 1, "subnet": "192.0.2.0/24", "pools": [{"pool": "192.0.2.150 - 192.0.2.199"}]},
			{"id": 2, "subnet": "198.51.100.0/24", "pools": [{"pool": "198.51.100.150 - 198.51.100.199"}]}],
		"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stdout"}]}]}}`))
}

func startISC(t *testing.T, namespace string) (stop func()) {
	t.Helper()
	return daemon(t, namespace, "dhcpd", nil, "-f", "-d", "-4", "--no-pid", "-lf", config(t, ""), "-cf", config(t, `authoritative;
		ping-check false;
		default-lease-time 120;
		server-identifier 192.0.2.1;
		subnet 192.0.2.0 netmask 255.255.255.0 { range 192.0.2.150 192.0.2.199; }
		subnet 198.51.100.0 netmask 255.255.255.0 { range 198.51.100.150 198.51.100.199; }`), "d0")
}

// udhcpc is a real DHCP client; it returns the address it got and the server it got it from.
func udhcpc(t *testing.T, namespace string) (addr, server string) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "exec", namespace, "busybox", "udhcpc", "-i", "c0", "-n", "-q", "-f", "-t", "10", "-T", "3", "-s", "/bin/true").CombinedOutput()
	if err != nil {
		t.Fatalf("udhcpc: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if _, lease, ok := strings.Cut(line, "lease of "); ok {
			f := strings.Fields(strings.ReplaceAll(lease, ",", ""))
			return f[0], f[3] // "192.0.2.150 obtained from 192.0.2.1, lease time 120"
		}
	}
	t.Fatalf("udhcpc:\n%s", out)
	return "", ""
}

// from are all packets of server.
func (l *listener) from(server string) (out []*dhcpv4.DHCPv4) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.got {
		if r.from.Addr().String() == server {
			out = append(out, r.p)
		}
	}
	return out
}

// TestBesideRealServers: beside each of the usual DHCP servers, a client of an operating system gets its address from that
// one and nothing of ours, a boot ROM gets both offers, and a DHCP server of ours does not start.
func TestBesideRealServers(t *testing.T) {
	inNetwork(t, func(t *testing.T, n sites) {
		for name, start := range map[string]func(*testing.T, string) func(){"dnsmasq": startDNSMasq, "Kea": startKea, "ISC dhcpd": startISC} {
			t.Run(name, func(t *testing.T) {
				start(t, n.server)
				stop, log, err := run(t, provisioning.PXEModeProxy, newFakePolicy(), nil)
				if err != nil {
					t.Fatal(err)
				}
				c := listenAs(t, n.client, 68)
				c.untilAnswer(t, "192.0.2.1")
				_ = c.Close() // the client needs the port
				c = listenAs(t, n.client, 6800)
				if addr, server := udhcpc(t, n.client); !strings.HasPrefix(addr, "192.0.2.1") || len(addr) != len("192.0.2.150") || server != "192.0.2.1" {
					t.Errorf("the operating system gets %s from %s", addr, server)
				}
				_ = c.Close()
				c = listenAs(t, n.client, 68)
				for i, m := range []mod{ovmf(7), ipxe(0), httpBoot} {
					x := byte(i + 1)
					c.send(t, everyone, client(t, known, dhcpv4.MessageTypeDiscover, m, dhcpv4.WithBroadcast(true), xid(x)))
					ours, theirs := c.wait(t, us, x).p, c.wait(t, "192.0.2.1", x).p
					if !ours.YourIPAddr.IsUnspecified() || ours.BootFileName == "" || ours.ServerIPAddr.String() != us {
						t.Errorf("our offer: %s", text(ours))
					}
					if theirs.YourIPAddr.IsUnspecified() || theirs.BootFileName != "" {
						t.Errorf("their offer: %s", text(theirs))
					}
				}
				if n := len(c.from(us)); n != 3 {
					t.Errorf("%d packets of ours, want 3:\n%s", n, log)
				}
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				_, _, err = run(t, provisioning.PXEModeDHCP, newFakePolicy(), &fakeLeases{}, func(c *Config, _ *Deps) { c.ProbeWait = 15 * time.Second })
				if provisioning.CodeOf(err) != provisioning.CodeConflict || !strings.Contains(err.Error(), "192.0.2.1 answers DHCP on br0") {
					t.Errorf("as second DHCP server: %v", err)
				}
			})
		}
	})
}

// TestServerTurnedOnLater: a DHCP server that comes while ours runs is noticed although no client asks it for anything,
// and what it may have lent is not refused any more.
func TestServerTurnedOnLater(t *testing.T) {
	inNetwork(t, func(t *testing.T, n sites) {
		told := make(chan string, 1)
		_, log, err := run(t, provisioning.PXEModeDHCP, newFakePolicy(), &fakeLeases{}, func(c *Config, d *Deps) {
			c.ProbeEvery = time.Second
			d.OtherServer = func(iface string, a netip.Addr) {
				select {
				case told <- iface + " " + a.String():
				default:
				}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		c := listenAs(t, n.client, 68)
		reboot := func(x byte, a string) *dhcpv4.DHCPv4 {
			return client(t, third, dhcpv4.MessageTypeRequest, xid(x), dhcpv4.WithBroadcast(true), wish(a))
		}
		isNak := func(p *dhcpv4.DHCPv4) bool { return p.MessageType() == dhcpv4.MessageTypeNak }
		c.ask(t, everyone, reboot(1, "192.0.2.107"), isNak) // we are alone, as soon as we have looked
		startDNSMasq(t, n.server)
		select {
		case got := <-told:
			if got != "br0 192.0.2.1" {
				t.Errorf("told of %s", got)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("nobody is told:\n%s", log)
		}
		c.send(t, everyone, reboot(2, "192.0.2.107"))
		c.ask(t, everyone, reboot(3, "10.0.0.7"), isNak)
		ours := func(p *dhcpv4.DHCPv4) bool { return p.ServerIdentifier().String() == us }
		c.ask(t, everyone, client(t, third, dhcpv4.MessageTypeDiscover, xid(4), dhcpv4.WithBroadcast(true)), ours)
		if got := c.all(us, 2); len(got) > 0 {
			t.Errorf("what the other server may have lent: %s", text(got[0].p))
		}
		if got := log.String(); !strings.Contains(got, "another DHCP server gives out addresses") || strings.Contains(got, dropSource) {
			t.Errorf("the log:\n%s", got)
		}
	})
}

// TestTwoInterfacesInOneNetwork: where two interfaces of the service are in one network, a client gets one answer.
func TestTwoInterfacesInOneNetwork(t *testing.T) {
	inNetwork(t, func(t *testing.T, n sites) {
		const second = "192.0.2.11"
		for _, args := range []string{
			"link add e1 type veth peer name e1-lan", "link set e1-lan master br0 up", "address add " + second + "/24 dev e1", "link set e1 up",
		} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %v: %s", args, err, out)
			}
		}
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			// 3 is BR_STATE_FORWARDING (linux/if_bridge.h): the link takes a moment.
			if b, err := os.ReadFile("/sys/class/net/e1-lan/brport/state"); err == nil && strings.TrimSpace(string(b)) == "3" {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("the second interface hears nothing: %s %v", b, err)
			}
		}
		const asked = 20
		p, heard := newFakePolicy(), prometheus.NewRegistry()
		mac := func(x byte) provisioning.MAC { return provisioning.MAC(fmt.Sprintf("52:54:02:00:00:%02x", x)) }
		for x := range byte(asked) {
			p.set(mac(x), true)
		}
		_, log, err := run(t, provisioning.PXEModeProxy, p, nil, func(c *Config, d *Deps) {
			c.Interfaces = append(c.Interfaces, Interface{"e1", netip.MustParsePrefix(second + "/24")})
			d.Metrics = heard
		})
		if err != nil {
			t.Fatal(err)
		}
		c := listenAs(t, n.client, 68)
		for x := range byte(asked) {
			c.send(t, everyone, client(t, mac(x), dhcpv4.MessageTypeDiscover, ovmf(7), xid(x)))
			for deadline := time.After(30 * time.Second); len(c.all(us, x))+len(c.all(second, x)) == 0; {
				select {
				case <-c.more:
				case <-deadline:
					t.Fatalf("no answer to transaction %d:\n%s", x, log)
				}
			}
		}
		// What was heard a second time has been looked at, once as many are counted as were sent.
		ended := func() (answered, otherwise int) {
			families, err := heard.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					for _, l := range m.GetLabel() {
						switch {
						case l.GetValue() == "offer":
							answered += int(m.GetCounter().GetValue())
						case l.GetValue() == dropOtherWay:
							otherwise += int(m.GetCounter().GetValue())
						}
					}
				}
			}
			return answered, otherwise
		}
		answered, otherwise := ended()
		for deadline := time.Now().Add(30 * time.Second); answered+otherwise < 2*asked && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
			answered, otherwise = ended()
		}
		if answered != asked || otherwise != asked {
			t.Errorf("%d transactions, each heard on two interfaces: %d answers, %d left to the other\n%s", asked, answered, otherwise, log)
		}
		for x := range byte(asked) {
			got := append(c.all(us, x), c.all(second, x)...)
			if len(got) != 1 || got[0].p.ServerIPAddr.String() != got[0].from.Addr().String() {
				t.Errorf("transaction %d: %d answers; the first comes from %s: %s", x, len(got), got[0].from, text(got[0].p))
			}
		}
	})
}

// TestRelayAgents: boot ROMs and operating systems behind a router with a relay agent, beside another DHCP server and with
// ours.
func TestRelayAgents(t *testing.T) {
	inNetwork(t, func(t *testing.T, n sites) {
		relays := map[string]func(*testing.T, ...string){
			"dnsmasq": func(t *testing.T, servers ...string) {
				args := []string{"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--log-facility=-", "--pid-file="}
				for _, s := range servers {
					args = append(args, "--dhcp-relay=198.51.100.1,"+s)
				}
				daemon(t, n.router, "dnsmasq", nil, args...)
			},
			"ISC dhcrelay": func(t *testing.T, servers ...string) {
				daemon(t, n.router, "dhcrelay", nil, append([]string{"-d", "-4", "-a", "--no-pid", "-id", "r1", "-iu", "r0"}, servers...)...)
			},
		}
		for name, relay := range relays {
			t.Run(name+", proxy", func(t *testing.T) {
				startDNSMasq(t, n.server)
				relay(t, "192.0.2.1", us)
				testRelayedProxy(t, n)
			})
			t.Run(name+", dhcp", func(t *testing.T) {
				relay(t, us)
				testRelayedServer(t, n)
			})
		}
	})
}

func testRelayedProxy(t *testing.T, n sites) {
	p := newFakePolicy()
	_, log, err := run(t, provisioning.PXEModeProxy, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("service:\n%s", log)
		}
	})
	c := listenAs(t, n.far, 68)
	c.untilAnswer(t, "198.51.100.1")
	for i, m := range []mod{ovmf(7), httpBoot, ipxe(0)} {
		x := byte(i + 11)
		discover := client(t, known, dhcpv4.MessageTypeDiscover, m, xid(x))
		ours := c.ask(t, everyone, discover, func(q *dhcpv4.DHCPv4) bool { return q.BootFileName != "" })
		if ours.YourIPAddr.String() != "0.0.0.0" || ours.ServerIPAddr.String() != us || ours.ServerIdentifier().String() != us {
			t.Errorf("our offer: %s", text(ours))
		}
		if !discover.IsBroadcast() {
			continue // the other's offer goes to the address that it brings, which this client has not
		}
		c.ask(t, everyone, discover, func(q *dhcpv4.DHCPv4) bool { return strings.HasPrefix(q.YourIPAddr.String(), "198.51.100.1") })
	}
	c4011 := listenAs(t, n.far, 4011)
	anything := func(*dhcpv4.DHCPv4) bool { return true }
	if ack := c4011.ask(t, us+":4011", client(t, known, dhcpv4.MessageTypeRequest, ovmf(7), xid(3), ciaddr("198.51.100.50")), anything); ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != FileShim {
		t.Errorf("boot server across the router: %s", text(ack))
	}
	// Unknown machines get nothing, then a known one something.
	c.send(t, everyone, client(t, unknown, dhcpv4.MessageTypeDiscover, ovmf(7), xid(4)))
	await(t, p, unknown)
	c.ask(t, everyone, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7), xid(5)), func(q *dhcpv4.DHCPv4) bool { return q.BootFileName != "" })
	for _, r := range c.all("198.51.100.1", 4) {
		if r.p.ServerIdentifier().String() == us {
			t.Errorf("the unknown machine is answered: %s", text(r.p))
		}
	}
	_ = c.Close()
	if addr, server := udhcpc(t, n.far); !strings.HasPrefix(addr, "198.51.100.1") || server == us {
		t.Errorf("the operating system gets %s from %s\n%s", addr, server, log)
	}
}

func testRelayedServer(t *testing.T, n sites) {
	store := &fakeLeases{}
	_, log, err := run(t, provisioning.PXEModeDHCP, newFakePolicy(), store, func(c *Config, _ *Deps) {
		c.Pool.Relayed = []provisioning.RelayedPool{{Subnet: "198.51.100.0/24", RangeStart: "198.51.100.100", RangeEnd: "198.51.100.109", Router: "198.51.100.1"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	c := listenAs(t, n.far, 68)
	c.untilAnswer(t, "198.51.100.1")
	_ = c.Close()
	addr, server := udhcpc(t, n.far)
	if !strings.HasPrefix(addr, "198.51.100.10") || server != us {
		t.Errorf("the operating system gets %s from %s\n%s", addr, server, log)
	}
	c = listenAs(t, n.far, 68)
	offer := c.ask(t, everyone, client(t, known, dhcpv4.MessageTypeDiscover, ovmf(7), xid(1)), func(*dhcpv4.DHCPv4) bool { return true })
	if offer.YourIPAddr.String() != addr || offer.BootFileName != FileShim || offer.Router()[0].String() != "198.51.100.1" {
		t.Errorf("boot ROM: %s", text(offer))
	}
	// It renews its lease as clients do, by asking us alone, across the router.
	if out, err := exec.Command("ip", "-n", n.far, "address", "add", addr+"/24", "dev", "c0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() { _ = exec.Command("ip", "-n", n.far, "address", "del", addr+"/24", "dev", "c0").Run() }()
	anything := func(*dhcpv4.DHCPv4) bool { return true }
	if ack := c.ask(t, us+":67", client(t, known, dhcpv4.MessageTypeRequest, xid(2), ciaddr(addr)), anything); ack.MessageType() != dhcpv4.MessageTypeAck || ack.YourIPAddr.String() != addr {
		t.Errorf("renewal: %s", text(ack))
	}
	// The same request heard on our own segment comes from a machine that has been moved: its address is wrong here.
	near := listenAs(t, n.client, 68)
	near.send(t, everyone, client(t, known, dhcpv4.MessageTypeRequest, xid(3), ciaddr(addr), dhcpv4.WithBroadcast(true)))
	if nak := near.wait(t, us, 3).p; nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("the far address on our segment: %s", text(nak))
	}
	// And a far address is never lent on our segment, nor ours there.
	near.send(t, everyone, client(t, third, dhcpv4.MessageTypeDiscover, xid(4), wish("198.51.100.108"), dhcpv4.WithBroadcast(true)))
	if offer := near.wait(t, us, 4).p; !strings.HasPrefix(offer.YourIPAddr.String(), "192.0.2.10") {
		t.Errorf("on our segment: %s", text(offer))
	}
	if len(store.leases) != 1 {
		t.Error(fmt.Sprint("leases stored: ", store.leases))
	}
}

// ask sends p, and again every three seconds as firmware does, until there is an answer to it that ok likes, from whoever
// passes it on.
func (l *listener) ask(t *testing.T, to string, p *dhcpv4.DHCPv4, ok func(*dhcpv4.DHCPv4) bool) *dhcpv4.DHCPv4 {
	t.Helper()
	for deadline := time.Now().Add(45 * time.Second); time.Now().Before(deadline); {
		l.send(t, to, p)
		for again := time.After(3 * time.Second); again != nil; {
			for _, server := range []string{us, "192.0.2.1", "198.51.100.1"} {
				for _, r := range l.all(server, p.TransactionID[3]) {
					if ok(r.p) {
						return r.p
					}
				}
			}
			select {
			case <-l.more:
			case <-again:
				again = nil
			}
		}
	}
	t.Fatalf("no such answer to transaction %d; got %v", p.TransactionID[3], l.got)
	return nil
}
