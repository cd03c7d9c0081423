package provisioning

import (
	"cmp"
	"slices"
	"time"
)

// MaxHostMACs bounds the MAC addresses that a host may say are its own.
const MaxHostMACs = 32

// Hardware is what a machine is recognised by when its firmware asks for a boot: the addresses of its network cards, those
// without a cable too, and its SMBIOS GUID. The zero value is recognised by nothing.
type Hardware struct {
	// MACAddresses are sorted, each once, at most MaxHostMACs.
	MACAddresses []MAC `json:"macAddresses,omitempty"`
	// SMBIOSGUID is empty where the firmware has none of its own.
	SMBIOSGUID GUID `json:"smbiosGUID,omitempty"`
}

// Equal reports whether both say the same.
func (h Hardware) Equal(o Hardware) bool {
	return h.SMBIOSGUID == o.SMBIOSGUID && slices.Equal(h.MACAddresses, o.MACAddresses)
}

// Empty reports whether it says nothing.
func (h Hardware) Empty() bool { return h.Equal(Hardware{}) }

// Validate checks hardware that came over the network: canonical, sorted, within its bounds. It fails with CodeInvalid.
func (h Hardware) Validate() error {
	if len(h.MACAddresses) > MaxHostMACs {
		return Errorf(CodeInvalid, "", "a host names %d MAC addresses; at most %d are taken", len(h.MACAddresses), MaxHostMACs)
	}
	for i, mac := range h.MACAddresses {
		if err := (Machine{MAC: mac}).check(); err != nil {
			return err
		}
		if i > 0 && h.MACAddresses[i-1] >= mac {
			return Errorf(CodeInvalid, "", "the MAC addresses of a host are not sorted, or stand twice")
		}
	}
	return Machine{GUID: h.SMBIOSGUID}.checkGUID()
}

// Host is a machine that an appliance or central runs on, by its own word. It is never a target, at no site.
type Host struct {
	// Site is the site whose appliance it is, or was; empty is central's own host.
	Site string `json:"site,omitempty"`
	Hardware
}

// String names the host for people.
func (h *Host) String() string {
	if h.Site == "" {
		return "central's host"
	}
	return "an appliance of site " + h.Site
}

// ToldHost is what the appliance with a key has said that its machine is recognised by.
type ToldHost struct {
	Host
	// Key is the sum of the appliance's public key; see Fingerprint.
	Key SHA256
	// At is when it said so first.
	At time.Time
}

// Infrastructure are the hosts that are never targets, of all that have told what they are: those of sites that there are, and
// central's own. They are sorted, each once, so that the same hosts in any order give the same. What a site lists as shared names
// none of them there, and there alone: whoever configures one site does not expose the hosts of others.
func (c Catalog) Infrastructure(told []Host) []Host {
	var out []Host
	for _, h := range told {
		if _, ok := c[Key{KindSite, h.Site}]; (ok || h.Site == "") && !h.Empty() {
			out = append(out, h)
		}
	}
	slices.SortFunc(out, func(a, b Host) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.SMBIOSGUID, b.SMBIOSGUID), slices.Compare(a.MACAddresses, b.MACAddresses))
	})
	return slices.CompactFunc(out, func(a, b Host) bool { return a.Site == b.Site && a.Equal(b.Hardware) })
}

// Everywhere are the hosts by what names them at each site: without what any site lists as shared.
func (c Catalog) Everywhere(hosts []Host) []Host {
	shared := map[MAC]bool{}
	for _, o := range c {
		if o.Site != nil && o.Site.Spec.PXE != nil {
			for _, m := range o.Site.Spec.PXE.SharedAdapters {
				shared[m] = true
			}
		}
	}
	var out []Host
	for _, h := range hosts {
		h.MACAddresses = slices.DeleteFunc(slices.Clone(h.MACAddresses), func(m MAC) bool { return shared[m] })
		if !h.Empty() {
			out = append(out, h)
		}
	}
	return out
}

// Hosts find hosts by what they are recognised by. The zero value has none.
type Hosts struct {
	byMAC map[MAC]*Host
	// byGUID has both orders of bytes: of firmware from before SMBIOS 2.6 a running system reads another one than the firmware
	// itself says.
	byGUID map[GUID]*Host
}

// NewHosts makes hosts ready to be found; of several that claim the same the first one is.
func NewHosts(list []Host) Hosts {
	x := Hosts{byMAC: map[MAC]*Host{}, byGUID: map[GUID]*Host{}}
	for i := len(list) - 1; i >= 0; i-- {
		h := &list[i]
		for _, m := range h.MACAddresses {
			x.byMAC[m] = h
		}
		if g := h.SMBIOSGUID; g != "" {
			x.byGUID[g], x.byGUID[g.Swapped()] = h, h
		}
	}
	return x
}

// Find returns the host that is recognised by a MAC address, or by a GUID ("" is none); nil if there is none.
func (x Hosts) Find(mac MAC, guid GUID) *Host {
	if h := x.byMAC[mac]; h != nil {
		return h
	}
	if guid == "" {
		return nil
	}
	return x.byGUID[guid]
}

// Of returns the host that a computer is, by anything that its record says; nil if it is none.
func (x Hosts) Of(c *Computer) *Host {
	for _, m := range c.Spec.MACAddresses {
		if h := x.byMAC[m]; h != nil {
			return h
		}
	}
	return x.Find("", c.Spec.SMBIOSGUID)
}
