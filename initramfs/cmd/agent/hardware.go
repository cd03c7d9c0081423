package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/branch/client"
)

// Hardware reads what the kernel knows of the computer, below Root.
type Hardware struct{ Root string }

func (h Hardware) read(name string) string {
	b, err := os.ReadFile(filepath.Join(h.Root, name))
	if err != nil {
		return "" // none of the files is on every computer
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}

// BootMAC is the address of the network card that the computer was started from, as the boot loader passed it on; empty
// if it did not.
func (h Hardware) BootMAC() provisioning.MAC {
	for word := range strings.FieldsSeq(h.read("proc/cmdline")) {
		value, ok := strings.CutPrefix(word, "BOOTIF=")
		if !ok {
			continue
		}
		digits := strings.NewReplacer("-", "", ":", "").Replace(value)
		if len(digits) == 14 {
			digits = strings.TrimPrefix(digits, "01") // the hardware type Ethernet, as PXELINUX began to write it
		}
		if mac, err := provisioning.ParseMAC(digits); err == nil {
			return mac
		}
	}
	return ""
}

// secureBootVariable is EFI's variable SecureBoot (UEFI specification 2.10 section 3.3) in efivarfs: four octets of
// attributes, then the value.
const secureBootVariable = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

// Facts are what the branch is told of the computer.
func (h Hardware) Facts(mac provisioning.MAC) client.Facts {
	f := client.Facts{
		MAC: mac, Manufacturer: h.read("sys/class/dmi/id/sys_vendor"), Product: h.read("sys/class/dmi/id/product_name"),
		Serial: h.read("sys/class/dmi/id/product_serial"), AssetTag: h.read("sys/class/dmi/id/chassis_asset_tag"), // SMBIOS type 3
	}
	if g, err := provisioning.ParseGUID(h.read("sys/class/dmi/id/product_uuid")); err == nil {
		f.GUID = g
	}
	if fi, err := os.Stat(filepath.Join(h.Root, "sys/firmware/efi")); err == nil && fi.IsDir() {
		f.UEFI = true
		b, err := os.ReadFile(filepath.Join(h.Root, secureBootVariable))
		f.SecureBoot = err == nil && len(b) == 5 && b[4] == 1
	}
	var kib int64
	if _, err := fmt.Sscanf(h.read("proc/meminfo"), "MemTotal: %d kB", &kib); err == nil {
		f.MemoryBytes = kib << 10
	}
	return f
}

// Variables are the built-in task sequence variables that only the computer itself knows.
func (h Hardware) Variables(f client.Facts) map[string]string {
	uefi := "false"
	if f.UEFI {
		uefi = "true"
	}
	return map[string]string{
		"_SMSTSMake": f.Manufacturer, "_SMSTSModel": f.Product, "_SMSTSSerialNumber": f.Serial, "_SMSTSAssetTag": f.AssetTag, "_SMSTSUUID": string(f.GUID),
		"_SMSTSMacAddresses": string(f.MAC), "_SMSTSBootUEFI": uefi,
	}
}
