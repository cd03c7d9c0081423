package qemutests

import (
	"strings"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// consoleShell asks for a shell at the appliance's console: central does not allow it, then does, and then takes it back while
// one is open. The console says whose appliance it is, and central tells who had a shell, as far as anybody knows.
func consoleShell(t *testing.T) {
	s := newBareSite(t)
	site := greeting(siteProxy)
	s.apply("site.yaml", site)
	m := s.startAppliance(lab.BIOS)
	s.waitServing()
	m.WaitSerial(time.Minute, words("St Mary's Hospital Contact: Jo Miller, +44 20 7946 0000"))
	says := func(mark int, keys, want string) int {
		t.Helper()
		m.SendSerial(keys)
		_, mark = m.WaitSerialAfter(mark, 2*time.Minute, want)
		return mark
	}
	mark := says(m.SerialMark(), "shell\n", `central does not allow a shell here; an administrator can, by spec\.console: \{shell: true\} of site LON`)

	s.apply("site.yaml", site+"  console: {shell: true}\n")
	s.waitInForce("LON", m)
	mark = says(mark, "shell\n", `exit leads back`)
	mark = says(mark, "echo it-is-$((40+2))\r", `it-is-42`)
	mark = says(mark, "exit\r", `help lists the commands> `)
	mark = says(mark, "disks\n", `DATA0001`)

	mark = says(mark, "shell\n", `exit leads back`)
	mark = says(mark, "echo once-more-$((40+2))\r", `once-more-42`)
	s.apply("site.yaml", site)
	mark = says(mark, "", `central does not allow a shell any more`)
	says(mark, "disks\n", `DATA0001`)

	poll(t, 2*time.Minute, "central knows of both shells", func() bool {
		return strings.Count(s.must("audit", "--kind", "Console", "--json"), `"action"`) == 4
	})
	for _, want := range []string{"a shell was opened at ttyS0", "was left", "ended, as central does not allow a shell any more"} {
		if text := s.must("audit", "--kind", "Console", "--json"); !strings.Contains(text, want) {
			t.Errorf("the audit log does not say %q:\n%s", want, text)
		}
	}
}
