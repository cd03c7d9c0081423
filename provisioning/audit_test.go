package provisioning

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestRedact(t *testing.T) {
	const before = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata:
  name: install
spec:
  variables:
    Domain_Password: "two: words"
    "odd: secret": "in quotes"
    Town: London
  steps:
    - name: "Settings: secret"
      applyOperatingSystemSettings:
        administrator:
          name: jo
          passwordHash: "$6$salt$hash"
          tokens:
            - in-a-list
    - passwordHash: first-in-a-list
      runCommandLine:
        command: "echo 1"
`
	const after = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata:
  name: install
spec:
  variables:
    Domain_Password: (redacted)
    "odd: secret": (redacted)
    Town: London
  steps:
    - name: "Settings: secret"
      applyOperatingSystemSettings:
        administrator:
          name: jo
          passwordHash: (redacted)
          tokens: (redacted)
    - passwordHash: (redacted)
      runCommandLine:
        command: "echo 1"
`
	if got := Redact(before); got != after {
		t.Errorf("it became:\n%s", got)
	}
	site := "kind: Site\nspec:\n  pxe:\n    secretsAfter: known\n  description: x\n"
	if hidden := Redact(strings.Replace(site, "known", "hunter2", 1)); strings.Contains(hidden, "hunter2") {
		t.Errorf("what is no rule became %q", hidden)
	}
	for _, same := range []string{"", after, "kind: Site\nspec:\n  description: the cellar\n", site} {
		if Redact(same) != same {
			t.Errorf("%q became %q", same, Redact(same))
		}
	}
}

// FuzzRedact: what stands under a secret's name never comes through, whatever else the document says.
func FuzzRedact(f *testing.F) {
	f.Add("x", "y", "z")
	f.Add(": ", "a\nb", "- ")
	f.Add("\"", "\\", "token: ")
	f.Add("\u2028", "\x7f", "{}")
	f.Fuzz(func(t *testing.T, name, value, other string) {
		const secret = "hunter2hunter2"
		if !utf8.ValidString(name+value+other) || strings.Contains(name+value+other, "hunter") {
			return
		}
		spec := map[string]any{
			"a" + other: value, name + "Password": value + secret, name + "z": map[string]any{"k": []any{other, map[string]any{name + "-token": []any{secret, value}}}},
		}
		b, err := json.Marshal(map[string]any{"spec": spec})
		if err != nil {
			t.Fatal(err)
		}
		text, err := jsonToYAML(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := Redact(text); strings.Contains(got, secret) {
			t.Errorf("%s became\n%s", text, got)
		}
	})
}
