package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/store"
)

// configuration is a whole configuration of some hundred documents, each of which says of which generation it is.
type configuration struct {
	generation int
	variant    variant
}

func (c configuration) String() string {
	return fmt.Sprintf("generation %d (%s)", c.generation, [...]string{"whole", "fewer", "more"}[c.variant])
}

// variant says which computers there are.
type variant int

const (
	whole variant = iota // all that were applied
	fewer                // some were deleted since
	more                 // some were imported since
)

const (
	killSites     = 3
	killComputers = 120 // of each site, in an even generation; an odd one has some less
	killVaried    = 10  // of each site that are deleted or imported
)

func computerName(site, n int) string { return fmt.Sprintf("s%d-%d", site, n) }

// computers are the names of a site's computers.
func (c configuration) computers(site int) map[string]bool {
	out := map[string]bool{}
	for n := range killComputers - c.generation%2*killVaried {
		out[computerName(site, n)] = c.variant != fewer || n >= killVaried
	}
	for n := range killVaried {
		out[computerName(site, killComputers+n)] = c.variant == more
	}
	maps.DeleteFunc(out, func(_ string, there bool) bool { return !there })
	return out
}

// write writes the configuration's files into a folder, instead of what it holds.
func (c configuration) write(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	var b strings.Builder
	document := func(kind, name, spec string) {
		fmt.Fprintf(&b, "apiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: {description: \"generation %d\"%s}\n---\n", kind, name, c.generation, spec)
	}
	save := func(name string) error {
		defer b.Reset()
		return os.WriteFile(filepath.Join(dir, name), []byte(b.String()), 0o600)
	}
	for s := range killSites {
		document("Site", fmt.Sprintf("S%d", s), `, pxe: {mode: proxy}`)
		for n := range killComputers - c.generation%2*killVaried {
			document("Computer", computerName(s, n), fmt.Sprintf(`, site: S%d, macAddresses: ["52:54:00:%02x:%02x:00"]`, s, s, n))
		}
		if err := save(fmt.Sprintf("s%d.yaml", s)); err != nil {
			return err
		}
	}
	document("TaskSequence", "wipe", `, steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]`)
	b.WriteString("apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: all}\nspec: {taskSequence: wipe, collection: all-systems, purpose: available}\n")
	return save("deployment.yaml")
}

// list is the list of the computers that are imported.
func (c configuration) list() string {
	var b strings.Builder
	b.WriteString("name,mac,site,description\n")
	for s := range killSites {
		for n := killComputers; n < killComputers+killVaried; n++ {
			fmt.Fprintf(&b, "%s,52:54:00:%02x:%02x:00,S%d,generation %d\n", computerName(s, n), s, n, s, c.generation)
		}
	}
	return b.String()
}

// found is what a database says: which configuration is in force, which one is published, and the number of the newest change.
type found struct {
	inForce, published configuration
	change             uint64
}

// look reads a database. Configurations that are not whole end the test, as does a change without all that belongs to it.
func look(t *testing.T, db *store.Store) found {
	t.Helper()
	ctx := context.Background()
	docs, err := db.Documents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	in := contents{t: t, what: "what is in force", generation: -1}
	for _, d := range docs {
		o, err := d.Decode()
		if err != nil {
			t.Fatal(err)
		}
		in.add(o)
	}
	changes, err := db.Changes(ctx, 0, 1)
	if err != nil || len(changes) != 1 {
		t.Fatal(changes, err)
	}
	audited, err := db.Audit(ctx, provisioning.AuditFilter{Limit: 2 * len(docs)})
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.DeleteFunc(audited, func(e provisioning.AuditEntry) bool { return e.Change != changes[0].Number })
	if len(entries) != changes[0].Documents || changes[0].Documents == 0 {
		t.Fatalf("change %d has %d documents, and the audit log tells of %d", changes[0].Number, changes[0].Documents, len(entries))
	}
	out := contents{t: t, what: "what is published", generation: -1}
	for s := range killSites {
		stored, err := db.SiteSnapshot(ctx, fmt.Sprintf("S%d", s))
		if err != nil || stored.Problem != "" {
			t.Fatal(stored, err)
		}
		var snapshot provisioning.Snapshot
		if err := json.Unmarshal(stored.Signed.Payload, &snapshot); err != nil {
			t.Fatal(err)
		}
		out.addSnapshot(&snapshot)
	}
	return found{in.configuration(2 + killSites), out.configuration(2 + killSites), changes[0].Number}
}

// contents gathers what a configuration consists of; generation is -1 as long as nothing has said it.
type contents struct {
	t          *testing.T
	what       string
	generation int
	computers  [killSites]map[string]bool
	others     map[provisioning.Key]bool
}

func (c *contents) add(o provisioning.Object) {
	c.t.Helper()
	switch o.Kind {
	case provisioning.KindComputer:
		c.says(o.Computer.Spec.Description)
		var site int
		if _, err := fmt.Sscanf(o.Computer.Spec.Site, "S%d", &site); err != nil {
			c.t.Fatalf("%s: computer %s is at site %q", c.what, o.Name, o.Computer.Spec.Site)
		}
		if c.computers[site] == nil {
			c.computers[site] = map[string]bool{}
		}
		c.computers[site][o.Name] = true
		return
	case provisioning.KindSite:
		c.says(o.Site.Spec.Description)
	case provisioning.KindTaskSequence:
		c.says(o.TaskSequence.Spec.Description)
	}
	if c.others == nil {
		c.others = map[provisioning.Key]bool{}
	}
	c.others[o.Key()] = true
}

func (c *contents) addSnapshot(s *provisioning.Snapshot) {
	c.t.Helper()
	c.add(provisioning.Object{Kind: provisioning.KindSite, Name: s.Site.Name, Site: &s.Site})
	for i := range s.Computers {
		c.add(provisioning.Object{Kind: provisioning.KindComputer, Name: s.Computers[i].Name, Computer: &s.Computers[i]})
	}
	for i := range s.TaskSequences {
		c.add(provisioning.Object{Kind: provisioning.KindTaskSequence, Name: s.TaskSequences[i].Name, TaskSequence: &s.TaskSequences[i]})
	}
	for i := range s.Advertisements {
		c.add(provisioning.Object{Kind: provisioning.KindAdvertisement, Name: s.Advertisements[i].Name, Advertisement: &s.Advertisements[i]})
	}
}

// says wants a description to be of the same generation as those before.
func (c *contents) says(description string) {
	c.t.Helper()
	var n int
	if _, err := fmt.Sscanf(description, "generation %d", &n); err != nil || c.generation >= 0 && n != c.generation {
		c.t.Fatalf("%s says %q among what is of generation %d", c.what, description, c.generation)
	}
	c.generation = n
}

// configuration is the one that has exactly these computers, and so many other documents.
func (c *contents) configuration(others int) configuration {
	c.t.Helper()
	if len(c.others) != others {
		c.t.Fatalf("%s has %d documents beside computers, want %d", c.what, len(c.others), others)
	}
	for _, v := range []variant{whole, fewer, more} {
		x := configuration{c.generation, v}
		same := true
		for s := range c.computers {
			same = same && maps.Equal(c.computers[s], x.computers(s))
		}
		if same {
			return x
		}
	}
	c.t.Fatalf("%s has some of the computers of generation %d: %d, %d and %d", c.what, c.generation, len(c.computers[0]), len(c.computers[1]), len(c.computers[2]))
	return configuration{}
}
