package collection

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"branchpoint/provisioning"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
)

// Subject is a computer with what is known of it, as queries see it. It is safe for concurrent use.
type Subject struct {
	computer    *provisioning.Computer
	inventory   *provisioning.Inventory // nil where nothing is known
	macs        []string
	deployments []ref.Val
	bounded     bool // it is not larger than estimates assume
}

// NewSubject gathers what a query sees. inventory is nil where nothing is known of the computer's hardware. What is given
// must not change afterwards.
func NewSubject(computer *provisioning.Computer, inventory *provisioning.Inventory, deployments []Deployment) *Subject {
	s := &Subject{computer: computer, inventory: inventory, macs: make([]string, len(computer.Spec.MACAddresses))}
	for i, m := range computer.Spec.MACAddresses {
		s.macs[i] = string(m)
	}
	for i := range deployments {
		s.deployments = append(s.deployments, &object{typeDeployment, &deployments[i]})
	}
	s.bounded = bounded(computer, inventory, deployments)
	return s
}

// bounded reports whether a computer is not larger than estimates assume.
func bounded(c *provisioning.Computer, i *provisioning.Inventory, deployments []Deployment) bool {
	spec := &c.Spec
	if len(c.Name) > maxName || len(spec.Site) > maxName || len(spec.SMBIOSGUID) > maxGUID || len(spec.Description) > maxLong ||
		len(spec.MACAddresses) > maxMACs || len(spec.Variables) > maxVariables || len(deployments) > maxDeployments {
		return false
	}
	for _, m := range spec.MACAddresses {
		if len(m) > maxMAC {
			return false
		}
	}
	for k, v := range spec.Variables {
		if len(k) > maxVariable || len(v) > maxLong {
			return false
		}
	}
	for _, d := range deployments {
		if len(d.Advertisement) > maxField || len(d.TaskSequence) > maxField || len(d.State) > maxField {
			return false
		}
	}
	return i == nil || max(len(i.Manufacturer), len(i.Product), len(i.Serial), len(i.AssetTag), len(i.Firmware)) <= maxField
}

// ResolveName gives a query its variables (cel.Activation).
func (s *Subject) ResolveName(name string) (any, bool) {
	switch name {
	case "computer":
		return &object{typeComputer, s}, true
	case "inventory":
		return &object{typeInventory, s}, true
	case "deployments":
		return types.NewRefValList(types.DefaultTypeAdapter, s.deployments), true
	}
	return nil, false
}

// Parent is none (cel.Activation).
func (s *Subject) Parent() cel.Activation { return nil }

// The types that queries know beside CEL's own.
var (
	typeComputer   = types.NewObjectType("Computer")
	typeInventory  = types.NewObjectType("Inventory")
	typeDeployment = types.NewObjectType("Deployment")
)

// object is a value of one of these types.
type object struct {
	is *types.Type
	of any // *Subject, or *Deployment
}

func (o *object) ConvertToNative(t reflect.Type) (any, error) {
	return nil, fmt.Errorf("a %s is no %s", o.is, t)
}
func (o *object) ConvertToType(t ref.Type) ref.Val { return types.NewErr("a %s is no %s", o.is, t) }
func (o *object) Equal(other ref.Val) ref.Val      { return types.Bool(ref.Val(o) == other) }
func (o *object) Type() ref.Type                   { return o.is }
func (o *object) Value() any                       { return o }

// field is one field of such a type. get returns false where it has no value.
type field struct {
	is  *types.Type
	get func(of any) (any, bool)
}

// computerField is of a computer: it has a value, be it empty.
func computerField(is *types.Type, get func(s *Subject) any) field {
	return field{is, func(of any) (any, bool) { return get(of.(*Subject)), true }}
}

// inventoryText is of an inventory: empty is not known.
func inventoryText(get func(*provisioning.Inventory) string) field {
	return field{types.StringType, func(of any) (any, bool) {
		i := of.(*Subject).inventory
		if i == nil || get(i) == "" {
			return nil, false
		}
		return get(i), true
	}}
}

func deploymentField(is *types.Type, get func(*Deployment) any) field {
	return field{is, func(of any) (any, bool) { return get(of.(*Deployment)), true }}
}

// fields are what queries can name, by type and name.
var fields = map[string]map[string]field{
	"Computer": {
		"name":        computerField(types.StringType, func(s *Subject) any { return s.computer.Name }),
		"site":        computerField(types.StringType, func(s *Subject) any { return s.computer.Spec.Site }),
		"description": computerField(types.StringType, func(s *Subject) any { return s.computer.Spec.Description }),
		"smbiosGUID":  computerField(types.StringType, func(s *Subject) any { return string(s.computer.Spec.SMBIOSGUID) }),
		"macAddresses": computerField(types.NewListType(types.StringType), func(s *Subject) any {
			return s.macs
		}),
		"variables": computerField(types.NewMapType(types.StringType, types.StringType), func(s *Subject) any {
			return s.computer.Spec.Variables
		}),
	},
	"Inventory": {
		"manufacturer": inventoryText(func(i *provisioning.Inventory) string { return i.Manufacturer }),
		"product":      inventoryText(func(i *provisioning.Inventory) string { return i.Product }),
		"serial":       inventoryText(func(i *provisioning.Inventory) string { return i.Serial }),
		"assetTag":     inventoryText(func(i *provisioning.Inventory) string { return i.AssetTag }),
		"firmware":     inventoryText(func(i *provisioning.Inventory) string { return i.Firmware }),
		"memoryMiB": {types.IntType, func(of any) (any, bool) {
			i := of.(*Subject).inventory
			if i == nil || i.MemoryMiB <= 0 {
				return nil, false
			}
			return i.MemoryMiB, true
		}},
		"secureBoot": {types.BoolType, func(of any) (any, bool) {
			i := of.(*Subject).inventory
			if i == nil {
				return nil, false
			}
			return i.SecureBoot, true
		}},
	},
	"Deployment": {
		"advertisement": deploymentField(types.StringType, func(d *Deployment) any { return d.Advertisement }),
		"taskSequence":  deploymentField(types.StringType, func(d *Deployment) any { return d.TaskSequence }),
		"state":         deploymentField(types.StringType, func(d *Deployment) any { return string(d.State) }),
		"spent":         deploymentField(types.BoolType, func(d *Deployment) any { return d.Spent }),
	},
}

// provider tells CEL of the types (types.Provider).
type provider struct{ types.Provider }

func (p provider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := fields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

func (p provider) FindStructFieldNames(name string) ([]string, bool) {
	if f, ok := fields[name]; ok {
		return slices.Sorted(maps.Keys(f)), true
	}
	return p.Provider.FindStructFieldNames(name)
}

func (p provider) FindStructFieldType(name, fieldName string) (*types.FieldType, bool) {
	of, ok := fields[name]
	if !ok {
		return p.Provider.FindStructFieldType(name, fieldName)
	}
	f, ok := of[fieldName]
	if !ok {
		return nil, false
	}
	value := func(target any) (any, bool) {
		o, ok := target.(*object)
		if !ok || o.is.TypeName() != name {
			return nil, false
		}
		return f.get(o.of)
	}
	return &types.FieldType{
		Type: f.is,
		// Presence: what is empty is not there.
		IsSet: func(target any) bool { v, ok := value(target); return ok && !empty(v) },
		GetFrom: func(target any) (any, error) {
			if v, ok := value(target); ok {
				return v, nil
			}
			return nil, fmt.Errorf("%s.%s is not known", strings.ToLower(name), fieldName)
		},
	}, true
}

func empty(v any) bool {
	switch v := v.(type) {
	case string:
		return v == ""
	case []string:
		return len(v) == 0
	case map[string]string:
		return len(v) == 0
	}
	return false
}
