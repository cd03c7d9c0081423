package provisioning

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDocuments bounds a configuration file's size in bytes.
const maxDocuments = 16 << 20

// File is a configuration file as a person gave it.
type File struct {
	Name string `json:"name"`
	Text []byte `json:"text"`
}

// Object is one configuration document with the place it came from.
type Object struct {
	Kind Kind
	Name string
	// Exactly one of these is set, by Kind.
	Site                          *Site
	Computer                      *Computer
	Collection                    *Collection
	OperatingSystemImage          *OperatingSystemImage
	OperatingSystemInstallPackage *OperatingSystemInstallPackage
	BootImage                     *BootImage
	DriverPackage                 *DriverPackage
	SoftwarePackage               *SoftwarePackage
	TaskSequence                  *TaskSequence
	Advertisement                 *Advertisement
	ComputerAssociation           *ComputerAssociation
	Role                          *Role

	file string
	node ast.Node
}

// header is what stands at the top of every document.
type header struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       Kind   `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
}

// document is a whole document with its kind's spec.
type document[S any] struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       Kind   `yaml:"kind"`
	Metadata   struct {
		Name string `yaml:"name"`
	} `yaml:"metadata"`
	Spec *S `yaml:"spec"`
}

// Decode reads a file of YAML documents. It is strict: unknown fields, wrong types, duplicate keys and anchors that
// multiply are faults. All documents are looked at, and every fault comes back as a Problem with its place.
func Decode(f File) ([]Object, Problems) {
	nodes, problems := parse(f)
	var objects []Object
	for _, node := range nodes {
		o, ps := decodeDocument(f.Name, node)
		problems = append(problems, ps...)
		if len(ps) == 0 {
			objects = append(objects, o)
		}
	}
	return objects, problems
}

// parse splits a file into its documents' syntax trees.
func parse(f File) ([]ast.Node, Problems) {
	if len(f.Text) > maxDocuments {
		return nil, Problems{{File: f.Name, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(f.Text), maxDocuments)}}
	}
	if i := bytes.IndexByte(f.Text, 0); i >= 0 {
		return nil, Problems{{File: f.Name, Message: "this is no text file; configuration is YAML in UTF-8"}}
	}
	tokens := lexer.Tokenize(string(f.Text))
	if t := nesting(tokens); t != nil {
		return nil, Problems{problemFor(f.Name, t, fmt.Sprintf("more than %d lists and mappings stand in one another", maxNesting))}
	}
	tree, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, Problems{problem(f.Name, nil, err)}
	}
	var nodes []ast.Node
	for _, d := range tree.Docs {
		if d.Body == nil || d.Body.Type() == ast.NullType || d.Body.Type() == ast.CommentType {
			continue
		}
		nodes = append(nodes, d.Body)
	}
	return nodes, nil
}

func decodeDocument(file string, node ast.Node) (Object, Problems) {
	at := func(path, format string, args ...any) Problems {
		return Problems{problemAt(file, node, path, fmt.Sprintf(format, args...))}
	}
	if node.Type() != ast.MappingType && node.Type() != ast.MappingValueType {
		return Object{}, at("$", "a document is a mapping that begins with apiVersion, kind, metadata and spec")
	}
	if p := refuseAliases(file, node); len(p) > 0 {
		return Object{}, p
	}
	var h header
	if err := yaml.NodeToValue(node, &h); err != nil {
		return Object{}, Problems{problem(file, node, err)}
	}
	if h.APIVersion != APIVersion {
		return Object{}, at("$.apiVersion", "apiVersion is %q; write %s", clip(h.APIVersion), APIVersion)
	}
	o := Object{Kind: h.Kind, Name: h.Metadata.Name, file: file, node: node}
	var ps Problems
	switch h.Kind {
	case KindSite:
		o.Site = &Site{Name: o.Name}
		ps = decodeSpec(file, node, &o.Site.Spec)
	case KindComputer:
		o.Computer = &Computer{Name: o.Name}
		ps = decodeSpec(file, node, &o.Computer.Spec)
	case KindOperatingSystemImage:
		o.OperatingSystemImage = &OperatingSystemImage{Name: o.Name}
		ps = decodeSpec(file, node, &o.OperatingSystemImage.Spec)
	case KindTaskSequence:
		o.TaskSequence = &TaskSequence{Name: o.Name}
		ps = decodeSpec(file, node, &o.TaskSequence.Spec)
	case KindAdvertisement:
		o.Advertisement = &Advertisement{Name: o.Name}
		ps = decodeSpec(file, node, &o.Advertisement.Spec)
	case KindAppliance:
		return Object{}, at("$.kind", "an Appliance document is site.yaml of one appliance's medium; it is not applied at central")
	default:
		return Object{}, at("$.kind", "kind %q is unknown; write one of %s", clip(string(h.Kind)), kindList())
	}
	if len(ps) > 0 {
		return Object{}, ps
	}
	if err := checkName(o.Name); err != nil {
		return Object{}, at("$.metadata.name", "metadata.name: %v", err)
	}
	return o, o.validate()
}

// refuseAliases keeps anchors out: a few lines of nested aliases expand to gigabytes, and no document needs them.
func refuseAliases(file string, node ast.Node) Problems {
	var ps Problems
	ast.Walk(visitor(func(n ast.Node) {
		if n.Type() == ast.AliasType || n.Type() == ast.AnchorType {
			ps = append(ps, problemFor(file, n.GetToken(), "anchors and aliases are not allowed; write the value out"))
		}
	}), node)
	return ps
}

type visitor func(ast.Node)

func (v visitor) Visit(n ast.Node) ast.Visitor { v(n); return v }

func decodeSpec[S any](file string, node ast.Node, spec *S) Problems {
	var d document[S]
	if err := yaml.NodeToValue(node, &d, yaml.Strict()); err != nil {
		return Problems{problem(file, node, err)}
	}
	if d.Spec == nil {
		return Problems{problemAt(file, node, "$.spec", "spec is missing")}
	}
	*spec = *d.Spec
	return nil
}

// DecodeAppliance reads site.yaml.
func DecodeAppliance(f File) (*Appliance, Problems) {
	nodes, ps := parse(f)
	if len(ps) > 0 {
		return nil, ps
	}
	if len(nodes) != 1 {
		return nil, Problems{{File: f.Name, Message: fmt.Sprintf("the file holds %d documents; it must hold one, of kind Appliance", len(nodes))}}
	}
	node := nodes[0]
	if p := refuseAliases(f.Name, node); len(p) > 0 {
		return nil, p
	}
	var d struct {
		APIVersion string     `yaml:"apiVersion"`
		Kind       Kind       `yaml:"kind"`
		Spec       *Appliance `yaml:"spec"`
	}
	if err := yaml.NodeToValue(node, &d, yaml.Strict()); err != nil {
		return nil, Problems{problem(f.Name, node, err)}
	}
	if d.APIVersion != APIVersion || d.Kind != KindAppliance || d.Spec == nil {
		return nil, Problems{problemAt(f.Name, node, "$.kind", fmt.Sprintf("write apiVersion: %s, kind: %s and a spec", APIVersion, KindAppliance))}
	}
	return d.Spec, d.Spec.validate(f.Name, node)
}

// problem turns an error of the YAML library into a Problem.
func problem(file string, node ast.Node, err error) Problem {
	var ye yaml.Error
	if errors.As(err, &ye) {
		return problemFor(file, ye.GetToken(), friendly(ye.GetMessage()))
	}
	p := Problem{File: file, Message: err.Error()}
	if node != nil && node.GetToken() != nil {
		p.Line, p.Column = node.GetToken().Position.Line, node.GetToken().Position.Column
	}
	return p
}

var (
	unknownField = regexp.MustCompile(`^unknown field "([^"]*)"$`)
	wrongType    = regexp.MustCompile(`^cannot unmarshal (\S+) into Go (?:struct field|value)(?: of type)? ?(\S*)(?: of type (\S+))?$`)
	wrongNode    = regexp.MustCompile(`^(\S+) was used where (\S+) is expected$`)
)

// friendly rewords the library's messages for people who do not write Go.
func friendly(msg string) string {
	if m := unknownField.FindStringSubmatch(msg); m != nil {
		return fmt.Sprintf("unknown field %q; check its spelling and its indentation", m[1])
	}
	if m := wrongType.FindStringSubmatch(msg); m != nil {
		want := m[3]
		if want == "" {
			want = m[2]
		}
		return fmt.Sprintf("this is %s; %s is wanted here", typeName(m[1]), typeName(want))
	}
	if m := wrongNode.FindStringSubmatch(msg); m != nil {
		return fmt.Sprintf("this is %s; %s is wanted here", nodeName(m[1]), nodeName(m[2]))
	}
	return msg
}

// nodeName says in words what the YAML library calls a node.
func nodeName(n string) string {
	switch n {
	case "sequence":
		return "a list"
	case "mapping":
		return "a mapping"
	case "int", "integer":
		return "a whole number"
	case "string":
		return "a text"
	}
	return n
}

// typeName says in words what a Go type is in YAML.
func typeName(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case strings.HasPrefix(goType, "map["):
		return "a mapping"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return "a whole number"
	case goType == "string", goType == "provisioning.MAC", goType == "provisioning.GUID":
		return "a text"
	case goType == "bool":
		return "true or false"
	case goType == "time.Time":
		return "a time such as 2026-11-20T08:00:00Z"
	case strings.HasPrefix(goType, "provisioning."), strings.HasPrefix(goType, "*provisioning."):
		return "a mapping"
	}
	return goType
}

// problemAt makes a Problem at the node that a YAML path such as $.spec.image names, or as near as it exists.
func problemAt(file string, node ast.Node, path, message string) Problem {
	for p := path; p != "" && p != "$"; {
		if yp, err := yaml.PathString(p); err == nil {
			if n, err := yp.FilterNode(node); err == nil && n != nil && n.GetToken() != nil {
				return problemFor(file, n.GetToken(), message)
			}
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			break
		}
		p = p[:i]
	}
	return problemFor(file, firstToken(node), message)
}

func firstToken(node ast.Node) *token.Token {
	switch n := node.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 {
			return n.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return n.Key.GetToken()
	}
	return node.GetToken()
}

func problemFor(file string, t *token.Token, message string) Problem {
	p := Problem{File: file, Message: message}
	if t != nil && t.Position != nil {
		p.Line, p.Column = t.Position.Line, t.Position.Column
	}
	return p
}

func kindList() string {
	names := make([]string, len(Kinds))
	for i, k := range Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}
