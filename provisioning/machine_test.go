package provisioning

import "testing"

// TestGUIDsOfManyComputersNameNone: a machine must not be taken for another one because both were left unconfigured.
func TestGUIDsOfManyComputersNameNone(t *testing.T) {
	for text, want := range map[string]GUID{
		"03000200-0400-0500-0006-000700080009":   "",
		"{03000200-0400-0500-0006-000700080009}": "",
		"4C4C4544-0000-2010-8020-80C04F202020":   "",
		"44454c4c-0000-1020-8020-80c04f202020":   "",
		"00010203-0405-0607-0809-0a0b0c0d0e0f":   "",
		"890E2D14-CACD-45D1-AE66-BC80E8BFEB0F":   "",
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

// TestSwapped: the two ways in which programs write one SMBIOS structure are each the other's.
func TestSwapped(t *testing.T) {
	for g, want := range map[GUID]GUID{
		"03000200-0400-0500-0006-000700080009": "00020003-0004-0005-0006-000700080009",
		"01020304-0506-0708-090a-0b0c0d0e0f10": "04030201-0605-0807-090a-0b0c0d0e0f10",
		"04030201-0605-0807-090a-0b0c0d0e0f10": "01020304-0506-0708-090a-0b0c0d0e0f10",
		"":                                     "",
		"nonsense":                             "",
	} {
		if got := g.Swapped(); got != want {
			t.Errorf("%q swapped is %q, want %q", g, got, want)
		}
	}
}
