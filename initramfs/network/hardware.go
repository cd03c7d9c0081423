package network

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"branchpoint/provisioning"
)

// Hardware returns what this machine is recognised by when its firmware asks for a boot: the addresses of its Ethernet and Wi-Fi
// cards, whether they have a link or not, and its SMBIOS GUID. Of more than MaxHostMACs addresses the first ones count, sorted.
// sysfs is usually /sys. What cannot be read is left out and told in the error; the GUID can be read by root alone.
func Hardware(sysfs string) (provisioning.Hardware, error) {
	var out provisioning.Hardware
	dir := filepath.Join(sysfs, "class/net")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return out, fmt.Errorf("list network interfaces: %w", err)
	}
	for _, e := range entries {
		base := filepath.Join(dir, e.Name())
		// Type 1 is ARPHRD_ETHER (linux/if_arp.h); without a device it is made by software, and virtual functions of a card, of
		// which there can be hundreds, are for virtual machines.
		if readText(base, "type") != "1" || !exists(base, "device") || exists(base, "device/physfn") {
			continue
		}
		// As a part of a bond a card has the bond's address; its own is what firmware uses (Documentation/networking/bonding.rst).
		for _, file := range []string{"bonding_slave/perm_hwaddr", "address"} {
			if mac, err := provisioning.ParseMAC(readText(base, file)); err == nil {
				out.MACAddresses = append(out.MACAddresses, mac)
				break
			}
		}
	}
	slices.Sort(out.MACAddresses)
	out.MACAddresses = slices.Compact(out.MACAddresses)
	out.MACAddresses = out.MACAddresses[:min(len(out.MACAddresses), provisioning.MaxHostMACs)]
	b, err := os.ReadFile(filepath.Join(sysfs, "class/dmi/id/product_uuid"))
	if err != nil {
		return out, fmt.Errorf("read the SMBIOS GUID: %w", err)
	}
	// One that says nothing is nobody's, and no error.
	if out.SMBIOSGUID, err = provisioning.ParseGUID(string(b)); err != nil {
		return out, fmt.Errorf("read the SMBIOS GUID: %w", err)
	}
	return out, nil
}
