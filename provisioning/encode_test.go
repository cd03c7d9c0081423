package provisioning

import (
	"encoding/json"
	"strings"
	"testing"
)

// awkward holds texts that YAML would read as something else if they were not quoted.
const awkward = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: "0123"}
spec:
  variables: {A: "yes", B: "12:30:45", C: "0x10", D: "~", E: "", F: "1e3", G: "# no comment", H: "a: b", I: " lead", J: "trail ", K: "- x", L: "null", M: "2026-11-20", N: "'\"\\", O: "{}", P: "*a", Q: "&b", R: "!c", S: "%d", T: "@e", U: "0o7", V: ".inf", W: "|", X: ">", Y: "?", Z: "\t"}
  steps:
    - name: "multi\nline\n\n  text\n"
      runCommandLine: {command: "set -e\n\tif true; then\n  echo 'a: b' # x\nfi\n\n", successCodes: [0, 3]}
    - runCommandLine: {command: "\n\n leading\nlines  "}
    - runCommandLine: {command: "windows\r\nlines\r\n"}
    - runCommandLine: {command: "über – \u2028 \u00a0 \x07"}
    - restart: {}
`

func TestEncodeRoundTrip(t *testing.T) {
	for _, text := range []string{valid, awkward} {
		objects, ps := Decode(File{"in.yaml", []byte(text)})
		if len(ps) > 0 {
			t.Fatal(ps)
		}
		for _, o := range objects {
			enc, err := o.Encode()
			if err != nil {
				t.Fatal(err)
			}
			d := Document{Kind: o.Kind, Name: o.Name, Text: enc}
			back, err := d.Decode()
			if err != nil {
				t.Fatalf("%v\n%s", err, enc)
			}
			again, err := back.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if again != enc {
				t.Errorf("encodes differently the second time:\n%s\n%s", enc, again)
			}
			if a, b := specJSON(t, o), specJSON(t, back); a != b {
				t.Errorf("changed by encoding:\n%s\n%s\n%s", a, b, enc)
			}
		}
	}
}

func TestEncodeIsCanonical(t *testing.T) {
	a, _ := Decode(File{"a", []byte(valid)})
	b, _ := Decode(File{"b", []byte("# a comment\n" + strings.ReplaceAll(valid, "{package: debian-13}", "\n  package: \"debian-13\" # same"))})
	if len(a) != len(b) {
		t.Fatal(len(a), len(b))
	}
	for i := range a {
		x, err1 := a[i].Encode()
		y, err2 := b[i].Encode()
		if err1 != nil || err2 != nil || x != y {
			t.Errorf("%v %v\n%s\n%s", err1, err2, x, y)
		}
	}
}

func specJSON(t *testing.T, o Object) string {
	t.Helper()
	b, err := json.Marshal([]any{o.Kind, o.Name, o.spec()})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func FuzzEncode(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(awkward))
	f.Add([]byte(every))
	f.Fuzz(func(t *testing.T, b []byte) {
		objects, _ := Decode(File{"f.yaml", b})
		for _, o := range objects {
			enc, err := o.Encode()
			if err != nil {
				t.Fatal(err)
			}
			d := Document{Kind: o.Kind, Name: o.Name, Text: enc}
			back, err := d.Decode()
			if err != nil {
				t.Fatalf("%v\n%s", err, enc)
			}
			if x, y := specJSON(t, o), specJSON(t, back); x != y {
				t.Errorf("changed by encoding:\n%s\n%s\n%s", x, y, enc)
			}
		}
	})
}
