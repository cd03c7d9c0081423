package provisioning

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestSecretFaults(t *testing.T) {
	const value = "hunter2-hunter2"
	for _, c := range []struct{ name, spec, want string }{
		{"a good one", `secrets: {Join: hunter2-hunter2, Key: "sealed:AAAA"}`, ""},
		{"too short", `secrets: {Join: abc}`, "the secret has a value of 3 bytes; 4 to 4096 are possible"},
		{"empty", `secrets: {Join: ""}`, "0 bytes"},
		{"too long", `secrets: {Join: ` + strings.Repeat("hunter2-", 600) + `}`, "4800 bytes"},
		{"too long a seal", `secrets: {Join: "sealed:` + strings.Repeat("A", 9000) + `"}`, "is sealed with 9007 bytes"},
		{"no name", `secrets: {"Join-Password": hunter2-hunter2}`, "use letters, digits and underscores"},
		{"read-only", `secrets: {_SMSTSx: hunter2-hunter2}`, "use letters"},
		{"twice", `secrets: {Join: hunter2-hunter2, JOIN: hunter2-hunter2}`, "two secrets have this name"},
		{"a variable, too", `secrets: {Join: hunter2-hunter2}, variables: {JOIN: x}`, "the secret is a variable as well"},
		{"a list", `secrets: {Join: [hunter2-hunter2]}`, "a text is wanted here"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, ps := Decode(File{Name: "f.yaml", Text: []byte("apiVersion: branchpoint/v1\nkind: Collection\nmetadata: {name: c}\nspec: {" + c.spec + "}\n")})
			text := ""
			for _, p := range ps {
				text += p.String() + "\n"
			}
			if (c.want == "") != (text == "") || !strings.Contains(text, c.want) {
				t.Errorf("got %s want %s", text, c.want)
			}
			if strings.Contains(text, value) || strings.Contains(text, "hunter2") {
				t.Errorf("a fault tells the secret: %s", text)
			}
		})
	}
}

// TestAuditOfSecrets: the audit log says that there are secrets and after what they are handed out, and neither values nor sealed forms.
func TestAuditOfSecrets(t *testing.T) {
	objects := mustDecode(t, `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {pxe: {mode: proxy, secretsAfter: known}}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec: {macAddresses: ["52:54:00:00:00:01"], secrets: {Join: "sealed:hunter2", "Two": "hunter2 one\nhunter2 two", Three: "- hunter2"}}
`)
	text := ""
	for _, o := range objects {
		s, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		text += Redact(s)
	}
	if strings.Contains(text, "hunter2") || !strings.Contains(text, "secrets: (redacted)") || !strings.Contains(text, "secretsAfter: known") {
		t.Errorf("the audit log has\n%s", text)
	}
}

func TestRefers(t *testing.T) {
	ts := TaskSequence{Spec: TaskSequenceSpec{Steps: []Step{
		{RunCommandLine: &RunCommandLine{Command: `a %One% "%two%%Three%" %Five%Six% 5%x y% %%Not`}},
		{ApplyNetworkSettings: &ApplyNetworkSettings{DNS: []string{"%Four%"}}},
	}}}
	got := slices.Sorted(maps.Keys(ts.Refers()))
	for _, want := range []string{"ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	if slices.Contains(got, "NOT") {
		t.Errorf("refers to %v", got)
	}
}

// TestResolveSecrets: a site gets what its computers and sequences need, and the catalog stays as it is.
func TestResolveSecrets(t *testing.T) {
	catalog, ps := NewCatalog(mustDecode(t, `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {}
---
apiVersion: branchpoint/v1
kind: Computer
metadata: {name: desk-1}
spec: {site: LON, macAddresses: ["52:54:00:00:00:01"], secrets: {Used: "sealed:AAAA", Unused: "sealed:AAAA"}}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: mine}
spec: {computers: [desk-1], secrets: {used: "sealed:BBBB"}}
---
apiVersion: branchpoint/v1
kind: Collection
metadata: {name: others}
spec: {computers: [], secrets: {Used: "sealed:CCCC"}}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: join}
spec: {steps: [{runCommandLine: {command: "%USED%"}}], secrets: {Other: "sealed:DDDD"}}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: ad}
spec: {taskSequence: join, computers: [desk-1], purpose: required}
`))
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	s, err := catalog.Resolve("LON", Facts{})
	if err != nil {
		t.Fatal(err)
	}
	all := s.AllSecrets()
	slices.SortFunc(all, func(a, b SecretOf) int { return strings.Compare(a.Place, b.Place) })
	want := []SecretOf{{"Collection/mine/USED", "sealed:BBBB"}, {"Computer/desk-1/USED", "sealed:AAAA"}}
	if !slices.Equal(all, want) {
		t.Errorf("got %v", all)
	}
	mine := s.Collections[slices.IndexFunc(s.Collections, func(c Collection) bool { return c.Name == "mine" })].Spec.Secrets
	s.BlankSecrets()
	if len(mine) != 1 || slices.Collect(maps.Values(mine))[0] != "sealed:BBBB" {
		t.Errorf("what the snapshot shares with others was changed: %v", mine)
	}
	for _, x := range s.AllSecrets() {
		if x.Value != "" {
			t.Errorf("%s stays", x.Place)
		}
	}
	if o := catalog[Key{KindComputer, "desk-1"}]; o.Secrets()["Used"] != "sealed:AAAA" || o.Secrets()["Unused"] == "" {
		t.Errorf("the catalog was changed: %v", o.Secrets())
	}
}

func mustDecode(t *testing.T, text string) []Object {
	t.Helper()
	out, ps := Decode(File{Name: "f.yaml", Text: []byte(text)})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	return out
}

// TestFaultsTellNoSecret: what is wrong with a file is said without what stands in it, as passwords have characters that mean
// something in YAML and people forget the quotes.
func TestFaultsTellNoSecret(t *testing.T) {
	const value = "hunter2"
	for _, secrets := range []string{
		`{Join: hunter2`, `{Join: "hunter2}`, `{Join: 'hunter2'hunter2}`, `{Join: "hunter2"hunter2}`, `{Join: hunter2,hunter2}`, `{Join: a,hunter2}`,
		`{Join: ab, hunter2hunter2: cd}`, `{Join: !hunter2}`, `{Join: !!hunter2 x}`, `{Join: &hunter2 }`, `{Join: *hunter2}`, `{Join: @hunter2}`, "{Join: `hunter2}",
		`{Join: %hunter2}`, `{Join: [hunter2]}`, `{Join: {hunter2: x}}`, `{Join: {x: hunter2}}`, `{Join: "\hunter2"}`, `{Join: "\xhunter2"}`, `{Join: ]hunter2}`,
		`{hunter2-hunter2: Join}`, `{"hunter2 ": Join}`, `{_SMSTShunter2: hunter2}`, `hunter2`, `[hunter2]`, `!hunter2 {}`, `&hunter2 {}`, `*hunter2`, `hunter2: hunter2`, `"hunter2`,
		`{Join: hunter2: hunter2}`, `{Join: x: hunter2}`, `{Join: x, hunter2, hunter2}`, `{Join: ? hunter2}`, `{? hunter2}`, `{? [hunter2] : x}`, `{Join: | hunter2}`,
		"\n    Join: |hunter2", "\n    Join: >hunter2", "\n    Join: |\n hunter2", "\n    Join: |\n      x\n     hunter2", "\n    Join: x\n    hunter2", "\n    Join: x\n   hunter2: y",
		"\n    Join: x\n  hunter2: y", "\n    Join: x\nhunter2: y", "\n    Join: \"x\nhunter2", "\n    Join: x\n\thunter2: y", "\n    - hunter2", "\n    Join: - hunter2",
		"\n    Join: !hunter2", "\n    Join: *hunter2", "\n    Join: &hunter2", "\n    Join: @hunter2", "\n    Join: `hunter2", "\n    Join: %hunter2", "\n    Join: \"hunter2\"hunter2", "\n    Join: 'hunter2'hunter2",
		"\n    Join: [hunter2", "\n    Join: {hunter2", "\n    Join: hunter2]: x", "\n    Join: hun: ter2hunter2", "\n    Join: x: hunter2", "\n    Join: ab\n    Join: hunter2", "\n    hunter2: ab\n    hunter2: cd",
		"\n    hunter2: abcd\n    HUNTER2: abcd", "\n    <<: hunter2", "\n    <<: *hunter2", "\n    <<: {hunter2: x}", "\n    Join: \"\\hunter2\"", "\n    Join: \"abc\\\n hunter2",
	} {
		for _, before := range []string{"", `macAddresses: ["52:54:00:00:00:01"], `} {
			text := "apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: c}\nspec: {" + before + "secrets: " + secrets + "}\n"
			if strings.HasPrefix(secrets, "\n") || !strings.HasPrefix(secrets, "{") {
				text = "apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: c}\nspec:\n  macAddresses: [\"52:54:00:00:00:01\"]\n  secrets: " + secrets + "\n"
			}
			_, ps := Decode(File{Name: "f.yaml", Text: []byte(text)})
			if strings.Contains(strings.ToLower(ps.Error()), value) {
				t.Errorf("of\n%sit says\n%v", text, ps)
			}
		}
	}
}
