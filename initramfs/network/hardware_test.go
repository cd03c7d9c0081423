package network

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"branchpoint/provisioning"
)

// TestHardware: cards with and without a link, those in a bond by their own address; nothing that software has made.
func TestHardware(t *testing.T) {
	const dmi = "class/dmi/id/product_uuid"
	files := map[string]string{
		"class/net/eth1/type": "1\n", "class/net/eth1/address": "52:54:00:12:34:02\n", "class/net/eth1/carrier": "1\n", "class/net/eth1/device/x": "",
		"class/net/eth0/type": "1\n", "class/net/eth0/address": "52:54:00:12:34:03\n", "class/net/eth0/device/x": "",
		"class/net/eth2/type": "1\n", "class/net/eth2/address": "52:54:00:12:34:02\n", "class/net/eth2/device/x": "", "class/net/eth2/bonding_slave/perm_hwaddr": "52:54:00:12:34:01\n",
		"class/net/bond0/type": "1\n", "class/net/bond0/address": "52:54:00:12:34:09\n",
		"class/net/vf0/type": "1\n", "class/net/vf0/address": "52:54:00:12:34:0a\n", "class/net/vf0/device/physfn/x": "",
		"class/net/ib0/type": "32\n", "class/net/ib0/address": "80:00:00:00:00:01\n", "class/net/ib0/device/x": "",
		"class/net/wlan0/type": "1\n", "class/net/wlan0/address": "52:54:00:12:34:04\n", "class/net/wlan0/device/x": "", "class/net/wlan0/phy80211/x": "",
		"class/net/dead/type": "1\n", "class/net/dead/address": "00:00:00:00:00:00\n", "class/net/dead/device/x": "",
		dmi: "4C4C4544-0042-3510-8052-B4C04F4D3432\n",
	}
	four := []provisioning.MAC{"52:54:00:12:34:01", "52:54:00:12:34:02", "52:54:00:12:34:03", "52:54:00:12:34:04"}
	write := func(dir string) {
		t.Helper()
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(dir string, want provisioning.Hardware, fault bool) {
		t.Helper()
		write(dir)
		got, err := Hardware(dir)
		if !reflect.DeepEqual(got, want) || (err != nil) != fault || got.Validate() != nil {
			t.Errorf("%+v, %v", got, err)
		}
	}
	check(t.TempDir(), provisioning.Hardware{MACAddresses: four, SMBIOSGUID: "4c4c4544-0042-3510-8052-b4c04f4d3432"}, false)
	files[dmi] = "03000200-0400-0500-0006-000700080009\n" // thousands of boards have it
	check(t.TempDir(), provisioning.Hardware{MACAddresses: four}, false)
	files[dmi] = "Not Settable\n"
	check(t.TempDir(), provisioning.Hardware{MACAddresses: four}, true)
	delete(files, dmi)
	check(t.TempDir(), provisioning.Hardware{MACAddresses: four}, true)
	if got, err := Hardware(t.TempDir()); err == nil || !got.Empty() {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range 40 {
		name := fmt.Sprintf("class/net/many%d/", i)
		files[name+"type"], files[name+"address"], files[name+"device/x"] = "1\n", fmt.Sprintf("52:54:00:99:00:%02x\n", i), ""
	}
	dir := t.TempDir()
	write(dir)
	if got, _ := Hardware(dir); len(got.MACAddresses) != provisioning.MaxHostMACs || !slices.Equal(got.MACAddresses[:4], four) || got.Validate() != nil {
		t.Errorf("%+v", got)
	}
}
