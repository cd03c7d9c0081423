package provisioning_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"strings"
	"testing"
)

// pureLibraries are what provisioning may import beside the standard library: they do no I/O.
var pureLibraries = []string{"github.com/goccy/go-yaml", "github.com/google/cel-go", "golang.org/x/crypto/argon2"}

// TestImportArrows holds every package's imports against the table of docs/architecture.md.
func TestImportArrows(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps=false", "-json=ImportPath,Imports,TestImports,XTestImports", "branchpoint/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(string(out)))
	packages := 0
	for {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		packages++
		for _, imp := range p.Imports {
			if why := forbidden(p.ImportPath, imp); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imp, why)
			}
		}
		// Tests may use more, but the laboratory stays outside of the product in both directions.
		for _, imp := range append(p.TestImports, p.XTestImports...) {
			if why := forbiddenInTests(p.ImportPath, imp); why != "" {
				t.Errorf("a test of %s imports %s: %s", p.ImportPath, imp, why)
			}
		}
	}
	if packages < 5 {
		t.Fatalf("only %d packages were looked at", packages)
	}
}

// forbidden says why package from may not import package to, "" if it may.
func forbidden(from, to string) string {
	room := func(p string) string { r, _, _ := strings.Cut(strings.TrimPrefix(p, "branchpoint/"), "/"); return r }
	ours := strings.HasPrefix(to, "branchpoint/")
	service := func(p string) string {
		parts := strings.Split(strings.TrimPrefix(p, "branchpoint/"), "/")
		if len(parts) > 1 && parts[0] == "services" {
			return parts[1]
		}
		return ""
	}
	switch {
	case room(from) == "provisioning" && ours && room(to) != "provisioning":
		return "the domain depends on nothing that does I/O"
	case room(from) == "provisioning" && !ours && strings.Contains(strings.Split(to, "/")[0], "."):
		for _, l := range pureLibraries {
			if to == l || strings.HasPrefix(to, l+"/") {
				return ""
			}
		}
		return "the domain uses the standard library and pure libraries only"
	case room(from) == "services" && ours && room(to) != "services" && room(to) != "provisioning":
		return "a service knows the domain and itself"
	case service(from) != "" && service(to) != "" && service(from) != service(to):
		return "services do not know each other: declare an interface, and appliance wires it"
	case room(from) == "initramfs" && ours && room(to) != "initramfs" && room(to) != "provisioning" && !(service(to) != "" && path.Base(to) == "client"):
		return "the boot image uses the domain and the services' clients"
	case room(to) == "qemu-tests" && room(from) != "qemu-tests":
		return "nothing depends on the laboratory"
	case room(from) == "qemu-tests" && ours && room(to) != "qemu-tests":
		return "the laboratory uses built artifacts and public protocols"
	case room(to) == "benchmark" && room(from) != "benchmark":
		return "no program measures itself: only tests use benchmark"
	case strings.HasSuffix(to, "modernc.org/sqlite") || to == "database/sql":
		if service(from) != "store" {
			return "only services/store knows SQL"
		}
	}
	return ""
}

func forbiddenInTests(from, to string) string {
	laboratory := func(p string) bool { return strings.HasPrefix(p, "branchpoint/qemu-tests") }
	switch {
	case to == "branchpoint/benchmark": // it knows nothing of the product, and any test may measure
		return ""
	case laboratory(from) && strings.HasPrefix(to, "branchpoint/") && !laboratory(to):
		return "the laboratory uses built artifacts and public protocols"
	case !laboratory(from) && laboratory(to):
		return "nothing depends on the laboratory"
	}
	return ""
}

func TestForbidden(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"branchpoint/provisioning/policy", "branchpoint/provisioning", false},
		{"branchpoint/provisioning", "branchpoint/services/pxe", true},
		{"branchpoint/provisioning", "github.com/goccy/go-yaml/ast", false},
		{"branchpoint/provisioning", "github.com/vishvananda/netlink", true},
		{"branchpoint/services/pxe", "branchpoint/services/store", true},
		{"branchpoint/services/branch", "branchpoint/services/branch/client", false},
		{"branchpoint/services/content", "branchpoint/appliance", true},
		{"branchpoint/services/central", "database/sql", true},
		{"branchpoint/services/store", "database/sql", false},
		{"branchpoint/initramfs/cmd/agent", "branchpoint/services/branch/client", false},
		{"branchpoint/initramfs/cmd/agent", "branchpoint/services/branch", true},
		{"branchpoint/appliance", "branchpoint/services/store", false},
		{"branchpoint/appliance", "branchpoint/qemu-tests/lab", true},
		{"branchpoint/qemu-tests", "branchpoint/provisioning", true},
		{"branchpoint/appliance", "branchpoint/benchmark", true},
		{"branchpoint/benchmark/cmd/benchtable", "branchpoint/benchmark", false},
	} {
		if got := forbidden(c.from, c.to); (got != "") != c.bad {
			t.Errorf("%s → %s: %q", c.from, c.to, got)
		}
	}
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"branchpoint/qemu-tests", "branchpoint/benchmark", false},
		{"branchpoint/services/pxe", "branchpoint/benchmark", false},
		{"branchpoint/qemu-tests", "branchpoint/provisioning", true},
		{"branchpoint/services/pxe", "branchpoint/qemu-tests/lab", true},
	} {
		if got := forbiddenInTests(c.from, c.to); (got != "") != c.bad {
			t.Errorf("a test of %s → %s: %q", c.from, c.to, got)
		}
	}
}
