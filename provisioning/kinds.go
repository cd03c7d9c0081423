package provisioning

import "reflect"

// rule is what there is to know about a kind of document. Every kind is a field of Object of the same name, a pointer to
// a struct with the fields Name and Spec: making, decoding and encoding need no more.
type rule struct {
	// check checks a document by itself, and brings what it says into its canonical form.
	check func(c *checker, o *Object)
	// refer calls to for everything that a document refers to by name, with the place; nil where that is nothing. What is
	// built in is not referred to.
	refer func(o *Object, to func(path string, kind Kind, name string))
	// content returns the content package that a document names with the version (0: the newest); nil for kinds without.
	content func(o *Object) (name string, version int)
}

// Kinds lists every kind in the order in which one may refer to another.
var Kinds = []Kind{
	KindSite, KindComputer, KindCollection, KindOperatingSystemImage, KindOperatingSystemInstallPackage, KindBootImage,
	KindDriverPackage, KindSoftwarePackage, KindTaskSequence, KindAdvertisement, KindComputerAssociation, KindRole,
}

// rules are all kinds.
var rules = map[Kind]rule{
	KindSite:       {check: func(c *checker, o *Object) { c.site(&o.Site.Spec) }},
	KindComputer:   {check: func(c *checker, o *Object) { c.computer(o.Computer) }, refer: (*Object).computerRefers},
	KindCollection: {check: func(c *checker, o *Object) { c.collection(o.Collection) }, refer: (*Object).collectionRefers},
	KindOperatingSystemImage: {
		check:   func(c *checker, o *Object) { c.pkg(PackageSpec(o.OperatingSystemImage.Spec)) },
		content: func(o *Object) (string, int) { return PackageSpec(o.OperatingSystemImage.Spec).content() },
	},
	KindOperatingSystemInstallPackage: {
		check:   func(c *checker, o *Object) { c.pkg(o.OperatingSystemInstallPackage.Spec) },
		content: func(o *Object) (string, int) { return o.OperatingSystemInstallPackage.Spec.content() },
	},
	KindBootImage: {check: func(c *checker, o *Object) { c.bootImage(&o.BootImage.Spec) }},
	KindDriverPackage: {
		check:   func(c *checker, o *Object) { c.pkg(o.DriverPackage.Spec) },
		content: func(o *Object) (string, int) { return o.DriverPackage.Spec.content() },
	},
	KindSoftwarePackage: {
		check:   func(c *checker, o *Object) { c.pkg(o.SoftwarePackage.Spec) },
		content: func(o *Object) (string, int) { return o.SoftwarePackage.Spec.content() },
	},
	KindTaskSequence: {check: func(c *checker, o *Object) { c.sequence(&o.TaskSequence.Spec) }, refer: (*Object).sequenceRefers},
	KindAdvertisement: {
		check: func(c *checker, o *Object) { c.advertisement(&o.Advertisement.Spec) }, refer: (*Object).advertisementRefers,
	},
	KindComputerAssociation: {
		check: func(c *checker, o *Object) { c.association(&o.ComputerAssociation.Spec) }, refer: (*Object).associationRefers,
	},
	KindRole: {check: func(c *checker, o *Object) { c.role(&o.Role.Spec) }, refer: (*Object).roleRefers},
}

func (s PackageSpec) content() (string, int) { return s.Package, s.Version }

// field is the field of o that its kind names.
func (o *Object) field() reflect.Value { return reflect.ValueOf(o).Elem().FieldByName(string(o.Kind)) }

// make gives o an empty document of its kind and name, and returns a pointer to its spec. The kind must be known.
func (o *Object) make() any {
	f := o.field()
	f.Set(reflect.New(f.Type().Elem()))
	f.Elem().FieldByName("Name").SetString(o.Name)
	return o.spec()
}

// spec returns a pointer to the document's spec, nil where there is no document of the object's kind.
func (o *Object) spec() any {
	if _, known := rules[o.Kind]; !known || o.field().IsNil() {
		return nil
	}
	return o.field().Elem().FieldByName("Spec").Addr().Interface()
}

// check checks a document by itself; what it refers to is checked by Catalog.Check. It also brings what it says into its
// canonical form.
func (o *Object) check(c *checker) {
	if err := checkName(o.Name); err != nil {
		c.add("$.metadata.name", "metadata.name: %v", err)
	}
	rules[o.Kind].check(c, o)
}

// Validate checks an object that was made otherwise than by Decode, as Decode does, and brings what it says into its
// canonical form.
func (o *Object) Validate() Problems {
	if o.spec() == nil {
		return Problems{o.Problem("$.kind", "kind %q is unknown, or there is no document of it; kinds are %s", clip(string(o.Kind)), kindList())}
	}
	if o.field().Elem().FieldByName("Name").String() != o.Name {
		return Problems{o.Problem("$.metadata.name", "the object is %s, its document is another one", o.Name)}
	}
	c := checker{source: o.source}
	o.check(&c)
	return c.problems
}
