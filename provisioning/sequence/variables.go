package sequence

import (
	"fmt"
	"regexp"
	"strings"

	"branchpoint/provisioning"
)

// Variables are a run's task sequence variables. Names are case-insensitive, as in the field's classic products.
type Variables map[string]string

// NewVariables gathers a run's variables. A computer's variables win over its sequence's, built-in ones over both; more
// are built-in variables that only the running computer knows, such as _SMSTSMake.
func NewVariables(a *provisioning.Assignment, more map[string]string) Variables {
	v := Variables{}
	v.add(a.Sequence.Spec.Variables)
	v.add(a.Computer.Spec.Variables)
	v.add(a.Secrets)
	v.add(map[string]string{
		"OSDComputerName":    a.Computer.Name,
		"_SMSTSMachineName":  a.Computer.Name,
		"_SMSTSPackageName":  a.Sequence.Name,
		"_SMSTSAdvertID":     a.Run.Advertisement,
		"_SMSTSAssignedSite": a.Site,
		"_SMSTSLaunchMode":   "PXE",
	})
	v.add(more)
	return v
}

func (v Variables) add(m map[string]string) {
	for name, value := range m {
		v[strings.ToUpper(name)] = value
	}
}

// reference is %NAME% or %%; any other percent sign stands for itself.
var reference = regexp.MustCompile(`%([A-Za-z_][A-Za-z0-9_]{0,127})?%`)

// Expand replaces every %NAME% in s by the variable's value, once (a value is not expanded again), and %% by a percent
// sign. It fails with CodeInvalid where a variable does not exist.
func (v Variables) Expand(s string) (string, error) {
	var unknown string
	out := reference.ReplaceAllStringFunc(s, func(ref string) string {
		if ref == "%%" {
			return "%"
		}
		value, ok := v[strings.ToUpper(ref[1:len(ref)-1])]
		if !ok && unknown == "" {
			unknown = ref
		}
		return value
	})
	if unknown != "" {
		return "", provisioning.Errorf(provisioning.CodeInvalid,
			fmt.Sprintf("Set the variable in the task sequence or for the computer, or write %%%s%% where percent signs are meant.", unknown),
			"there is no task sequence variable %s", unknown)
	}
	return out, nil
}

// expandAll expands the texts that dst point to, in place.
func (v Variables) expandAll(dst ...*string) error {
	for _, s := range dst {
		out, err := v.Expand(*s)
		if err != nil {
			return err
		}
		*s = out
	}
	return nil
}

// ExpandStep gives a copy of the step with every variable in its texts replaced. Its name is left as it is: messages
// and reports find a step by it.
func (v Variables) ExpandStep(s provisioning.Step) (provisioning.Step, error) {
	switch {
	case s.PartitionDisk != nil:
		p := *s.PartitionDisk
		p.Partitions = append([]provisioning.Partition(nil), p.Partitions...)
		if err := v.expandAll(&p.Disk.Serial); err != nil {
			return s, err
		}
		for i := range p.Partitions {
			if err := v.expandAll(&p.Partitions[i].Name, &p.Partitions[i].Label, &p.Partitions[i].Mount); err != nil {
				return s, err
			}
		}
		s.PartitionDisk = &p
	case s.ApplyOperatingSystemImage != nil:
		a := *s.ApplyOperatingSystemImage
		if err := v.expandAll(&a.Disk.Serial); err != nil {
			return s, err
		}
		s.ApplyOperatingSystemImage = &a
	case s.ApplyNetworkSettings != nil:
		n := *s.ApplyNetworkSettings
		n.DNS = append([]string(nil), n.DNS...)
		if err := v.expandAll(&n.Address, &n.Gateway, &n.Search); err != nil {
			return s, err
		}
		for i := range n.DNS {
			if err := v.expandAll(&n.DNS[i]); err != nil {
				return s, err
			}
		}
		s.ApplyNetworkSettings = &n
	case s.ApplyOperatingSystemSettings != nil:
		o := *s.ApplyOperatingSystemSettings
		if o.ComputerName == "" {
			o.ComputerName = "%OSDComputerName%"
		}
		if err := v.expandAll(&o.ComputerName, &o.TimeZone); err != nil {
			return s, err
		}
		s.ApplyOperatingSystemSettings = &o
	case s.RunCommandLine != nil:
		r := *s.RunCommandLine
		if err := v.expandAll(&r.Command); err != nil {
			return s, err
		}
		s.RunCommandLine = &r
	}
	return s, nil
}
