package provisioning

import (
	"strconv"
	"strings"
)

// DefaultNamePattern names unknown computers at sites that set no pattern.
const DefaultNamePattern = "pc-%mac%"

// maxHostName is the length of a host name's label (RFC 1123 section 2.1), in characters.
const maxHostName = 63

// fillers are what firmware says where nobody has filled in a serial number or an asset tag, in lower case.
var fillers = map[string]bool{
	"": true, "none": true, "n/a": true, "na": true, "null": true, "unknown": true, "default string": true, "not specified": true,
	"not applicable": true, "not available": true, "no asset tag": true, "asset tag": true, "serial number": true, "system serial number": true,
	"chassis serial number": true, "chassis asset tag": true, "asset-1234567890": true, "no asset information": true, "invalid": true,
	"to be filled by o.e.m.": true, "to be filled by o.e.m": true, "0123456789": true, "123456789": true, "1234567890": true, "xxxxxxxxxxx": true,
}

// UnknownName is the name that an unknown computer is deployed under: pattern ("" is DefaultNamePattern) with %mac%,
// %serial% and %assetTag% replaced by what its firmware says, with only what a host name can hold. What the firmware
// leaves out, or fills with words of its maker's, is replaced by the MAC address. taken reports whether another computer
// has the name, in lower case: then it gets a number at its end, "-2" and so on. The answer is always a ValidHostName.
func UnknownName(pattern string, m Machine, serial, assetTag string, taken func(lower string) bool) string {
	if pattern == "" {
		pattern = DefaultNamePattern
	}
	mac := strings.ReplaceAll(string(m.MAC), ":", "")
	orMAC := func(value string) string {
		if fillers[strings.ToLower(strings.TrimSpace(value))] || strings.Trim(value, "0. -_") == "" || hostPart(value) == "" {
			return mac
		}
		return hostPart(value)
	}
	// One pass, so that what firmware says is never taken for a part of the pattern.
	name := strings.NewReplacer("%mac%", mac, "%serial%", orMAC(serial), "%assetTag%", orMAC(assetTag)).Replace(pattern)
	name = cutName(hostPart(name), maxHostName)
	if name == "" {
		name = "pc-" + hostPart(mac)
	}
	out := name
	for n := 2; taken(strings.ToLower(out)); n++ {
		suffix := "-" + strconv.Itoa(n)
		out = cutName(name, maxHostName-len(suffix)) + suffix
	}
	return out
}

// hostPart keeps what a host name can hold; other characters in a row become one hyphen, and none is left at the ends.
func hostPart(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
		if b.Len() > 4*maxHostName {
			break
		}
	}
	return strings.Trim(b.String(), "-")
}

// cutName cuts a name to at most n characters.
func cutName(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.Trim(s, "-")
}
