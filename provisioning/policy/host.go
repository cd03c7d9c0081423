package policy

import (
	"cmp"

	"branchpoint/provisioning"
)

// host reports whether the machine is one that an appliance or central runs on: that ends the decision.
func (q *question) host() bool {
	what := q.hostBy(q.m.MAC, q.m.GUID)
	if what == "" {
		return false
	}
	q.d.because(RuleInfrastructure, cmp.Or(string(q.m.MAC), "a machine")+" with "+guidText(q.m.GUID)+" is "+what+", by its own word, and never a target")
	return true
}

// hostBy says which host has a MAC address, or a GUID ("" is none); "" where none has. A shared adapter names nobody.
func (q *question) hostBy(mac provisioning.MAC, guid provisioning.GUID) string {
	if q.p.shared[mac] {
		mac = ""
	}
	if h := q.p.hosts.Find(mac, guid); h != nil {
		return h.String()
	}
	if q.h.Own.Find(mac, guid) != nil {
		return "this appliance itself"
	}
	return ""
}

// hostOf says which host a computer is by what its record says, "" where it is none.
func (q *question) hostOf(c *provisioning.Computer) string {
	for _, m := range c.Spec.MACAddresses {
		if what := q.hostBy(m, ""); what != "" {
			return what
		}
	}
	return q.hostBy("", c.Spec.SMBIOSGUID)
}
