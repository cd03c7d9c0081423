package provisioning

import (
	"fmt"
	"time"
)

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
	// Secrets are those whose values nobody is shown, as ComputerSpec.Secrets.
	Secrets map[string]string `yaml:"secrets,omitempty" json:"secrets,omitempty"`
	// Steps run from first to last.
	Steps []Step `yaml:"steps" json:"steps"`
}

// Time is a point in time in a document, RFC 3339. It is kept in UTC, so that what means the same is written the same.
type Time struct{ time.Time }

// UnmarshalText reads RFC 3339, of the years 1970 to 9999.
func (t *Time) UnmarshalText(b []byte) error {
	v, err := time.Parse(time.RFC3339, string(b))
	v = v.UTC()
	if err != nil || v.Year() < 1970 || v.Year() > 9999 {
		return fmt.Errorf("%q is no time such as 2026-11-20T08:00:00Z", clip(string(b)))
	}
	*t = Time{v}
	return nil
}
