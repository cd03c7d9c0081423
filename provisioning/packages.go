package provisioning

// OperatingSystemInstallPackage is a vendor's installation medium with its content.
type OperatingSystemInstallPackage struct {
	Name string      `yaml:"-" json:"name"`
	Spec PackageSpec `yaml:"spec" json:"spec"`
}

// DriverPackage is a set of drivers with its content.
type DriverPackage struct {
	Name string      `yaml:"-" json:"name"`
	Spec PackageSpec `yaml:"spec" json:"spec"`
}

// SoftwarePackage is software with its content.
type SoftwarePackage struct {
	Name string      `yaml:"-" json:"name"`
	Spec PackageSpec `yaml:"spec" json:"spec"`
}

// PackageSpec names the content of a package.
type PackageSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Package is the name given to `branchpoint content add`.
	Package string `yaml:"package" json:"package"`
	// Version is the package's version, from 1; 0 means the newest at the time a snapshot is made.
	Version int `yaml:"version,omitempty" json:"version,omitempty"`
}

// BootImage is a boot image as task sequences choose it.
type BootImage struct {
	Name string        `yaml:"-" json:"name"`
	Spec BootImageSpec `yaml:"spec" json:"spec"`
}

// BootArchitecture is the firmware that a boot image starts under, as documents write it.
type BootArchitecture string

// The architectures of boot images.
const (
	BootBIOS        BootArchitecture = "bios"
	BootUEFIx64     BootArchitecture = "uefi-x64"      // by TFTP
	BootHTTPUEFIx64 BootArchitecture = "uefi-http-x64" // UEFI HTTP Boot
)

// BootImageSpec says where a boot image is used. Its files are the appliance's own: the same signed kernel and layers.
type BootImageSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Architectures are those whose clients get it, exactly: others get nothing. Empty means all that there are.
	Architectures []BootArchitecture `yaml:"architectures,omitempty" json:"architectures,omitempty"`
}
