package central

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"strings"

	"branchpoint/services/central/client"

	"github.com/danielgtaylor/huma/v2"
	"github.com/goccy/go-yaml"
)

const schemaPrefix = "#/components/schemas/"

// descriptionsJSON are the doc comments of what requests and answers are made of. TestOpenAPI says when it is stale.
//
//go:embed descriptions.json
var descriptionsJSON []byte

// descriptions are texts by type, such as "client.Token", and the JSON name of the field; an empty name is the type's own.
type descriptions map[string]map[string]string

// typeName names a type as descriptions do, without what a generic one is made of.
func typeName(t reflect.Type) string {
	name, _, _ := strings.Cut(t.Name(), "[")
	return path.Base(t.PkgPath()) + "." + name
}

// describe adds the texts to the schemas of all types.
func (d descriptions) describe(r huma.Registry) {
	for name, s := range r.Map() {
		t := r.TypeFromRef(schemaPrefix + name)
		if s.Description == "" {
			s.Description = d[typeName(t)][""]
		}
		d.describeFields(s, t)
	}
}

// describeFields adds the texts of a struct's fields; those of embedded structs are the schema's own.
func (d descriptions) describeFields(s *huma.Schema, t reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			d.describeFields(s, f.Type)
		} else if p := s.Properties[name]; p != nil && p.Description == "" {
			p.Description = d[typeName(t)][name]
		}
	}
}

// openAPI describes the operations as OpenAPI 3.1: JSON and YAML.
func (a *api) openAPI(d descriptions) (asJSON, asYAML []byte, err error) {
	d.describe(a.huma.OpenAPI().Components.Schemas)
	if asJSON, err = json.Marshal(a.huma.OpenAPI()); err != nil {
		return nil, nil, fmt.Errorf("describe the API: %w", err)
	}
	if asYAML, err = yaml.JSONToYAML(asJSON); err != nil {
		return nil, nil, fmt.Errorf("describe the API: %w", err)
	}
	return asJSON, asYAML, nil
}

// serveOpenAPI serves the description. It is the same in every central, and anybody may read it.
func (a *api) serveOpenAPI() {
	var d descriptions
	err := json.Unmarshal(descriptionsJSON, &d)
	var asJSON, asYAML []byte
	if err == nil {
		asJSON, asYAML, err = a.openAPI(d)
	}
	if err != nil {
		panic(err) // both are made from what was compiled in
	}
	serve := func(path, media string, b []byte) {
		a.mux.ServeMux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", media)
			_, _ = w.Write(b)
		})
	}
	serve(client.PathOpenAPIJSON, "application/json", asJSON)
	serve(client.PathOpenAPIYAML, "application/yaml", asYAML)
}
