package provisioning

import (
	"strconv"
	"strings"
	"testing"
)

func TestNesting(t *testing.T) {
	const n = 300_000 // what ends the program if it is parsed
	for _, text := range []string{strings.Repeat("[", n), strings.Repeat("a: {", n), strings.Repeat("- ", n), strings.Repeat("? ", n)} {
		_, ps := Decode(File{"deep.yaml", []byte(text)})
		if len(ps) != 1 || !strings.Contains(ps[0].String(), "deep.yaml:1:") || !strings.Contains(ps[0].Message, "in one another") {
			t.Errorf("%.8s…: %.200v", text, ps)
		}
	}
	ordinary := strings.Replace(valid, "spec: {package: debian-13}", "spec: {package: debian-13}\n"+strings.Repeat("# [\n", 1000), 1)
	if _, ps := Decode(File{"all.yaml", []byte(ordinary)}); len(ps) > 0 {
		t.Error(ps)
	}
}

// TestCrowded: a mapping that would take minutes to parse is refused before, and does not hide the other documents.
func TestCrowded(t *testing.T) {
	for name, line := range map[string]string{"block": "k%d: 1\n", "flow": "? {k%d: 1, "} {
		var b strings.Builder
		for i := range 300_000 {
			b.WriteString(strings.Replace(line, "%d", strconv.Itoa(i), 1))
			if name == "flow" && i == 0 {
				line = "k%d: 1, "
			}
		}
		objects, ps := Decode(File{"a.yaml", []byte(b.String() + "\n---\n" + valid)})
		if len(ps) != 1 || !strings.Contains(ps[0].Message, "more than 10000 keys") || ps[0].Line == 0 || len(objects) != 5 {
			t.Errorf("%s: %d objects, %.200v", name, len(objects), ps)
		}
	}
}
