package collection

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

var lab = provisioning.Computer{Name: "lab-07", Spec: provisioning.ComputerSpec{
	Site: "LON", Description: "by the window", SMBIOSGUID: "4c4c4544-0042-3510-8052-b4c04f4d3432",
	MACAddresses: []provisioning.MAC{"52:54:00:00:00:01", "52:54:00:00:00:02"},
	Variables:    map[string]string{"department": "Physics"},
}}

var hardware = &provisioning.Inventory{Manufacturer: "Dell Inc.", Product: "OptiPlex 7090", MemoryMiB: 16384, Firmware: "uefi", SecureBoot: true}

var ran = []Deployment{
	{"rollout", "windows", provisioning.RunSucceeded, true},
	{"tools", "tools", provisioning.RunFailed, false},
}

// TestQueries holds queries as admins write them against one computer.
func TestQueries(t *testing.T) {
	for _, c := range []struct {
		query string
		want  string // "member", "no member", or a part of the error
	}{
		{`computer.name == "lab-07"`, "member"},
		{`computer.name.startsWith("lab-")`, "member"},
		{`computer.name.matches("^lab-[0-9]{2}$")`, "member"},
		{`matches(computer.name, "^lab-[0-9]{3}$")`, "no member"},
		{`computer.site == "PAR"`, "no member"},
		{`computer.description.contains("window")`, "member"},
		{`"52:54:00:00:00:02" in computer.macAddresses`, "member"},
		{`computer.macAddresses.exists(m, m.startsWith("52:54:00"))`, "member"},
		{`size(computer.macAddresses) == 2 && computer.macAddresses[1] == "52:54:00:00:00:02"`, "member"},
		{`computer.smbiosGUID == "4c4c4544-0042-3510-8052-b4c04f4d3432"`, "member"},
		{`computer.variables["department"] == "Physics"`, "member"},
		{`computer.variables.department.lowerAscii() == "physics"`, "member"},
		{`computer.variables["room"] == "12"`, "no such key"},
		{`"room" in computer.variables && computer.variables["room"] == "12"`, "no member"},
		{`inventory.manufacturer == "Dell Inc." && inventory.memoryMiB >= 8 * 1024`, "member"},
		{`inventory.manufacturer in ["Lenovo", "HP"]`, "no member"},
		{`inventory.product + " of " + inventory.manufacturer == "OptiPlex 7090 of Dell Inc."`, "member"},
		{`inventory.firmware == "uefi" && inventory.secureBoot`, "member"},
		{`inventory.serial == ""`, "inventory.serial is not known"},
		{`!(inventory.serial == "4711")`, "inventory.serial is not known"},
		{`has(inventory.serial) && inventory.serial == "4711"`, "no member"},
		{`!has(inventory.serial)`, "member"},
		{`inventory.serial == "4711" || computer.name == "lab-07"`, "member"},
		{`has(computer.site) ? computer.site == "LON" : false`, "member"},
		{`deployments.exists(d, d.advertisement == "rollout" && d.state == "succeeded")`, "member"},
		{`!deployments.exists(d, d.taskSequence == "windows" && d.spent)`, "no member"},
		{`deployments.all(d, d.spent)`, "no member"},
		{`deployments.exists_one(d, d.state == "failed")`, "member"},
		{`string(inventory.memoryMiB) == "16384" && double(inventory.memoryMiB) / 1024.0 == 16.0`, "member"},
		{`inventory.memoryMiB / (size(computer.name) - 6) > 1`, "division by zero"},
		{`deployments[7].spent`, "index out of bounds"},
		{`computer.macAddresses == ["52:54:00:00:00:01", "52:54:00:00:00:02"]`, "member"},
		{`computer.macAddresses != []`, "member"},
		{`["desk-", "lab-"].exists(p, computer.name.startsWith(p))`, "member"},
		{`["desk-", inventory.product.lowerAscii()].exists(p, computer.name.contains(p))`, "no member"},
		{`{"lab-07": true, "lab-08": false}[computer.name]`, "member"},
		{`[4096, 16384].exists(m, inventory.memoryMiB == m)`, "member"},
		{`[1, 2].all(i, i + 1 < 4)`, "member"},
		{`true`, "member"},
	} {
		q, err := Compile(c.query)
		if err != nil {
			t.Errorf("%s: refused: %v", c.query, err)
			continue
		}
		fits, err := q.Fits(NewSubject(&lab, hardware, ran))
		got := map[bool]string{true: "member", false: "no member"}[fits]
		if err != nil {
			got = err.Error()
			if fits {
				t.Errorf("%s: a query that fails fits", c.query)
			}
		}
		if !strings.Contains(got, c.want) || (c.want == "member") != (got == "member") {
			t.Errorf("%s: %s, want %s", c.query, got, c.want)
		}
	}
}

// TestAnInventoryThatIsNotKnown: no condition on hardware is true of a computer whose hardware nobody has seen.
func TestAnInventoryThatIsNotKnown(t *testing.T) {
	s := NewSubject(&provisioning.Computer{Name: "new"}, nil, nil)
	for _, query := range []string{
		`inventory.memoryMiB < 4096`, `inventory.memoryMiB != 4096`, `!(inventory.manufacturer == "Dell Inc.")`, `inventory.manufacturer == ""`,
		`!inventory.secureBoot`, `inventory.secureBoot == false`, `has(inventory.secureBoot)`, `size(inventory.product) == 0`,
		`!inventory.product.startsWith("Opti")`, `inventory.firmware in ["uefi", "bios", ""]`,
	} {
		q, err := Compile(query)
		if err != nil {
			t.Fatal(query, err)
		}
		if fits, _ := q.Fits(s); fits {
			t.Errorf("%s is true of a computer without an inventory", query)
		}
	}
}

func TestQueriesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		query        string
		line, column int
		message      string
	}{
		{"", 1, 1, "empty"},
		{" \n ", 1, 1, "empty"},
		{`computer.name == `, 1, 18, "Syntax error"},
		{`computer.nmae == "x"`, 1, 9, "undefined field 'nmae'"},
		{"computer.site == \"LON\" &&\n  inventory.memory > 4", 2, 12, "undefined field 'memory'"},
		{`printer.name == "x"`, 1, 1, "undeclared reference to 'printer'"},
		{`computer.name`, 1, 1, "write a condition"},
		{`computer.name == 7`, 1, 15, "no matching overload"},
		{`"a" == "b" ? 1 : 2`, 1, 1, "write a condition"},
		{`inventory.memoryMiB > "4096"`, 1, 21, "no matching overload"},
		{`computer.name.matches("[")`, 1, 22, "malformed"},
		{`computer.name.matches(computer.description)`, 1, 22, "write the pattern"},
		{`computer.name.matches("(a{30}){30}")`, 1, 22, "too large"},
		{`timestamp("2026-01-01T00:00:00Z") < timestamp("2027-01-01T00:00:00Z")`, 1, 10, "timestamp() is not for queries"},
		{`dyn(computer).name == "x"`, 1, 4, "dyn() is not for queries"},
		{`type(computer.name) == string`, 1, 5, "type() is not for queries"},
		{`Deployment{spent: true}.spent`, 1, 11, "makes no objects"},
		{`["a"] + ["b"] == ["a", "b"]`, 1, 7, "whole numbers"},
		{`deployments.map(d, d.state).exists(s, s == "x")`, 1, 16, "undeclared reference to 'map'"},
		{`deployments.all(a, deployments.all(b, deployments.all(c, a.state != b.state && b.state != c.state)))`, 1, 1, "too long"},
		{`computer.variables.all(k, computer.variables[k].matches("^(a|b|c|d)*$"))`, 1, 1, "too long"},
		{strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200), 1, 1, "recursion"},
		{`"` + strings.Repeat("a", MaxQuery) + `" == ""`, 1, 1, "at most 2048"},
		{"\xff == 1", 1, 1, "not UTF-8"},
	} {
		_, err := Compile(c.query)
		errs, ok := errors.AsType[QueryErrors](err)
		if !ok || len(errs) == 0 {
			t.Errorf("%.60s: %v", c.query, err)
			continue
		}
		if e := errs[0]; !strings.Contains(e.Message, c.message) || e.Line != c.line || e.Column != c.column {
			t.Errorf("%.60s: %v, want %d:%d %s", c.query, errs, c.line, c.column, c.message)
		}
	}
}

// TestHostileQueries: what would run long, or make much of little, is refused before anybody asks it.
func TestHostileQueries(t *testing.T) {
	list := "[" + strings.Repeat("1,", 99) + "1]"
	nested := func(list string, depth int, with func(inner string, i int) string) string {
		q := "true"
		for i := depth; i > 0; i-- {
			q = fmt.Sprintf("%s.all(v%d, %s)", list, i, with(q, i))
		}
		return q
	}
	plain := func(inner string, _ int) string { return inner }
	// Each level has a text twice as long as the one around it.
	doubled := func(last, two, first string) string {
		q := last
		for i := 40; i > 1; i-- {
			q = fmt.Sprintf("[%s].exists(v%d, %s)", strings.ReplaceAll(two, "v", fmt.Sprint("v", i-1)), i, q)
		}
		return fmt.Sprintf("[%s].exists(v1, %s)", first, q)
	}
	for name, c := range map[string]struct{ query, message string }{
		"lists within lists":           {nested(list, 4, plain), "too long"},
		"lists over lists of texts":    {nested(`["a", "b", "c", "d", "e", "f", "g", "h"]`, 6, plain), "too long"},
		"a list that is asked often":   {list + ".all(a, " + list + ".exists_one(b, " + list + ".exists(c, a + b == c)))", "too long"},
		"addresses by addresses":       {nested("computer.macAddresses", 3, plain), "too long"},
		"deployments by variables":     {"deployments.all(d, computer.variables.all(k, computer.variables[k].contains(d.advertisement)))", "too long"},
		"variables by variables":       {"computer.variables.all(a, computer.variables.all(b, computer.variables[a].contains(computer.variables[b])))", "too long"},
		"a list of lists of lists":     {"[[" + list + "," + list + "]," + "[" + list + "," + list + "]].all(a, a.all(b, b.all(c, " + list + ".all(d, c == d))))", "which are of one type"},
		"texts that double":            {doubled("size(v40) > 0", "v+v", `"x"`), "not put together within"},
		"lists that double":            {doubled("v40 == v40", "[v,v]", `["x"]`), "which are of one type"},
		"maps that double":             {doubled("v40 == v40", "{1:v,2:v}", `{1: "x"}`), "which are of one type"},
		"lists of anything":            {doubled("v40 in [v40]", "[v,1][0]", `dyn(1)`), "not for queries"},
		"types that are mixed":         {`[1, "x"].exists(a, [a, [a]].exists(b, b == a))`, "which are of one type"},
		"variables compared":           {"computer.variables.all(k, [" + strings.Repeat("computer.variables, ", 40) + "{}] == [{}])", "lists of them are compared"},
		"a long text in a list":        {"[" + strings.Repeat("computer.description + ", 30) + `""].all(a, ` + strings.Repeat("a.contains(a) && ", 60) + "true)", "not put together within"},
		"long texts that are searched": {`["` + strings.Repeat("x", 1700) + `"].all(a, computer.variables.all(k, computer.variables[k].contains(a) && a.contains(a)))`, "too long"},
		"texts that double in maps":    {`{"x": ""}.all(a, {a + a + a + a: ""}.all(b, {b + b + b + b: ""}.all(c, size(c) > 0)))`, "not put together within"},
		"a long text looked at often":  {"computer.macAddresses.all(m, " + strings.Repeat("computer.description + ", 40) + "m != m)", "not put together within"},
		"a repetition of repetitions":  {`computer.name.matches("((a{50}){50}){50}")`, "malformed"},
		"a large repetition":           {`computer.name.matches("a{1000}")`, "too large"},
		"many alternatives":            {`computer.name.matches("` + strings.Repeat("(a|b)*", 200) + `")`, "too large"},
		"classes of letters":           {`computer.name.matches("(\\pL|\\pN|\\pS){200}")`, "too large"},
		"a pattern on a long text":     {`(` + strings.Repeat("computer.description + ", 20) + `"x").matches("(a|b|c)*(d|e|f)*(g|h|i)*$")`, "too long"},
		"many patterns":                {"computer.description.matches(\"(a*)*b\")" + strings.Repeat(" || computer.description.matches(\"(a*)*b\")", 40), "too long"},
		"a pattern for each of many":   {`deployments.all(d, d.advertisement.matches("^(a|b|c|d)*$"))`, "too long"},
		"parentheses":                  {strings.Repeat("(", 1000) + "true" + strings.Repeat(")", 1000), "recursion"},
		"negations":                    {strings.Repeat("!(", 600) + "true" + strings.Repeat(")", 600), "recursion"},
	} {
		if _, err := Compile(c.query); err == nil || !strings.Contains(err.Error(), c.message) {
			t.Errorf("%s: %v, want %q", name, err, c.message)
		}
	}
}

// TestALargeComputerEndsAQuery: what is larger than an estimate is bounded all the same.
func TestALargeComputerEndsAQuery(t *testing.T) {
	q, err := Compile(`deployments.exists(d, d.advertisement.startsWith("x"))`)
	if err != nil {
		t.Fatal(err)
	}
	many := slices.Repeat(ran, 5000)
	if fits, err := q.Fits(NewSubject(&lab, nil, many)); fits || err == nil || !strings.Contains(err.Error(), "cost limit") {
		t.Errorf("fits: %t, error %v", fits, err)
	}
}

func TestMember(t *testing.T) {
	compiled := func(c provisioning.Collection) *Collection {
		out, _ := New(c)
		return out
	}
	physics := provisioning.CollectionSpec{Computers: []string{"desk-1"}, Query: `computer.variables["department"] == "Physics"`}
	for _, c := range []struct {
		name       string
		collection provisioning.Collection
		computer   provisioning.Computer
		member     bool
		failed     bool
		reason     string
	}{
		{"listed", provisioning.Collection{Name: "physics", Spec: physics}, provisioning.Computer{Name: "desk-1"}, true, false, "is listed"},
		{"fits", provisioning.Collection{Name: "physics", Spec: physics}, lab, true, false, "fits the query"},
		{"no answer", provisioning.Collection{Name: "physics", Spec: physics}, provisioning.Computer{Name: "desk-2"}, false, true, "no such key"},
		{"not listed", provisioning.Collection{Name: "c", Spec: provisioning.CollectionSpec{Computers: []string{"desk-1"}}}, lab, false, false, "is not listed"},
		{"empty", provisioning.Collection{Name: "c"}, lab, false, false, "is not listed"},
		{"broken query", provisioning.Collection{Name: "c", Spec: provisioning.CollectionSpec{Query: "computer."}}, lab, false, true, "cannot be used"},
		{
			"listed beside a broken query",
			provisioning.Collection{Name: "c", Spec: provisioning.CollectionSpec{Computers: []string{"lab-07"}, Query: "computer."}},
			lab, true, false, "is listed",
		},
		{"all systems", provisioning.Collection{Name: provisioning.AllSystems}, lab, true, false, "is a known computer"},
		{"all unknown computers", provisioning.Collection{Name: provisioning.AllUnknownComputers}, lab, false, false, "is a known computer"},
		{
			"a document that takes a built-in name",
			provisioning.Collection{Name: provisioning.AllUnknownComputers, Spec: provisioning.CollectionSpec{Query: "true", Computers: []string{"lab-07"}}},
			lab, false, false, "is a known computer",
		},
	} {
		m := compiled(c.collection).Member(NewSubject(&c.computer, nil, nil))
		if m.Member != c.member || m.Failed != c.failed || !strings.Contains(m.Reason, c.reason) || m.Computer != c.computer.Name {
			t.Errorf("%s: %+v", c.name, m)
		}
	}
	if _, err := New(provisioning.Collection{Name: "c", Spec: provisioning.CollectionSpec{Query: "computer."}}); err == nil {
		t.Error("a broken query is no error")
	}
}

func TestPreview(t *testing.T) {
	c, err := New(provisioning.Collection{Name: "small", Spec: provisioning.CollectionSpec{Computers: []string{"pc-9"}, Query: "inventory.memoryMiB < 4096"}})
	if err != nil {
		t.Fatal(err)
	}
	p := c.Preview(func(yield func(*Subject) bool) {
		for i := range 10 {
			inventory := &provisioning.Inventory{MemoryMiB: int64(i) * 1024} // pc-0's is not known
			if !yield(NewSubject(&provisioning.Computer{Name: fmt.Sprintf("pc-%d", i)}, inventory, nil)) {
				return
			}
		}
	})
	var members, failed []string
	for _, m := range p.Members {
		members = append(members, m.Computer)
	}
	for _, m := range p.Failed {
		failed = append(failed, m.Computer)
	}
	if fmt.Sprint(members, failed, p.Computers) != "[pc-1 pc-2 pc-3 pc-9] [pc-0] 10" {
		t.Errorf("members %v, failed %v of %d", members, failed, p.Computers)
	}
}

func TestDeployments(t *testing.T) {
	got := Deployments([]provisioning.Run{
		{Computer: "lab-07", Advertisement: "rollout", TaskSequence: "windows", State: provisioning.RunSucceeded, Spent: true},
		{Computer: "lab-07", Advertisement: "cleared", State: provisioning.RunSucceeded, Spent: true, Cleared: true},
		{Computer: "lab-08", Advertisement: "another"},
	}, "lab-07")
	if !slices.Equal(got, ran[:1]) {
		t.Errorf("got %+v", got)
	}
}

// FuzzQuery: no query panics, and none costs more than is allowed, whatever the computer is.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		`computer.name == "lab-07"`, `deployments.exists(d, d.state == "succeeded" && d.spent)`, `has(inventory.serial)`,
		`computer.name.matches("^(a|b)*c{3}$")`, `computer.variables.all(k, k.startsWith("x") || computer.variables[k] == "1")`,
		`[[[["a"]]]].exists(x, x.exists(y, y == [["a"]] || y[0][0].lowerAscii() == computer.site))`, `{"a": computer}["a"].name != ""`,
		`inventory.memoryMiB * 9223372036854775807 > -1 / 0 || 1.0e308 * 10.0 == 5.0 % 2.0`, `1 in [1u, 2.0, "x", b"y", null, true]`,
		"computer.name == '''\n'''\n// comment\n|| true", `computer == computer && inventory != inventory`, `deployments == deployments`,
		`[computer, inventory].all(x, has(x.name))`, `"\u00e4\U0001F600".size() == size("ab" + 'cd')`, `a.b.c ? (d : e`, "\x00", strings.Repeat("{1:", 60) + "1" + strings.Repeat("}", 60) + "==1",
		strings.Repeat("[true].all(x,", 40) + "true" + strings.Repeat(")", 40), strings.Repeat("true?", 150) + "true" + strings.Repeat(":x", 150), `r"\d" + "` + "`", `.computer.name == ''`,
	} {
		f.Add(q, "lab-07", "Dell Inc.", int64(4096), uint8(3))
	}
	f.Fuzz(func(t *testing.T, query, name, text string, memory int64, runs uint8) {
		q, err := Compile(query)
		if err != nil {
			errs, ok := errors.AsType[QueryErrors](err)
			if !ok || len(errs) == 0 {
				t.Fatalf("the error of %q is %T", query, err)
			}
			for _, e := range errs {
				if e.Line < 1 || e.Column < 1 || e.Message == "" {
					t.Fatalf("%q: a place that is none: %+v", query, e)
				}
			}
			return
		}
		c := provisioning.Computer{Name: name, Spec: provisioning.ComputerSpec{
			Description: text, MACAddresses: []provisioning.MAC{provisioning.MAC(text)}, Variables: map[string]string{name: text, "x": "1"},
		}}
		subject := NewSubject(&c, &provisioning.Inventory{Product: text, MemoryMiB: memory}, slices.Repeat(ran, int(runs)))
		measured, cost, err := q.measure(subject)
		if subject.bounded && cost > 2*q.estimate+10 { // CEL's estimates are a little low here and there
			t.Fatalf("%q cost %d, and was estimated at %d", query, cost, q.estimate)
		}
		if cost > 2*mostCost { // the step that goes beyond the limit is counted, and is bounded by what it works on
			t.Fatalf("%q cost %d", query, cost)
		}
		fits, err2 := q.Fits(subject)
		if fits != measured || (err == nil) != (err2 == nil) {
			t.Fatalf("%q: measured %t %v, else %t %v", query, measured, err, fits, err2)
		}
		if _, err := q.Fits(NewSubject(&provisioning.Computer{}, nil, nil)); err != nil && err.Error() == "" {
			t.Fatal("an error without a text")
		}
	})
}

// TestSecretsAreNotTalkedInto: who belongs to a collection with secrets is not for the computers to say.
func TestSecretsAreNotTalkedInto(t *testing.T) {
	secrets := map[string]string{"ProductKey": "sealed:AAAA"}
	for _, c := range []struct {
		query   string
		column  int // of what is refused, 0 where nothing is
		secrets map[string]string
	}{
		{`computer.name.startsWith("lab-") && "department" in computer.variables`, 0, secrets},
		{`inventory.product.startsWith("Opti")`, 0, nil},
		{`inventory.product.startsWith("Opti")`, 1, secrets},
		{`computer.site == "LON" && has(inventory.serial)`, 31, secrets},
		{`computer.name == "x" || !deployments.exists(d, d.spent)`, 26, secrets},
		{`computer.macAddresses.exists(m, m == inventory.serial)`, 38, secrets},
		{`(inventory.secureBoot ? computer.name : computer.site) == "lab-07"`, 2, secrets},
	} {
		col, err := New(provisioning.Collection{Name: "c", Spec: provisioning.CollectionSpec{Query: c.query, Computers: []string{"listed"}, Secrets: c.secrets}})
		wrong, _ := errors.AsType[QueryErrors](err)
		if c.column == 0 {
			if err != nil || !col.Member(NewSubject(&lab, hardware, nil)).Member {
				t.Errorf("%s: %v", c.query, err)
			}
			continue
		}
		if len(wrong) != 1 || wrong[0].Column != c.column || !strings.Contains(wrong[0].Message, "says of itself") {
			t.Errorf("%s: %v", c.query, err)
		}
		if m := col.Member(NewSubject(&lab, hardware, nil)); m.Member || !m.Failed {
			t.Errorf("%s: %+v", c.query, m)
		}
		if m := col.Member(NewSubject(&provisioning.Computer{Name: "listed"}, nil, nil)); !m.Member {
			t.Errorf("a listed computer: %+v", m)
		}
	}
}
