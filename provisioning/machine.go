package provisioning

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// Arch is the kind of firmware a client boots with, as it says in DHCP option 93 (RFC 4578 section 2.1 and the
// IANA registry "Processor Architecture Types").
type Arch uint16

// The architectures that firmware names. Only those for which Supported is true have boot images.
const (
	ArchBIOS        Arch = 0  // Intel x86PC
	ArchUEFIIA32    Arch = 6  // EFI IA32
	ArchUEFIx64     Arch = 7  // EFI BC, in practice x64
	ArchUEFIx64Alt  Arch = 9  // EFI x86-64, as a few vendors number it
	ArchUEFIARM64   Arch = 11 // ARM 64-bit UEFI
	ArchHTTPBootx64 Arch = 16 // x64 UEFI boot from HTTP
)

// Supported reports whether there is a boot image for clients of this kind.
func (a Arch) Supported() bool {
	switch a {
	case ArchBIOS, ArchUEFIx64, ArchUEFIx64Alt, ArchHTTPBootx64:
		return true
	}
	return false
}

// UEFI reports whether the client's firmware is UEFI.
func (a Arch) UEFI() bool { return a != ArchBIOS }

// String names the architecture as it stands in logs.
func (a Arch) String() string {
	switch a {
	case ArchBIOS:
		return "BIOS"
	case ArchUEFIIA32:
		return "UEFI IA32"
	case ArchUEFIx64, ArchUEFIx64Alt:
		return "UEFI x64"
	case ArchUEFIARM64:
		return "UEFI arm64"
	case ArchHTTPBootx64:
		return "UEFI HTTP Boot x64"
	}
	return fmt.Sprintf("architecture %d", uint16(a))
}

// MAC is an Ethernet address in canonical form: six lower-case hexadecimal octets with colons, "52:54:00:12:34:56".
// The zero value "" is no address.
type MAC string

// ParseMAC reads a MAC address in any of the usual notations: colons, hyphens, Cisco's dots, or none; either case.
// The all-zero address, broadcast and multicast addresses are refused: no network card has them.
func ParseMAC(s string) (MAC, error) {
	digits := strings.NewReplacer(":", "", "-", "", ".", "", " ", "").Replace(strings.TrimSpace(s))
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != 6 {
		return "", fmt.Errorf("%q is no MAC address: write six octets such as 52:54:00:12:34:56", clip(s))
	}
	return MACFromBytes(b)
}

// MACFromBytes makes a MAC of the six octets b.
func MACFromBytes(b []byte) (MAC, error) {
	if len(b) != 6 {
		return "", fmt.Errorf("a MAC address has 6 octets, not %d", len(b))
	}
	if b[0]&1 != 0 {
		return "", fmt.Errorf("%x is a multicast or broadcast address, not a network card's", b)
	}
	if [6]byte(b) == [6]byte{} {
		return "", fmt.Errorf("00:00:00:00:00:00 is not a network card's address")
	}
	const digits = "0123456789abcdef"
	var text [17]byte
	for i, octet := range b { // for each packet of a flood: fmt would be dear
		copy(text[3*i:], []byte{digits[octet>>4], digits[octet&15], ':'})
	}
	return MAC(text[:]), nil
}

// GUID is an SMBIOS system UUID in canonical form: lower case with hyphens, as firmware screens and dmidecode print it.
// The zero value "" is no GUID.
type GUID string

// ParseGUID reads a GUID as text, with or without hyphens and braces. GUIDs that say nothing (one octet all over, or what
// many boards share because nobody has set theirs) give "".
func ParseGUID(s string) (GUID, error) {
	digits := strings.NewReplacer("-", "", "{", "", "}", "").Replace(strings.TrimSpace(s))
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != 16 {
		return "", fmt.Errorf("%q is no SMBIOS GUID: write it as 4c4c4544-0042-3510-8052-b4c04f4d3432", clip(s))
	}
	return guid([16]byte(b)), nil
}

// GUIDFromWire makes a GUID of DHCP option 97 (RFC 4578 section 2.3) without its leading type octet. The first three
// fields are little-endian on the wire (measured: EDK2 and iPXE send the SMBIOS structure as it is).
func GUIDFromWire(b []byte) (GUID, error) {
	if len(b) != 16 {
		return "", fmt.Errorf("a GUID has 16 octets, not %d", len(b))
	}
	return guid(swap([16]byte(b))), nil
}

// sharedGUIDs are those of firmware that leaves its maker unconfigured: thousands of computers have them, so they name
// none. Some firmware stores them in the other byte order, which counts as the same. The last ones are those that osquery and
// CapaSystems have met (kPlaceholderHardwareUUIDList; "Non-Unique UUID").
var sharedGUIDs = map[GUID]bool{
	"03000200-0400-0500-0006-000700080009": true, // AMI's template
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"4c4c4544-0000-2010-8020-80c04f202020": true, // Dell without service tag: "DELL" and blanks
	"03020100-0504-0706-0809-0a0b0c0d0e0f": true,
	"10000000-0000-8000-0040-000000000000": true,
	"07090201-0103-0301-0807-060504030201": true,
	"56f49712-ffff-ffff-ffff-ffffffffffff": true,
	"93309712-ffff-ffff-ffff-ffffffffffff": true,
	"50fb9712-ffff-ffff-ffff-ffffffffffff": true,
	"61f39712-ffff-ffff-ffff-ffffffffffff": true,
	"52309712-ffff-ffff-ffff-ffffffffffff": true,
	"dc698397-fa54-4cf2-82c8-b1b5307a6a7f": true,
	"8e275844-178f-44a8-aceb-a7d7e5178c63": true,
	"890e2d14-cacd-45d1-ae66-bc80e8bfeb0f": true,
}

// Swapped is the GUID with the bytes of its first three fields in the other order; "" stays. That is how programs write it
// which take an SMBIOS structure of before version 2.6 for one in network order, such as dmidecode and Linux
// (product_uuid), while DHCP's option 97 does not say the version.
func (g GUID) Swapped() GUID {
	b, err := hex.DecodeString(strings.ReplaceAll(string(g), "-", ""))
	if err != nil || len(b) != 16 {
		return ""
	}
	return guidText(swap([16]byte(b)))
}

// swap turns the bytes of the first three fields round.
func swap(b [16]byte) [16]byte {
	return [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

// guidText writes the bytes as they stand.
func guidText(b [16]byte) GUID {
	h := hex.EncodeToString(b[:])
	return GUID(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

func guid(b [16]byte) GUID {
	same := true
	for _, o := range b {
		same = same && o == b[0]
	}
	g := guidText(b)
	if same || sharedGUIDs[g] || sharedGUIDs[guidText(swap(b))] {
		return ""
	}
	return g
}

// Machine is what can be known of a computer on the wire before it runs anything of ours.
type Machine struct {
	// MAC is the address of the network card it boots from; never empty.
	MAC MAC `json:"mac"`
	// GUID is its SMBIOS GUID; empty where the firmware sends none, or one that says nothing.
	GUID GUID `json:"guid,omitempty"`
	// Arch is its firmware's architecture.
	Arch Arch `json:"arch"`
}

// clip shortens hostile or accidental long input for an error message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
