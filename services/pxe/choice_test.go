package pxe

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

var menuRE = regexp.MustCompile(`/boot/offer/[0-9a-f]{32}/`)

const person = "192.0.2.101"

// menuOfIdle makes idle ask and returns its menu, with the path that its entries are below.
func menuOfIdle(t *testing.T, s *Service, path string) (menu, below string) {
	t.Helper()
	if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7))); !ok {
		t.Fatal("a machine that something is available to gets no answer")
	}
	menu = get(s, person, path).Body.String()
	below = menuRE.FindString(menu)
	if below == "" || nonceRE.MatchString(menu) || strings.Contains(menu, secretText) {
		t.Fatalf("this is no menu, or one with a secret:\n%s", menu)
	}
	return menu, below
}

var menuCases = []struct{ name, path, extension, next, nothing string }{
	{"grub", "/boot/grub/52:54:00:00:00:02.cfg", ".cfg", grubNext, grubNothing},
	{"ipxe", "/boot/ipxe?mac=52:54:00:00:00:02", ".ipxe", ipxeNothing, ipxeNothing},
}

func TestMenu(t *testing.T) {
	for _, c := range menuCases {
		t.Run(c.name, func(t *testing.T) {
			s, p, now, log := newTestService(t)
			p.offer(idle, "rollout", "repair")
			menu, below := menuOfIdle(t, s, c.path)
			golden(t, "menu-"+c.name, strings.ReplaceAll(menu, below, "/boot/offer/NONCE/"))
			if c.name == "grub" {
				grubParses(t, menu)
			}
			layerOf := func(entry string) string {
				return get(s, person, nonceRE.FindString(get(s, person, below+entry+c.extension).Body.String())).Body.String()
			}
			if got := layerOf("2"); !strings.Contains(got, `"advertisement":"repair"`) {
				t.Errorf("the second entry leads to %q", got)
			}
			if got := layerOf("1"); !strings.Contains(got, `"advertisement":"rollout"`) {
				t.Errorf("the first entry leads to %q", got)
			}
			for _, entry := range []string{"0", "3", "-1", "rollout", "", "1x"} {
				if got := get(s, person, below+entry+c.extension).Body.String(); got != c.nothing {
					t.Errorf("entry %q leads to\n%s", entry, got)
				}
			}
			if got := get(s, "192.0.2.102", below+"1"+c.extension).Body.String(); got != c.nothing {
				t.Errorf("another address may choose:\n%s", got)
			}
			if w := get(s, person, below+"1.txt"); w.Code != 404 {
				t.Errorf("status %d", w.Code)
			}
			*now = now.Add(configInterval)
			p.offer(idle, "repair") // rollout has been withdrawn
			if got := get(s, person, below+"1"+c.extension).Body.String(); got != c.nothing || !strings.Contains(log.String(), "advertisement rollout is not to be had any more") {
				t.Errorf("what is not available any more leads to\n%s", got)
			}
			p.set(idle, true) // something is required by now: that is the next start's matter
			if got := get(s, person, below+"2"+c.extension).Body.String(); got != c.nothing {
				t.Errorf("a choice leads to what is required:\n%s", got)
			}
			p.set(idle, false)
			*now = now.Add(menuTime)
			if got := get(s, person, below+"2"+c.extension).Body.String(); got != c.nothing {
				t.Errorf("a menu of half an hour ago leads to\n%s", got)
			}
		})
	}
}

// TestMenuGoesOn: who chooses nothing reaches the next boot device, and does so every morning.
func TestMenuGoesOn(t *testing.T) {
	for _, c := range menuCases {
		t.Run(c.name, func(t *testing.T) {
			s, p, now, _ := newTestService(t)
			p.offer(idle, "rollout")
			for morning := range 4 * bootBurst {
				if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7), xid(byte(morning)))); !ok {
					t.Fatalf("start %d: no menu any more", morning)
				}
				below := menuRE.FindString(get(s, person, c.path).Body.String())
				if got := get(s, person, below+"next"+c.extension).Body.String(); got != c.next {
					t.Fatalf("start %d: got\n%s", morning, got)
				}
				if c.name == "grub" { // it starts anew: PXE, then HTTP Boot
					for i, as := range []mod{ovmf(7), httpBoot} {
						if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, as, xid(byte(100+2*morning+i)))); ok {
							t.Fatalf("start %d: the menu comes again and again", morning)
						}
					}
					*now = now.Add(passTime)
				} else {
					*now = now.Add(configInterval)
				}
			}
		})
	}
}

// TestMenuThatFails: a machine that does not get through its menu is left alone after some tries, like any other.
func TestMenuThatFails(t *testing.T) {
	s, p, _, _ := newTestService(t)
	p.offer(idle, "rollout")
	for i := range bootBurst {
		if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7), xid(byte(i)))); !ok {
			t.Fatalf("start %d", i)
		}
	}
	if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7), xid(200))); ok {
		t.Error("it is offered its menu for ever")
	}
}

// TestRequiredComesAlthoughPassed: what is required waits for nobody, and shows no menu.
func TestRequiredComesAlthoughPassed(t *testing.T) {
	s, p, _, _ := newTestService(t)
	p.offer(idle, "rollout")
	_, below := menuOfIdle(t, s, menuCases[0].path)
	get(s, person, below+"next.cfg")
	p.set(idle, true)
	if _, ok := asked(t, s, client(t, idle, dhcpv4.MessageTypeDiscover, ovmf(7), xid(2))); !ok {
		t.Error("no answer")
	}
	if got := get(s, person, menuCases[0].path).Body.String(); !nonceRE.MatchString(got) || strings.Contains(got, "menuentry") {
		t.Errorf("got\n%s", got)
	}
}

func TestAClockSetBackLeavesNobodyAlone(t *testing.T) {
	m := newMenus()
	m.passed.put(idle, start)
	for off, want := range map[time.Duration]bool{0: true, passTime - 1: true, passTime: false, -24 * time.Hour: false} {
		if _, ok := m.leftAlone(idle, start.Add(off)); ok != want {
			t.Errorf("after %s: %v", off, ok)
		}
	}
	if _, ok := m.leftAlone(known, start); ok {
		t.Error("another machine is left alone")
	}
}

// TestMenuTitles: names mean nothing to GRUB and iPXE, whatever they are.
func TestMenuTitles(t *testing.T) {
	var choices []policy.Choice
	for i := range 30 {
		choices = append(choices, policy.Choice{Advertisement: fmt.Sprintf("a%d\"; reboot; ${x}\n", i), TaskSequence: "`s`"})
	}
	s, p, _, _ := newTestService(t)
	p.choices = map[provisioning.MAC][]policy.Choice{idle: choices}
	for _, c := range menuCases {
		menu, _ := menuOfIdle(t, s, c.path)
		if strings.Contains(menu, "; reboot") || strings.Contains(menu, "${x}") || strings.Contains(menu, "`") {
			t.Errorf("got\n%s", menu)
		}
		if n := strings.Count(menu, "  a1"); n != 9 { // a1, a10 to a17
			t.Errorf("%d entries begin with a1:\n%s", n, menu)
		}
		if c.name == "grub" {
			grubParses(t, menu)
		}
	}
}
