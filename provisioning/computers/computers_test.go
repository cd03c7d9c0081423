package computers

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

const storedText = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec:
  description: By the window
  site: LON
  macAddresses: ["52:54:00:00:00:01", "52:54:00:00:00:11"]
  smbiosGUID: 4c4c4544-0042-3510-8052-000000000001
  infrastructure: true
  variables: {Floor: "1", Colour: red}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-2}
spec: {macAddresses: ["52:54:00:00:00:02"]}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: OLD-1}
spec: {macAddresses: ["52:54:00:00:00:03"]}
---
apiVersion: branchpoint/v1
kind: ComputerAssociation
metadata: {name: jo}
spec: {source: OLD-1, destination: desk-2}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: wave-1}
spec: {computers: [desk-2], query: "true"}
`

func stored(t testing.TB) provisioning.Catalog {
	t.Helper()
	objects, ps := provisioning.Decode(provisioning.File{Name: "stored.yaml", Text: []byte(storedText)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	c, ps := provisioning.NewCatalog(objects)
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	return c
}

func list(text string) provisioning.File { return provisioning.File{Name: "a.csv", Text: []byte(text)} }

// told is a result as the tests write it: one line for each line of the list.
func told(r Result) string {
	var b strings.Builder
	for _, l := range r.Lines {
		fmt.Fprintf(&b, "%d %s %s", l.Line, l.Computer, l.Outcome)
		if len(l.Texts) > 0 {
			b.WriteString(": " + strings.Join(l.Texts, "; "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func TestLines(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a new computer", "name,mac\ndesk-9,52:54:00:00:00:09\n", "2 desk-9 new"},
		{"headings in any order and case", "MAC Address,Source Computer,SMBIOS_GUID,NAME\n525400000009,,4C4C4544-0042-3510-8052-000000000009,desk-9\n", "2 desk-9 new"},
		{"semicolons", "name;mac\ndesk-9;52-54-00-00-00-09\n", "2 desk-9 new"},
		{"tabs", "name\tguid\tmac\ndesk-9\t\t5254.0000.0009\n", "2 desk-9 new"},
		{"a separator that the file names", "sep=;\nname;mac\ndesk-9;52-54-00-00-00-09\n", "3 desk-9 new"},
		{"byte order mark and CR LF", "\ufeffname,mac\r\ndesk-9,52:54:00:00:00:09\r\n", "2 desk-9 new"},
		{"blanks and empty lines", "\n name , mac \n\n desk-9 , 52:54:00:00:00:09 \n,,\n", "4 desk-9 new"},
		{"several MAC addresses", "name,mac\ndesk-9,52:54:00:00:00:09 52-54-00-00-00-0a|5254.0000.000b|52 54 00 00 00 0c\n", "2 desk-9 new"},
		{"unchanged", "name,mac,guid,site,var:floor\ndesk-1,5254.0000.0011 525400000001,{4C4C4544-0042-3510-8052-000000000001},LON,1\n", "2 desk-1 unchanged"},
		{"empty cells change nothing", "name,mac,guid,site,description,source,var:Floor\ndesk-1,,,,,,\n", "2 desk-1 unchanged"},
		{
			"changed", "name,mac,guid,site,description,var:FLOOR,var:New\ndesk-1,52:54:00:00:00:09,4c4c4544-0042-3510-8052-000000000009,PAR,Moved,2,x\n",
			"2 desk-1 changed: MAC addresses 52:54:00:00:00:09, were 52:54:00:00:00:01 52:54:00:00:00:11; " +
				"SMBIOS GUID 4c4c4544-0042-3510-8052-000000000009, was 4c4c4544-0042-3510-8052-000000000001; site PAR, was LON; description; variable Floor; variable New",
		},
		{"an association", "name,source\ndesk-1,old-1\n", "2 desk-1 changed: restores the state of OLD-1"},
		{"an association that is stored", "name,source\ndesk-2,OLD-1\n", "2 desk-2 unchanged"},
		{"another association", "name,source\ndesk-2,desk-1\n", "2 desk-2 error: desk-2 restores the state of OLD-1 already (association jo); delete that first"},
		{"in place", "name,mac,source\ndesk-9,52:54:00:00:00:09,desk-9\n", "2 desk-9 new"},
		{"a source in the list, below", "name,mac,source\ndesk-9,525400000009,desk-8\ndesk-8,525400000008,\n", "2 desk-9 new\n3 desk-8 new"},
		{"addresses swapped", "name,mac\ndesk-1,52:54:00:00:00:02\ndesk-2,52:54:00:00:00:01\n", "2 desk-1 changed: MAC addresses 52:54:00:00:00:02, were 52:54:00:00:00:01 52:54:00:00:00:11\n3 desk-2 changed: MAC addresses 52:54:00:00:00:01, were 52:54:00:00:00:02"},
		{"cell of several lines", "name,mac,description\ndesk-9,525400000009,\"a\nb\"\ndesk-8,525400000008,\n", "2 desk-9 new\n4 desk-8 new"},

		{"no name", "name,mac\n,52:54:00:00:00:09\n", "2  error: the name is missing"},
		{"no host name", "name,mac\ndesk_9,52:54:00:00:00:09\n", `2 desk_9 error: "desk_9" cannot be a host name: letters, digits and hyphens only, at most 63`},
		{"name in another case", "name,mac\nDesk-1,\n", "2 Desk-1 error: the computer is stored as desk-1; write its name as it stands there"},
		{"no identity", "name,mac\ndesk-9,\n", "2 desk-9 error: a computer is known by macAddresses or smbiosGUID; give at least one"},
		{"no MAC address", "name,mac\ndesk-9,52:54:00:00:00\n", `2 desk-9 error: "52:54:00:00:00" is no MAC address: write six octets such as 52:54:00:12:34:56`},
		{"one bad MAC address of two", "name,mac\ndesk-9,52:54:00:00:00:09 x\n", `2 desk-9 error: "x" is no MAC address: write six octets such as 52:54:00:12:34:56`},
		{"number of a spreadsheet", "name,mac\ndesk-9,5.254E+11\n", `2 desk-9 error: "5.254E+11" is no MAC address: write six octets such as 52:54:00:12:34:56`},
		{"bad GUID", "name,guid\ndesk-9,4c4c\n", `2 desk-9 error: "4c4c" is no SMBIOS GUID: write it as 4c4c4544-0042-3510-8052-b4c04f4d3432`},
		{"shared GUID", "name,guid\ndesk-9,03000200-0400-0500-0006-000700080009\n", "2 desk-9 error: 03000200-0400-0500-0006-000700080009 is no GUID of one computer: firmware without one says that"},
		{"several faults of one line", "name,mac,guid,site\ndesk-9,x,y,ROM\n", `2 desk-9 error: "x" is no MAC address: write six octets such as 52:54:00:12:34:56; "y" is no SMBIOS GUID: write it as 4c4c4544-0042-3510-8052-b4c04f4d3432; there is no site "ROM"`},
		{"too many cells", "name,mac\ndesk-9,52:54:00:00:00:09,x\n", "2  error: the line has 3 cells, the headings are 2; a cell that holds the separator stands in quotes"},
		{"cell without heading", "name,mac,\ndesk-9,52:54:00:00:00:09,x\n", "2  error: cell 3 is in a column without heading"},
		{"bare quotation mark", "name,mac\nde\"sk-9,525400000009\ndesk-8,525400000008\n", "2  error: the line cannot be read: a quotation mark stands inside of a cell that is not in quotes\n3 desk-8 new"},
		{"missing quotation mark", "name,mac\ndesk-8,525400000008\n\"desk-9,525400000009\n", "2 desk-8 new\n3  error: the line cannot be read: a quotation mark is missing, or one inside of quotes is not written twice"},
		{"long cell", "name,mac,var:A\ndesk-9,525400000009," + strings.Repeat("x", MaxCell+1) + "\n", "2  error: cell 3 has 8193 bytes; at most 8192 are possible. Is a quotation mark missing?"},
		{"no such source", "name,mac,source\ndesk-9,525400000009,gone\n", "2 desk-9 error: there is no source computer gone, stored or in the list without error"},
		{"a source with an error", "name,mac,source\ndesk-9,525400000009,desk-8\ndesk-8,x,\n", "2 desk-9 error: there is no source computer desk-8, stored or in the list without error\n3 desk-8 error: \"x\" is no MAC address: write six octets such as 52:54:00:12:34:56"},
		{
			"a source that is claimed twice", "name,mac,source\ndesk-9,525400000009,desk-8\ndesk-8,525400000008,\ndesk-7,525400000008,\n",
			"2 desk-9 error: its source computer desk-8 on line 3 has an error\n" +
				"3 desk-8 error: MAC address 52:54:00:00:00:08 is also claimed by desk-7 on line 4; a machine must be known by one name\n" +
				"4 desk-7 error: MAC address 52:54:00:00:00:08 is also claimed by desk-8 on line 3; a machine must be known by one name",
		},
		{
			"a name twice", "name,mac\ndesk-9,525400000009\nDESK-9,525400000008\n",
			"2 desk-9 error: name desk-9 is also claimed by DESK-9 on line 3; a machine must be known by one name\n" +
				"3 DESK-9 error: name desk-9 is also claimed by desk-9 on line 2; a machine must be known by one name",
		},
		{
			"a GUID three times", "name,guid\na,4c4c4544-0042-3510-8052-000000000009\nb,4c4c4544-0042-3510-8052-000000000009\nc,4C4C4544004235108052000000000009\n",
			"2 a error: SMBIOS GUID 4c4c4544-0042-3510-8052-000000000009 is also claimed by b on line 3 and 1 more; a machine must be known by one name\n" +
				"3 b error: SMBIOS GUID 4c4c4544-0042-3510-8052-000000000009 is also claimed by a on line 2 and 1 more; a machine must be known by one name\n" +
				"4 c error: SMBIOS GUID 4c4c4544-0042-3510-8052-000000000009 is also claimed by a on line 2 and 1 more; a machine must be known by one name",
		},
		{"what is stored", "name,mac\ndesk-9,52:54:00:00:00:11\n", "2 desk-9 error: MAC address 52:54:00:00:00:11 is also claimed by desk-1 as it is stored; a machine must be known by one name"},
		{
			"a swap that fails on one side", "name,mac,site\ndesk-1,52:54:00:00:00:02,\ndesk-2,52:54:00:00:00:01,ROM\n",
			"2 desk-1 error: MAC address 52:54:00:00:00:02 is also claimed by desk-2 as it is stored; a machine must be known by one name\n" +
				"3 desk-2 error: there is no site \"ROM\"",
		},
		{
			"a chain that fails from its end", "name,mac\ndesk-9,52:54:00:00:00:01\ndesk-1,52:54:00:00:00:02\ndesk-2,x\n",
			"2 desk-9 error: MAC address 52:54:00:00:00:01 is also claimed by desk-1 as it is stored; a machine must be known by one name\n" +
				"3 desk-1 error: MAC address 52:54:00:00:00:02 is also claimed by desk-2 as it is stored; a machine must be known by one name\n" +
				"4 desk-2 error: \"x\" is no MAC address: write six octets such as 52:54:00:12:34:56",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Import(list(c.text), stored(t), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSuffix(told(r), "\n"); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
			if bad := strings.Contains(c.want, " error: "); bad != (r.Errors > 0) || bad && len(r.Objects()) > 0 {
				t.Errorf("%d errors, and %d documents to apply", r.Errors, len(r.Objects()))
			}
		})
	}
}

func TestHeadings(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"nothing", "", "a.csv: the list is empty"},
		{"only blanks", " \n\r\n", "a.csv: the list is empty"},
		{"no name", "mac,guid\n", "a.csv:1:1: there is no column name"},
		{"no headings", "desk-9,52:54:00:00:00:09\n", `a.csv:1:1: column 1: "desk-9" is no heading`},
		{"unknown heading", "name,mac,Floor\n", `a.csv:1:1: column 3: "Floor" is no heading; write name, mac, smbios guid, source computer, site, description, or var:NAME`},
		{"heading twice", "name,mac,MAC Address\n", `a.csv:1:1: column 3: "MAC Address" says the same as column 2`},
		{"variable twice", "name,var:A,var:a\n", `a.csv:1:1: column 3: "var:a" says the same as column 2`},
		{"bad variable", "name,var:A-B\n", `a.csv:1:1: column 2: variable "A-B": use letters`},
		{"read-only variable", "name,var:_SMSTSX\n", `variable "_SMSTSX"`},
		{"bad headings at once", "\nname,x,y\n", "a.csv:2:1: column 2: \"x\" is no heading; write name, mac, smbios guid, source computer, site, description, or var:NAME for a variable\na.csv:2:1: column 3: \"y\" is no heading"},
		{"quotation mark", "name,\"mac\n", "a.csv:1:1: the headings cannot be read: a quotation mark is missing"},
		{"UTF-16", "\xff\xfen\x00a\x00", "a.csv: the list is no text in UTF-8"},
		{"Latin-1", "name,mac,description\ndesk-9,525400000009,K\xfcche\n", "a.csv:2:1: the list is no text in UTF-8 from here on"},
		{"a table", "PK\x03\x04\x00", "a.csv: the list is no text in UTF-8"},
		{"many columns", strings.Repeat("name,", MaxColumns) + "\n", "the list has 1001 columns; at most 1000 are read"},
		{"many bytes", strings.Repeat("x", MaxSize+1), "a.csv: the list has 67108865 bytes"},
		{"many lines", "name\n" + strings.Repeat("a\n", MaxLines+1), "a.csv: the list has more than 200000 lines"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Import(list(c.text), stored(t), Options{SkipErrors: true})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s", err, c.want)
			}
			if provisioning.CodeOf(err) != provisioning.CodeInvalid || len(r.Objects()) > 0 {
				t.Errorf("code %s, %d documents", provisioning.CodeOf(err), len(r.Objects()))
			}
		})
	}
}

// TestDocuments: what is to be applied, as documents.
func TestDocuments(t *testing.T) {
	const text = "name,mac,source,var:Role\ndesk-1,,old-1,x\ndesk-9,525400000009,desk-9,\ndesk-2,,,\nbad_1,,,\n"
	r, err := Import(list(text), stored(t), Options{Site: "PAR", Collection: "wave-1", SkipErrors: true})
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, o := range r.Objects() {
		if ps := o.Validate(); len(ps) > 0 {
			t.Error(ps)
		}
		text, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, spec, _ := strings.Cut(text, "metadata:\n")
		got.WriteString(spec)
	}
	const want = `  name: desk-1
spec:
  description: "By the window"
  site: LON
  macAddresses:
    - "52:54:00:00:00:01"
    - "52:54:00:00:00:11"
  smbiosGUID: "4c4c4544-0042-3510-8052-000000000001"
  infrastructure: true
  variables:
    Colour: red
    Floor: "1"
    Role: x
  name: desk-9
spec:
  site: PAR
  macAddresses:
    - "52:54:00:00:00:09"
  name: wave-1
spec:
  computers:
    - desk-2
    - desk-1
    - desk-9
  query: "true"
  name: desk-1-from-OLD-1
spec:
  source: OLD-1
  destination: desk-1
  name: desk-9-from-desk-9
spec:
  source: desk-9
  destination: desk-9
`
	if got.String() != want {
		t.Errorf("got\n%s", got.String())
	}
	if before := stored(t)[provisioning.Key{Kind: provisioning.KindCollection, Name: "wave-1"}]; len(before.Collection.Spec.Computers) != 1 {
		t.Error("what is stored was changed")
	}
}

// TestStoredIsLeftAlone: deciding changes nothing of what is stored.
func TestStoredIsLeftAlone(t *testing.T) {
	c := stored(t)
	before, err := json.Marshal(c[provisioning.Key{Kind: provisioning.KindComputer, Name: "desk-1"}].Computer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Import(list("name,mac,var:Floor\ndesk-1,525400000009,7\n"), c, Options{}); err != nil {
		t.Fatal(err)
	}
	if after, err := json.Marshal(c[provisioning.Key{Kind: provisioning.KindComputer, Name: "desk-1"}].Computer); err != nil || !bytes.Equal(before, after) {
		t.Errorf("%v\n%s\n%s", err, before, after)
	}
}

func TestOptions(t *testing.T) {
	const text = "name,mac\ndesk-9,525400000009\n"
	for _, c := range []struct {
		name string
		o    Options
		want provisioning.Code
	}{
		{"site that is none", Options{Site: "ROM"}, provisioning.CodeNotFound},
		{"built-in collection", Options{Collection: "All-Systems"}, provisioning.CodeInvalid},
		{"collection that cannot be", Options{Collection: "the first"}, provisioning.CodeInvalid},
	} {
		if _, err := Import(list(text), stored(t), c.o); provisioning.CodeOf(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	r, err := Import(list(text), stored(t), Options{Collection: "new"})
	if err != nil || r.Collection == nil || !slices.Equal(r.Collection.Spec.Computers, []string{"desk-9"}) {
		t.Errorf("%v %+v", err, r.Collection)
	}
	r, err = Import(list("name,mac\ndesk-2,\n"), stored(t), Options{Collection: "wave-1"})
	if err != nil || r.Collection != nil {
		t.Errorf("%v: a collection that does not change is to be applied: %+v", err, r.Collection)
	}
}

// TestLongNames: associations of computers with long names, or names that are taken, have names too.
func TestLongNames(t *testing.T) {
	a, b := strings.Repeat("a", 60), strings.Repeat("b", 60)
	c := stored(t)
	taken := provisioning.Key{Kind: provisioning.KindComputerAssociation, Name: "x-from-desk-1"}
	c[taken] = provisioning.Object{Kind: taken.Kind, Name: taken.Name, ComputerAssociation: &provisioning.ComputerAssociation{
		Name: taken.Name, Spec: provisioning.ComputerAssociationSpec{Source: "desk-1", Destination: "desk-9"},
	}}
	r, err := Import(list("name,mac,source\n"+a+",525400000009,"+b+"\n"+b+",525400000008,"+a+"\nx,525400000007,desk-1\n"), c, Options{})
	if err != nil || len(r.Associations) != 3 {
		t.Fatal(err, told(r))
	}
	names := map[string]bool{taken.Name: true}
	for _, o := range r.Objects() {
		if ps := o.Validate(); len(ps) > 0 {
			t.Error(ps)
		}
		if o.ComputerAssociation != nil {
			names[o.Name] = true
		}
	}
	if len(names) != 4 {
		t.Error(names)
	}
}

// TestManyClaims: lists in which everything contradicts everything take no longer than others.
func TestManyClaims(t *testing.T) {
	const n = 50_000
	var same, chain, sources strings.Builder
	same.WriteString("name,mac\n")
	chain.WriteString("name,mac\n")
	sources.WriteString("name,mac,source\n")
	c := provisioning.Catalog{}
	for i := range n {
		name := fmt.Sprintf("pc-%d", i)
		c[provisioning.Key{Kind: provisioning.KindComputer, Name: name}] = provisioning.Object{
			Kind: provisioning.KindComputer, Name: name,
			Computer: &provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{macOf(i)}}},
		}
		fmt.Fprintf(&same, "new-%d,525400000000\n", i)
		fmt.Fprintf(&chain, "pc-%d,%s\n", i, macOf(i+1)) // everybody takes the next one's address; the last one's is taken
		fmt.Fprintf(&sources, "new-%d,%s,new-%d\n", i, macOf(n+i), i+1)
	}
	last := macOf(n)
	c[provisioning.Key{Kind: provisioning.KindComputer, Name: "last"}] = provisioning.Object{
		Kind: provisioning.KindComputer, Name: "last",
		Computer: &provisioning.Computer{Name: "last", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{last}}},
	}
	for name, text := range map[string]string{"same": same.String(), "chain": chain.String(), "sources": sources.String()} {
		r, err := Import(list(text), c, Options{})
		if err != nil || r.Errors != n {
			t.Errorf("%s: %d errors, %v", name, r.Errors, err)
		}
	}
}

func macOf(i int) provisioning.MAC {
	return provisioning.MAC(fmt.Sprintf("52:54:01:%02x:%02x:%02x", i>>16, i>>8&255, i&255))
}

// FuzzImport holds what every import keeps to: nothing of a list with errors unless asked, documents that are valid and
// contradict neither one another nor what is stored, and nothing to do when it is imported again.
func FuzzImport(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.csv")
	if err != nil || len(seeds) == 0 {
		f.Fatal("no seeds", err)
	}
	for _, s := range seeds {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := stored(t)
		file := provisioning.File{Name: "f.csv", Text: b}
		strict, err := Import(file, c, Options{})
		if err != nil {
			return
		}
		if strict.Errors > 0 && len(strict.Objects()) > 0 {
			t.Fatal("a list with errors is imported")
		}
		o := Options{Site: "LON", Collection: "wave-1", SkipErrors: true}
		r, err := Import(file, c, o)
		if err != nil {
			t.Fatal(err)
		}
		var keys []provisioning.Key
		for _, obj := range r.Objects() {
			if ps := obj.Validate(); len(ps) > 0 {
				t.Fatal(ps)
			}
			c[obj.Key()] = obj
			keys = append(keys, obj.Key())
		}
		if ps := c.Check(keys, nil); len(ps) > 0 {
			t.Fatal(ps)
		}
		again, err := Import(file, c, o)
		if err != nil {
			t.Fatal(err)
		}
		if len(again.Objects()) > 0 {
			t.Fatalf("imported again:\n%s\nfirst:\n%s", told(again), told(r))
		}
	})
}
