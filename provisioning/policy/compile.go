package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // windows of time mean the same on every machine

	"branchpoint/provisioning"
	"branchpoint/provisioning/collection"
)

// Policy is a snapshot made ready for decisions. It is safe for concurrent use, and its answers never change.
type Policy struct {
	snapshot *provisioning.Snapshot
	site     string
	role     *provisioning.PXERole

	computers  map[string]*provisioning.Computer
	elsewhere  map[string]*provisioning.Computer // of other sites
	hosts      provisioning.Hosts                // that are never targets
	names      map[string]bool                   // of all of them, in lower case
	byMAC      map[provisioning.MAC][]*provisioning.Computer
	byGUID     map[provisioning.GUID][]*provisioning.Computer
	ignored    map[provisioning.MAC]bool
	shared     map[provisioning.MAC]bool // adapters that name no computer
	sequences  map[string]*provisioning.TaskSequence
	bootImages map[string]*provisioning.BootImage

	collections []*collection.Collection // by name
	// collectionSpecs are the documents of collections, in the same order.
	collectionSpecs []*provisioning.Collection
	refers          map[string][]string // by sequence, the secrets that it refers to; nil where there are none
	indices         map[string]int      // of collections, by name
	ads             []advertisement     // in the order of choice
	zone            *time.Location      // nil where the site's is not known
	deployed        History             // what has run at other sites
	memory          memory
}

// advertisement is one with what it names.
type advertisement struct {
	*provisioning.Advertisement
	required   bool
	listed     map[string]bool // nil where it is for a collection
	collection int             // -1 where there is none of that name
	unknown    bool            // it is for machines that no record names
}

// Compile makes a policy of a snapshot, nil where the site has none yet. The policy can be used whatever the error is: that
// says which parts of the snapshot are silent, because they cannot be used.
func Compile(s *provisioning.Snapshot) (*Policy, error) {
	p := &Policy{snapshot: s}
	if s == nil {
		return p, nil
	}
	p.site, p.role = s.Site.Name, s.Site.Spec.PXE
	p.deployed = History{Runs: s.Deployed}.Indexed()
	p.indexComputers()
	p.hosts = provisioning.NewHosts(s.Infrastructure)
	if p.role != nil {
		p.ignored, p.shared = set(p.role.Ignore), set(p.role.SharedAdapters)
	}
	p.sequences = make(map[string]*provisioning.TaskSequence, len(s.TaskSequences))
	for i := range s.TaskSequences {
		p.sequences[s.TaskSequences[i].Name] = &s.TaskSequences[i]
	}
	p.bootImages = make(map[string]*provisioning.BootImage, len(s.BootImages))
	for i := range s.BootImages {
		p.bootImages[s.BootImages[i].Name] = &s.BootImages[i]
	}
	zone, err := s.Site.Spec.Location()
	if err != nil {
		err = fmt.Errorf("the time zone of site %s: %w", p.site, err)
	} else {
		p.zone = zone
	}
	err = errors.Join(err, p.compileCollections())
	p.orderAdvertisements()
	p.indexSecrets()
	return p, err
}

func (p *Policy) indexComputers() {
	s := p.snapshot
	n := len(s.Computers) + len(s.Elsewhere)
	p.computers = make(map[string]*provisioning.Computer, len(s.Computers))
	p.elsewhere = make(map[string]*provisioning.Computer, len(s.Elsewhere))
	p.names = make(map[string]bool, n)
	p.byMAC = make(map[provisioning.MAC][]*provisioning.Computer, n)
	p.byGUID = make(map[provisioning.GUID][]*provisioning.Computer, n)
	for i := range s.Computers {
		p.computers[s.Computers[i].Name] = &s.Computers[i]
		p.index(&s.Computers[i])
	}
	for i := range s.Elsewhere {
		p.elsewhere[s.Elsewhere[i].Name] = &s.Elsewhere[i]
		p.index(&s.Elsewhere[i])
	}
}

func (p *Policy) index(c *provisioning.Computer) {
	p.names[strings.ToLower(c.Name)] = true
	for _, m := range c.Spec.MACAddresses {
		if owners := p.byMAC[m]; !slices.Contains(owners, c) { // one that lists an address twice is one computer
			p.byMAC[m] = append(owners, c)
		}
	}
	if g := c.Spec.SMBIOSGUID; g != "" {
		p.byGUID[g] = append(p.byGUID[g], c)
	}
}

// compileCollections compiles those of the snapshot and the built-in ones.
func (p *Policy) compileCollections() error {
	documents := slices.DeleteFunc(slices.Clone(p.snapshot.Collections), func(c provisioning.Collection) bool {
		return c.Name == provisioning.AllSystems || c.Name == provisioning.AllUnknownComputers
	})
	documents = append(documents, provisioning.Collection{Name: provisioning.AllSystems}, provisioning.Collection{Name: provisioning.AllUnknownComputers})
	slices.SortStableFunc(documents, func(a, b provisioning.Collection) int { return cmp.Compare(a.Name, b.Name) })
	p.indices = make(map[string]int, len(documents))
	var wrong error
	for i, d := range documents {
		c, err := collection.New(d)
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("the query of collection %s: %w", d.Name, err))
		}
		p.collections = append(p.collections, c)
		p.collectionSpecs = append(p.collectionSpecs, &documents[i])
		p.indices[d.Name] = i
	}
	return wrong
}

// orderAdvertisements puts them in the order of choice, in which those that are required go before those that are available:
// by priority, then the one that was made last, then by name.
func (p *Policy) orderAdvertisements() {
	for i := range p.snapshot.Advertisements {
		a := advertisement{Advertisement: &p.snapshot.Advertisements[i], collection: -1}
		a.required = a.Spec.Purpose == provisioning.PurposeRequired
		a.unknown = a.Spec.Collection == provisioning.AllUnknownComputers
		if n, ok := p.indices[a.Spec.Collection]; ok {
			a.collection = n
		}
		if a.Spec.Collection == "" {
			a.listed = set(a.Spec.Computers)
		}
		p.ads = append(p.ads, a)
	}
	slices.SortStableFunc(p.ads, func(a, b advertisement) int {
		return cmp.Or(cmp.Compare(b.Spec.Priority, a.Spec.Priority), cmp.Compare(b.Changed, a.Changed), cmp.Compare(a.Name, b.Name))
	})
}

func set[T comparable](of []T) map[T]bool {
	out := make(map[T]bool, len(of))
	for _, v := range of {
		out[v] = true
	}
	return out
}

// Snapshot is what the policy was made of, nil where the site had none.
func (p *Policy) Snapshot() *provisioning.Snapshot { return p.snapshot }

// Known reports, also for a nil policy, whether the snapshot names a computer of this MAC address, or of this SMBIOS GUID ("" is none). It decides
// nothing: it is for telling whose packets come first.
func (p *Policy) Known(mac provisioning.MAC, guid provisioning.GUID) bool {
	return p != nil && (len(p.byMAC[mac]) > 0 || guid != "" && len(p.byGUID[guid]) > 0)
}

// destructive reports whether a sequence erases disks. One that is not there may have.
func (p *Policy) destructive(sequence string) bool {
	ts := p.sequences[sequence]
	return ts == nil || slices.ContainsFunc(ts.Spec.Steps, func(s provisioning.Step) bool { return s.Destructive() })
}
