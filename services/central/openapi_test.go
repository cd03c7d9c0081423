package central

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"branchpoint/services/central/client"

	"github.com/danielgtaylor/huma/v2"
)

var update = flag.Bool("update", false, "write docs/openapi.yaml and descriptions.json anew")

const howToUpdate = "write it anew: go test ./services/central -run TestOpenAPI -update"

// TestOpenAPI says when the description of the API is not that of the operations and types any more.
func TestOpenAPI(t *testing.T) {
	a := (&Central{}).newAPI(http.NewServeMux())
	texts := commentsOf(t, a.huma.OpenAPI().Components.Schemas, "client", "../../provisioning", "../../provisioning/computers", "../../provisioning/policy", "../../provisioning/collection")
	b, err := json.MarshalIndent(texts, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	keepFile(t, "descriptions.json", append(b, '\n'))
	_, doc, err := a.openAPI(texts)
	if err != nil {
		t.Fatal(err)
	}
	keepFile(t, "../../docs/openapi.yaml", doc)
	for path, item := range a.huma.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op == nil {
				continue
			}
			if op.Summary == "" || len(op.Tags) != 1 || op.OperationID == "" {
				t.Errorf("%s %s has no summary, tag or id", op.Method, path)
			}
			for _, p := range op.Parameters {
				if p.Description == "" {
					t.Errorf("%s %s: parameter %s is not described", op.Method, path, p.Name)
				}
			}
			once := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "Idempotency-Key" })
			reads := path == client.PathLogin || path == client.PathPreview
			if once != (op.Method == http.MethodPost && !reads) {
				t.Errorf("%s %s: Idempotency-Key is %t", op.Method, path, once)
			}
		}
	}
	for name, s := range a.huma.OpenAPI().Components.Schemas.Map() {
		if s.Description == "" {
			t.Errorf("type %s is not described", name)
		}
	}
}

// TestOpenAPIComplete finds every path that the client knows below /v1 in the description.
func TestOpenAPIComplete(t *testing.T) {
	a := (&Central{}).newAPI(http.NewServeMux())
	var paths []string
	for p := range a.huma.OpenAPI().Paths {
		paths = append(paths, p)
	}
	found := 0
	for _, f := range parseDir(t, "client") {
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if !ok || lit.Kind != token.STRING || !strings.HasPrefix(lit.Value, `"/v1/`) {
				return true
			}
			path := strings.Trim(lit.Value, `"`)
			if path == client.PathContentAdmin || path == client.PathOpenAPIJSON || path == client.PathOpenAPIYAML {
				return true // content is described where it is served
			}
			found++
			if !slices.ContainsFunc(paths, func(p string) bool { return p == path || strings.HasPrefix(p, path+"/") }) {
				t.Errorf("%s is not described", path)
			}
			return true
		})
	}
	if found < 15 {
		t.Errorf("only %d paths were found in the client", found)
	}
}

// keepFile compares a generated file with what it should be, or writes it.
func keepFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is stale (%v); %s", path, err, howToUpdate)
	}
}

func parseDir(t *testing.T, dir string) []*ast.File {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(names) == 0 {
		t.Fatal(dir, err)
	}
	var out []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), n, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// commentsOf gathers the doc comments of the types that a registry knows.
func commentsOf(t *testing.T, r huma.Registry, dirs ...string) descriptions {
	t.Helper()
	wanted := map[string]bool{}
	for name := range r.Map() {
		noteType(r.TypeFromRef(schemaPrefix+name), wanted)
	}
	out := descriptions{}
	for _, dir := range dirs {
		for _, f := range parseDir(t, dir) {
			for _, d := range f.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.TYPE {
					continue
				}
				for _, s := range g.Specs {
					ts := s.(*ast.TypeSpec)
					st, ok := ts.Type.(*ast.StructType)
					if key := f.Name.Name + "." + ts.Name.Name; ok && wanted[key] {
						out[key] = describeStruct(ts.Name.Name, firstComment(ts.Doc, g.Doc), st)
					}
				}
			}
		}
	}
	for key := range wanted {
		if out[key] == nil {
			t.Errorf("the comments of %s were not found", key)
		}
	}
	return out
}

// noteType notes a type, and what it embeds.
func noteType(t reflect.Type, wanted map[string]bool) {
	wanted[typeName(t)] = true
	for i := range t.NumField() {
		if f := t.Field(i); f.Anonymous {
			noteType(f.Type, wanted)
		}
	}
}

func firstComment(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if g != nil {
			return strings.Join(strings.Fields(g.Text()), " ")
		}
	}
	return ""
}

// describeStruct takes the comments of a struct's fields, with the fields called as they are in JSON.
func describeStruct(name, text string, st *ast.StructType) map[string]string {
	names := map[string]string{}
	for _, f := range st.Fields.List {
		if f.Tag == nil || len(f.Names) == 0 {
			continue
		}
		name, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("json"), ",")
		names[f.Names[0].Name] = name
	}
	word := regexp.MustCompile(`\b[A-Z]\w*\b`)
	inJSON := func(s string) string {
		first := true
		return word.ReplaceAllStringFunc(s, func(w string) string {
			n := names[w]
			abbreviation := w == strings.ToUpper(w) && !first // such as GUID, which is more than the field
			if first = false; n == "" || w == name || abbreviation {
				return w
			}
			return n
		})
	}
	out := map[string]string{}
	if text != "" {
		out[""] = inJSON(text)
	}
	last := ""
	for _, f := range st.Fields.List {
		if len(f.Names) == 0 {
			continue
		}
		own := firstComment(f.Doc, f.Comment)
		if own != "" {
			last = own
		} else if slices.Contains(word.FindAllString(last, -1), f.Names[0].Name) {
			own = last // a comment may tell of the fields that follow, too
		}
		if name := names[f.Names[0].Name]; own != "" && name != "" {
			out[name] = inJSON(own)
		}
	}
	return out
}
