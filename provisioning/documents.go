package provisioning

import "time"

// APIVersion stands at the head of every configuration document.
const APIVersion = "branchpoint/v1"

// Kind is the kind of a configuration document.
type Kind string

// The kinds of configuration documents.
const (
	KindSite                          Kind = "Site"
	KindComputer                      Kind = "Computer"
	KindCollection                    Kind = "Collection"
	KindOperatingSystemImage          Kind = "OperatingSystemImage"
	KindOperatingSystemInstallPackage Kind = "OperatingSystemInstallPackage"
	KindBootImage                     Kind = "BootImage"
	KindDriverPackage                 Kind = "DriverPackage"
	KindSoftwarePackage               Kind = "SoftwarePackage"
	KindTaskSequence                  Kind = "TaskSequence"
	KindAdvertisement                 Kind = "Advertisement"
	KindComputerAssociation           Kind = "ComputerAssociation"
	KindRole                          Kind = "Role"
)

// Kinds lists every kind in the order in which one may refer to another.
var Kinds = []Kind{
	KindSite, KindComputer, KindCollection, KindOperatingSystemImage, KindOperatingSystemInstallPackage, KindBootImage,
	KindDriverPackage, KindSoftwarePackage, KindTaskSequence, KindAdvertisement, KindComputerAssociation, KindRole,
}

// OperatingSystemImage makes a content package deployable.
type OperatingSystemImage struct {
	Name string                   `yaml:"-" json:"name"`
	Spec OperatingSystemImageSpec `yaml:"spec" json:"spec"`
}

// OperatingSystemImageSpec names the content of an image.
type OperatingSystemImageSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// Package is the name given to `branchpoint content add`.
	Package string `yaml:"package" json:"package"`
	// Version is the package's version, from 1; 0 means the newest at the time a snapshot is made.
	Version int `yaml:"version,omitempty" json:"version,omitempty"`
}

// TaskSequence is an ordered list of steps.
type TaskSequence struct {
	Name string           `yaml:"-" json:"name"`
	Spec TaskSequenceSpec `yaml:"spec" json:"spec"`
}

// TaskSequenceSpec is what a task sequence does.
type TaskSequenceSpec struct {
	// Description is for people.
	Description string `yaml:"description,omitempty" json:"description,omitempty"`
	// BootImage is the name of the BootImage it runs in; empty means the appliance's own, for every architecture.
	BootImage string `yaml:"bootImage,omitempty" json:"bootImage,omitempty"`
	// Variables are the sequence's own; %NAME% in a step's texts is replaced by the value.
	Variables map[string]string `yaml:"variables,omitempty" json:"variables,omitempty"`
	// Steps run from first to last.
	Steps []Step `yaml:"steps" json:"steps"`
}

// Time is a point in time in a document, RFC 3339. It is a type of its own because the YAML library reads a malformed
// time.Time as zero, without an error: an advertisement would lose its bounds.
type Time struct {
	time.Time
	malformed string // what stood there instead of a time; validation reports it with its place
}

// UnmarshalText reads RFC 3339; text of any other form is kept for validation to refuse.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339, string(b))
	*t = Time{Time: v}
	if err != nil {
		t.malformed = string(b)
	}
	return nil
}
