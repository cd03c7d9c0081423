package provisioning

// KindAppliance is the kind of site.yaml, the one configuration file that stands on the appliance's own medium.
const KindAppliance Kind = "Appliance"

// Appliance is the content of site.yaml: what an appliance must know before it can reach central.
type Appliance struct {
	// Site is the site code.
	Site string `yaml:"site" json:"site"`
	// Central says where central is and how the first contact is trusted.
	Central ApplianceCentral `yaml:"central" json:"central"`
	// Network configures the appliance's network interfaces; empty means DHCP on every one.
	Network []ApplianceInterface `yaml:"network,omitempty" json:"network,omitempty"`
}

// ApplianceCentral is where central is.
type ApplianceCentral struct {
	// Address is "host:port" of central's HTTPS.
	Address string `yaml:"address" json:"address"`
	// CASHA256 is the SHA-256 of central's CA certificate (DER): the first contact is pinned to it.
	CASHA256 SHA256 `yaml:"caSHA256" json:"caSHA256"`
	// EnrolmentToken is single use.
	EnrolmentToken string `yaml:"enrolmentToken" json:"enrolmentToken"`
}

// ApplianceInterface configures one network interface.
type ApplianceInterface struct {
	// MAC or Name chooses the interface; exactly one of them.
	MAC  MAC    `yaml:"mac,omitempty" json:"mac,omitempty"`
	Name string `yaml:"name,omitempty" json:"name,omitempty"`
	// DHCP asks for an address; else Address is IPv4 with prefix length.
	DHCP    bool     `yaml:"dhcp,omitempty" json:"dhcp,omitempty"`
	Address string   `yaml:"address,omitempty" json:"address,omitempty"`
	Gateway string   `yaml:"gateway,omitempty" json:"gateway,omitempty"`
	DNS     []string `yaml:"dns,omitempty" json:"dns,omitempty"`
	// VLAN is an 802.1Q id, 1 to 4094; 0 is untagged.
	VLAN int `yaml:"vlan,omitempty" json:"vlan,omitempty"`
	// Serve lets clients be served on this interface; nil means yes.
	Serve *bool `yaml:"serve,omitempty" json:"serve,omitempty"`
}

// Serves reports whether clients may be served on the interface.
func (i *ApplianceInterface) Serves() bool { return i.Serve == nil || *i.Serve }

// ApplianceTemplate is the site.yaml of an image that was made for no site: a person fills it in with any editor.
const ApplianceTemplate = `# Settings of this Branchpoint appliance. Edit with any text editor; lines that begin with # are comments.
# Central can also hand out this image already filled in: branchpoint appliance image --site CODE --output FILE
apiVersion: branchpoint/v1
kind: Appliance
spec:
  # The site code, as central knows this branch office.
  site: ""
  central:
    # Where central is, host:port.
    address: ""
    # What "branchpoint enrol-token create --site CODE" printed.
    caSHA256: ""
    enrolmentToken: ""
  # Without a network section every Ethernet card asks for its address by DHCP. For a fixed address:
  # network:
  #   - name: eth0            # or  mac: 52:54:00:12:34:56
  #     address: 192.0.2.10/24
  #     gateway: 192.0.2.1
  #     dns: [192.0.2.1]
  #     vlan: 0               # 802.1Q id, 0 for none
  #     serve: true           # false: clients are never served on this card
`
