package provisioning

import (
	"cmp"
	"slices"
	"strconv"
)

func (o *Object) computerRefers(to func(string, Kind, string)) {
	if s := o.Computer.Spec.Site; s != "" {
		to("$.spec.site", KindSite, s)
	}
}

func (o *Object) collectionRefers(to func(string, Kind, string)) {
	each("$.spec.computers", KindComputer, o.Collection.Spec.Computers, to)
}

func (o *Object) sequenceRefers(to func(string, Kind, string)) {
	s := &o.TaskSequence.Spec
	if s.BootImage != "" {
		to("$.spec.bootImage", KindBootImage, s.BootImage)
	}
	for i, st := range s.Steps {
		if a := st.ApplyOperatingSystemImage; a != nil {
			to("$.spec.steps["+strconv.Itoa(i)+"].applyOperatingSystemImage.image", KindOperatingSystemImage, a.Image)
		}
	}
}

func (o *Object) advertisementRefers(to func(string, Kind, string)) {
	s := &o.Advertisement.Spec
	to("$.spec.taskSequence", KindTaskSequence, s.TaskSequence)
	if s.Collection != "" && !BuiltIn(s.Collection) {
		to("$.spec.collection", KindCollection, s.Collection)
	}
	each("$.spec.computers", KindComputer, s.Computers, to)
}

func (o *Object) associationRefers(to func(string, Kind, string)) {
	s := &o.ComputerAssociation.Spec
	to("$.spec.source", KindComputer, s.Source)
	to("$.spec.destination", KindComputer, s.Destination)
}

func (o *Object) roleRefers(to func(string, Kind, string)) {
	each("$.spec.sites", KindSite, o.Role.Spec.Sites, to)
	for i, n := range o.Role.Spec.Collections {
		if !BuiltIn(n) {
			to("$.spec.collections["+strconv.Itoa(i)+"]", KindCollection, n)
		}
	}
}

func each(path string, kind Kind, names []string, to func(string, Kind, string)) {
	for i, n := range names {
		to(path+"["+strconv.Itoa(i)+"]", kind, n)
	}
}

// refer calls to for everything that o refers to by name.
func (o *Object) refer(to func(path string, kind Kind, name string)) {
	if r := rules[o.Kind].refer; r != nil && o.spec() != nil {
		r(o, to)
	}
}

// References are the documents that o names, in the order in which it names them.
func (o *Object) References() []Key {
	var keys []Key
	o.refer(func(_ string, kind Kind, name string) { keys = append(keys, Key{kind, name}) })
	return keys
}

// Dependants are the documents that name one of the given ones and are not among them, sorted by kind and name. Whoever
// changes the given ones checks these too; whoever deletes the given ones leaves these without what they name.
func (c Catalog) Dependants(of ...Key) []Key {
	given := make(map[Key]bool, len(of))
	for _, k := range of {
		given[k] = true
	}
	var keys []Key
	for k, o := range c {
		if given[k] {
			continue
		}
		found := false
		o.refer(func(_ string, kind Kind, name string) { found = found || given[Key{kind, name}] })
		if found {
			keys = append(keys, k)
		}
	}
	SortKeys(keys)
	return keys
}

// SortKeys sorts by kind, in the order of Kinds, then by name.
func SortKeys(keys []Key) {
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(kindOrder[a.Kind], kindOrder[b.Kind]), cmp.Compare(a.Name, b.Name))
	})
}

// kindOrder is the place of each kind in Kinds.
var kindOrder = func() map[Kind]int {
	order := map[Kind]int{}
	for i, k := range Kinds {
		order[k] = i
	}
	return order
}()
