package provisioning

import (
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
