package lab

import (
	"os"
	"path/filepath"
)

// FirmwareLog returns what the firmware has said on its debug port since the machine was last powered on: of SeaBIOS much,
// "Booting from Hard Disk..." among it; of OVMF's release builds nothing.
func (m *Machine) FirmwareLog() string {
	m.lab.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, "firmware.log"))
	if err != nil && !os.IsNotExist(err) {
		m.lab.t.Fatalf("machine %s: %v", m.name, err)
	}
	return string(b)
}
