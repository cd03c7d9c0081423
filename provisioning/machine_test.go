package provisioning

import "testing"

// TestGUIDsOfManyComputersNameNone: a machine must not be taken for another one because both were left unconfigured.
func TestGUIDsOfManyComputersNameNone(t *testing.T) {
	for text, want := range map[string]GUID{
		"03000200-0400-0500-0006-000700080009":   "",
		"{03000200-0400-0500-0006-000700080009}": "",
		"4C4C4544-0000-2010-8020-80C04F202020":   "",
		"FEFEFEFE-FEFE-FEFE-FEFE-FEFEFEFEFEFE":   "",
		"00000000-0000-0000-0000-000000000000":   "",
		"ffffffff-ffff-ffff-ffff-ffffffffffff":   "",
		"4C4C4544-0042-3510-8052-B4C04F4D3432":   "4c4c4544-0042-3510-8052-b4c04f4d3432",
	} {
		if got, err := ParseGUID(text); err != nil || got != want {
			t.Errorf("%s is %q, error %v; want %q", text, got, err, want)
		}
	}
	for _, wire := range [][]byte{
		{0x00, 0x02, 0x00, 0x03, 0x00, 0x04, 0x00, 0x05, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00, 0x09},
		{0x03, 0x00, 0x02, 0x00, 0x04, 0x00, 0x05, 0x00, 0x00, 0x06, 0x00, 0x07, 0x00, 0x08, 0x00, 0x09},
	} {
		if got, err := GUIDFromWire(wire); err != nil || got != "" {
			t.Errorf("% x is %q, error %v; want none", wire, got, err)
		}
	}
}
