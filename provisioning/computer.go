package provisioning

// Computer is a known computer. Its name is the host name it gets.
type Computer struct {
	Name string       `yaml:"-" json:"name"`
	Spec ComputerSpec `yaml:"spec" json:"spec"`
}

// MaxMACAddresses bounds the MAC addresses of one computer.
const MaxMACAddresses = 64

// ComputerSpec says how a computer is recognised and what it is given.
type ComputerSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Site limits the computer to one site; empty means any.
	Site string `yaml:"site,omitempty" json:"site,omitempty"`
	// MACAddresses are the addresses of its network cards, at most MaxMACAddresses. These or SMBIOSGUID must be given.
	MACAddresses []MAC `yaml:"macAddresses,omitempty" json:"macAddresses,omitempty"`
	// SMBIOSGUID is its SMBIOS GUID.
	SMBIOSGUID GUID `yaml:"smbiosGUID,omitempty" json:"smbiosGUID,omitempty"`
	// TPM is which TPM 2.0 it has: the SHA-256 of that chip's endorsement key (RSA 2048, as SubjectPublicKeyInfo in DER; TCG EK
	// Credential Profile, template L-1). A computer is not recognised by it; it proves that it is the computer (SecretsAfterTPM).
	TPM SHA256 `yaml:"tpm,omitempty" json:"tpm,omitempty"`
	// Infrastructure marks a computer that is never a target, whatever a collection says: a host that makes media, or an
	// appliance or central, which are none without it, too, once central has heard of their machines.
	Infrastructure bool `yaml:"infrastructure,omitempty" json:"infrastructure,omitempty"`
	// Variables are set in its task sequences, and win over its collections' and the sequence's own.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Secrets are variables whose values nobody is shown. Central seals them before it keeps them (SealedPrefix).
	Secrets map[string]string `yaml:"secrets,omitempty" json:"secrets,omitempty"`
}

// Inventory is what is known of a computer's hardware from the last time its agent ran.
type Inventory struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	Serial       string `json:"serial,omitempty"`
	AssetTag     string `json:"assetTag,omitempty"`
	MemoryMiB    int64  `json:"memoryMiB,omitempty"`
	// Firmware is "uefi" or "bios".
	Firmware   string `json:"firmware,omitempty"`
	SecureBoot bool   `json:"secureBoot,omitempty"`
}

// ComputerAssociation says whose user state goes where. Its name is for people.
type ComputerAssociation struct {
	Name string                  `yaml:"-" json:"name"`
	Spec ComputerAssociationSpec `yaml:"spec" json:"spec"`
}

// ComputerAssociationSpec names the two computers of an association. The same name twice is an in-place migration.
type ComputerAssociationSpec struct {
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Source is the computer whose state is captured, Destination the one that alone can restore it.
	Source      string `yaml:"source" json:"source"`
	Destination string `yaml:"destination" json:"destination"`
}

// The built-in collections. They exist without a document, and none may have their names.
const (
	// AllSystems holds every known computer.
	AllSystems = "all-systems"
	// AllUnknownComputers holds every machine that no record names, where its site supports unknown computers.
	AllUnknownComputers = "all-unknown-computers"
)

// Collection is a set of computers. A computer belongs to it that is listed, or that its query fits.
type Collection struct {
	Name string         `yaml:"-" json:"name"`
	Spec CollectionSpec `yaml:"spec" json:"spec"`
}

// CollectionSpec says who belongs to a collection.
type CollectionSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Computers are direct members, by name.
	Computers []string `yaml:"computers,omitempty" json:"computers,omitempty"`
	// Query is a CEL expression over one computer, true for members; package collection says what it can name. Empty
	// fits nobody.
	Query string `yaml:"query,omitempty" json:"query,omitempty"`
	// Variables are set in the members' task sequences. Where collections set the same variable, that of the first
	// collection by name wins.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Secrets are those whose values nobody is shown, as ComputerSpec.Secrets.
	Secrets map[string]string `yaml:"secrets,omitempty" json:"secrets,omitempty"`
}

// Rights is what a Role allows.
type Rights string

// The rights, each including the ones after it.
const (
	// RightsAdministrator changes everything within its limits, roles too where it has none.
	RightsAdministrator Rights = "administrator"
	// RightsOperator applies Computer, Collection, Advertisement and ComputerAssociation documents, clears PXE
	// advertisements and approves.
	RightsOperator Rights = "operator"
	// RightsViewer reads.
	RightsViewer Rights = "viewer"
)

// Role gives accounts rights, everywhere or within limits.
type Role struct {
	Name string   `yaml:"-" json:"name"`
	Spec RoleSpec `yaml:"spec" json:"spec"`
}

// RoleSpec says who may do what, and where.
type RoleSpec struct {
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Rights is administrator, operator or viewer.
	Rights Rights `yaml:"rights" json:"rights"`
	// Accounts are the names of who has the role.
	Accounts []string `yaml:"accounts" json:"accounts"`
	// Sites and Collections limit the role to what belongs to them; where neither is given it has no limits. An empty list is
	// refused.
	Sites       []string `yaml:"sites,omitempty" json:"sites,omitempty"`
	Collections []string `yaml:"collections,omitempty" json:"collections,omitempty"`
}
