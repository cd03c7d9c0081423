package provisioning

// Step is one step of a task sequence: a name and exactly one action.
type Step struct {
	// Name is shown on the client's screen and in status messages; empty means the action's own name.
	Name string `yaml:"name,omitempty" json:"name,omitempty"`

	// Exactly one of the following is set.
	PartitionDisk                *PartitionDisk                `yaml:"partitionDisk,omitempty" json:"partitionDisk,omitempty"`
	ApplyOperatingSystemImage    *ApplyOperatingSystemImage    `yaml:"applyOperatingSystemImage,omitempty" json:"applyOperatingSystemImage,omitempty"`
	ApplyNetworkSettings         *ApplyNetworkSettings         `yaml:"applyNetworkSettings,omitempty" json:"applyNetworkSettings,omitempty"`
	ApplyOperatingSystemSettings *ApplyOperatingSystemSettings `yaml:"applyOperatingSystemSettings,omitempty" json:"applyOperatingSystemSettings,omitempty"`
	RunCommandLine               *RunCommandLine               `yaml:"runCommandLine,omitempty" json:"runCommandLine,omitempty"`
	Restart                      *Restart                      `yaml:"restart,omitempty" json:"restart,omitempty"`
}

// DiskSelector chooses the target disk among the computer's fixed disks. Empty means: the only one there is; where
// there are several the step fails rather than guess.
type DiskSelector struct {
	// Number counts the fixed disks from 0 in the order of their device paths; nil means not chosen by number.
	Number *int `yaml:"number,omitempty" json:"number,omitempty"`
	// Serial is the disk's serial number, exactly.
	Serial string `yaml:"serial,omitempty" json:"serial,omitempty"`
}

// PartitionTable is a partition table's format.
type PartitionTable string

// The partition table formats; empty means GPT.
const (
	TableGPT PartitionTable = "gpt"
	TableMBR PartitionTable = "mbr"
)

// FileSystem is what a partition is formatted with.
type FileSystem string

// The file systems that Partition Disk makes.
const (
	FileSystemNone FileSystem = ""
	FileSystemExt4 FileSystem = "ext4"
	FileSystemVFAT FileSystem = "vfat"
	FileSystemSwap FileSystem = "swap"
)

// PartitionType is what a partition is for.
type PartitionType string

// The purposes of a partition; empty means data.
const (
	PartitionData     PartitionType = "data"
	PartitionESP      PartitionType = "esp"       // EFI system partition
	PartitionBIOSBoot PartitionType = "bios-boot" // GRUB's core image on GPT
	PartitionRoot     PartitionType = "root"      // Linux root
	PartitionSwap     PartitionType = "swap"
)

// PartitionDisk erases the disk and makes partitions. Destructive.
type PartitionDisk struct {
	Disk DiskSelector `yaml:"disk,omitempty" json:"disk"`
	// Table is gpt (default) or mbr.
	Table PartitionTable `yaml:"table,omitempty" json:"table,omitempty"`
	// Partitions in the order they stand on the disk; at least one.
	Partitions []Partition `yaml:"partitions" json:"partitions"`
}

// Partition is one partition to make.
type Partition struct {
	// Name is the GPT partition name, at most 36 characters.
	Name string `yaml:"name,omitempty" json:"name,omitempty"`
	// Type is what it is for.
	Type PartitionType `yaml:"type,omitempty" json:"type,omitempty"`
	// Size is "512MiB", "20GiB", "50%" of what fixed sizes leave, or "rest" (also when empty; last partition only).
	Size string `yaml:"size,omitempty" json:"size,omitempty"`
	// FileSystem formats it; empty leaves it raw.
	FileSystem FileSystem `yaml:"fileSystem,omitempty" json:"fileSystem,omitempty"`
	// Label is the file system's label.
	Label string `yaml:"label,omitempty" json:"label,omitempty"`
	// Mount is where the installed system mounts it, "/" or "/boot/efi"; empty means nowhere.
	Mount string `yaml:"mount,omitempty" json:"mount,omitempty"`
}

// ApplyOperatingSystemImage writes an operating system image: a disk image onto the whole disk, grown to its size; a
// root file system into the partitions made by Partition Disk, with its boot loader. Destructive.
type ApplyOperatingSystemImage struct {
	// Image is the name of an OperatingSystemImage.
	Image string `yaml:"image" json:"image"`
	// Disk is the target of a disk image; refused for a root file system, which goes where Partition Disk said.
	Disk DiskSelector `yaml:"disk,omitempty" json:"disk"`
}

// ApplyNetworkSettings configures the installed system's network.
type ApplyNetworkSettings struct {
	// DHCP gives every Ethernet card its address by DHCP. Either this or Address.
	DHCP bool `yaml:"dhcp,omitempty" json:"dhcp,omitempty"`
	// Address is IPv4 with prefix length, "192.0.2.10/24", for the card the computer was booted from.
	Address string `yaml:"address,omitempty" json:"address,omitempty"`
	// Gateway is the default gateway, IPv4.
	Gateway string `yaml:"gateway,omitempty" json:"gateway,omitempty"`
	// DNS are name servers, IPv4.
	DNS []string `yaml:"dns,omitempty" json:"dns,omitempty"`
	// Search is the DNS search domain.
	Search string `yaml:"search,omitempty" json:"search,omitempty"`
}

// ApplyOperatingSystemSettings gives the installed system its identity.
type ApplyOperatingSystemSettings struct {
	// ComputerName is the host name; empty means the computer's name (%OSDComputerName%).
	ComputerName string `yaml:"computerName,omitempty" json:"computerName,omitempty"`
	// TimeZone is an IANA name such as Europe/Berlin.
	TimeZone string `yaml:"timeZone,omitempty" json:"timeZone,omitempty"`
	// Administrator is the administrator account.
	Administrator *AdministratorAccount `yaml:"administrator,omitempty" json:"administrator,omitempty"`
}

// AdministratorAccount is the account that administers an installed system.
type AdministratorAccount struct {
	// Name is the account's name; empty means root. Another account is made and joins group sudo where there is one.
	Name string `yaml:"name,omitempty" json:"name,omitempty"`
	// PasswordHash is a crypt(5) hash such as `openssl passwd -6` prints; empty locks the password.
	PasswordHash string `yaml:"passwordHash,omitempty" json:"passwordHash,omitempty"`
	// SSHKeys are public keys in authorized_keys format.
	SSHKeys []string `yaml:"sshKeys,omitempty" json:"sshKeys,omitempty"`
}

// RunCommandLine runs a command with sh -c.
type RunCommandLine struct {
	// Command is the command line.
	Command string `yaml:"command" json:"command"`
	// In is "target" (default), the installed system's file tree, or "boot-image".
	In CommandPlace `yaml:"in,omitempty" json:"in,omitempty"`
	// SuccessCodes are the exit codes that mean success; empty means 0.
	SuccessCodes []int `yaml:"successCodes,omitempty" json:"successCodes,omitempty"`
	// TimeoutMinutes ends the command with an error; 0 means 60.
	TimeoutMinutes int `yaml:"timeoutMinutes,omitempty" json:"timeoutMinutes,omitempty"`
}

// CommandPlace is where a command runs.
type CommandPlace string

// The places where a command can run.
const (
	InTarget    CommandPlace = "target"
	InBootImage CommandPlace = "boot-image"
)

// Restart restarts the computer into the installed system.
type Restart struct{}

// Action names the step's action as it stands in YAML, "" if none is set.
func (s *Step) Action() string {
	names := s.actions()
	if len(names) == 0 {
		return ""
	}
	return names[0]
}

// actions lists the actions that are set, in a fixed order; a valid step has one.
func (s *Step) actions() []string {
	var names []string
	for _, a := range []struct {
		name string
		set  bool
	}{
		{"partitionDisk", s.PartitionDisk != nil},
		{"applyOperatingSystemImage", s.ApplyOperatingSystemImage != nil},
		{"applyNetworkSettings", s.ApplyNetworkSettings != nil},
		{"applyOperatingSystemSettings", s.ApplyOperatingSystemSettings != nil},
		{"runCommandLine", s.RunCommandLine != nil},
		{"restart", s.Restart != nil},
	} {
		if a.set {
			names = append(names, a.name)
		}
	}
	return names
}

// Destructive reports whether the step overwrites what the computer's disks hold.
func (s *Step) Destructive() bool {
	return s.PartitionDisk != nil || s.ApplyOperatingSystemImage != nil
}

// Title is the step's name as people see it.
func (s *Step) Title() string {
	if s.Name != "" {
		return s.Name
	}
	switch s.Action() {
	case "partitionDisk":
		return "Partition Disk"
	case "applyOperatingSystemImage":
		return "Apply Operating System Image"
	case "applyNetworkSettings":
		return "Apply Network Settings"
	case "applyOperatingSystemSettings":
		return "Apply Operating System Settings"
	case "runCommandLine":
		return "Run Command Line"
	case "restart":
		return "Restart"
	}
	return "(no action)"
}
