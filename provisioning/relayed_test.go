package provisioning

import (
	"strings"
	"testing"
)

// TestRelayedPools holds a site's pools for networks behind relay agents against the problems they can have, each at its
// place.
func TestRelayedPools(t *testing.T) {
	const good = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec:
  pxe:
    mode: dhcp
    dhcp:
      rangeStart: 10.7.0.100
      rangeEnd: 10.7.0.200
      relayed:
      - subnet: 10.8.0.0/24
        rangeStart: 10.8.0.100
        rangeEnd: 10.8.0.200
        router: 10.8.0.1
        dns: [10.7.0.53]
        leaseMinutes: 30
      - subnet: 10.9.0.0/24
        rangeStart: 10.9.0.100
        rangeEnd: 10.9.0.200
        router: 10.9.0.1
`
	for _, c := range []struct{ name, old, new, want string }{
		{"as it should be", "", "", ""},
		{"no subnet", "subnet: 10.8.0.0/24", "subnet: 10.8.0.0", `a.yaml:11:17: "10.8.0.0" is no IPv4 network`},
		{"host bits", "subnet: 10.8.0.0/24", "subnet: 10.8.0.1/24", `a.yaml:11:17: "10.8.0.1/24" is no IPv4 network`},
		{"everything", "subnet: 10.8.0.0/24", "subnet: 0.0.0.0/0", `a.yaml:11:17: "0.0.0.0/0" is no IPv4 network`},
		{"start outside", "rangeStart: 10.8.0.100", "rangeStart: 10.8.1.100", `a.yaml:12:21: rangeStart 10.8.1.100 lies outside of subnet 10.8.0.0/24`},
		{"end outside", "rangeEnd: 10.8.0.200", "rangeEnd: 10.8.1.200", `a.yaml:13:19: rangeEnd 10.8.1.200 lies outside of subnet 10.8.0.0/24`},
		{"order", "rangeStart: 10.8.0.100", "rangeStart: 10.8.0.201", `a.yaml:13:19: rangeEnd 10.8.0.200 lies before rangeStart 10.8.0.201`},
		{"router outside", "router: 10.8.0.1", "router: 10.7.0.1", `a.yaml:14:17: router 10.7.0.1 lies outside of subnet 10.8.0.0/24`},
		{"no router", "        router: 10.8.0.1\n", "", `a relayed pool needs a router`},
		{"bad name server", "dns: [10.7.0.53]", "dns: [dns]", `a.yaml:15:15: "dns" is no IPv4 address`},
		{"bad lease", "leaseMinutes: 30", "leaseMinutes: 1", `a.yaml:16:23: leaseMinutes is 1`},
		{"overlap", "subnet: 10.9.0.0/24", "subnet: 10.8.0.0/16", `a.yaml:17:17: subnet 10.8.0.0/16 overlaps with 10.8.0.0/24`},
		{"our own network", "subnet: 10.9.0.0/24", "subnet: 10.7.0.0/24", `a.yaml:17:17: subnet 10.7.0.0/24 holds 10.7.0.100 of the appliance's own pool`},
		{"misspelt", "subnet: 10.9.0.0/24", "sbnet: 10.9.0.0/24", `unknown field "sbnet"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := good
			if c.old != "" {
				text = strings.Replace(good, c.old, c.new, 1)
				if text == good {
					t.Fatal("nothing is changed")
				}
			}
			_, problems := Decode(File{Name: "a.yaml", Text: []byte(text)})
			if got := problems.Error(); len(problems) > 0 != (c.want != "") || !strings.Contains(got, c.want) {
				t.Errorf("problems %q, want %q", got, c.want)
			}
		})
	}
}
