package provisioning

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
)

// maxDocuments bounds a configuration file's size in bytes.
const maxDocuments = 16 << 20

// maxProblems bounds the problems that are reported of one file.
const maxProblems = 1000

// File is a configuration file as a person gave it.
type File struct {
	Name string `json:"name"`
	Text []byte `json:"text"`
}

// Object is one configuration document with the place it came from.
type Object struct {
	Kind Kind
	Name string
	// Exactly one of these is set: the one that Kind names.
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

	source source
}

// Problem makes a Problem at the place in the object's file that a path such as $.spec.query names, or as near as there
// is something; without a place where the object did not come from a file.
func (o *Object) Problem(path, format string, args ...any) Problem {
	return o.source.problem(path, fmt.Sprintf(format, args...))
}

// document is what every document consists of.
type document struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       Kind     `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       ast.Node `yaml:"spec"`
}

type metadata struct {
	Name string `yaml:"name" json:"name"`
}

// Decode reads a file of YAML documents. It is strict: unknown fields, wrong types, duplicate keys, anchors and tags are
// faults. All documents are looked at, and every fault comes back as a Problem with its place; only what may follow from
// another fault is left out.
func Decode(f File) ([]Object, Problems) {
	nodes, problems := parse(f)
	var objects []Object
	for _, node := range nodes {
		o, ps := decodeDocument(source{file: f.Name, node: node})
		problems = append(problems, ps...)
		if len(ps) == 0 {
			objects = append(objects, o)
		}
	}
	return objects, problems.inOrder().atMost(maxProblems)
}

// parse splits a file into its documents' syntax trees. A document that is no YAML does not hide the others.
func parse(f File) ([]ast.Node, Problems) {
	if len(f.Text) > maxDocuments {
		return nil, Problems{{File: f.Name, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", len(f.Text), maxDocuments)}}
	}
	if i := bytes.IndexByte(f.Text, 0); i >= 0 {
		return nil, Problems{{File: f.Name, Message: "this is no text file; configuration is YAML in UTF-8"}}
	}
	var nodes []ast.Node
	var problems Problems
	for _, p := range split(strings.TrimPrefix(string(f.Text), "\ufeff")) {
		more, problem := p.parse(f.Name)
		nodes = append(nodes, more...)
		if problem != nil {
			problems = append(problems, *problem)
		}
	}
	return nodes, problems
}

// part is one document of a file as text, and the number of lines before it.
type part struct {
	text string
	line int
}

// split cuts a file before each line that begins with three hyphens. Such a line always begins a document (YAML 1.2.2
// section 9.1.2), even inside of quotes that somebody forgot to close. What precedes the first document, comments and
// directives, stays with it.
func split(text string) []part {
	parts := []part{{}}
	begin, lines, content := 0, 0, false
	for at := 0; at < len(text); {
		line, _, _ := strings.Cut(text[at:], "\n")
		if marker := strings.TrimRight(line, " \t\r"); marker == "---" || strings.HasPrefix(line, "--- ") {
			if content {
				parts[len(parts)-1].text = text[begin:at]
				parts = append(parts, part{line: lines})
				begin = at
			}
			content = true
		} else if marker != "" && marker[0] != '#' && marker[0] != '%' {
			content = true
		}
		at += len(line) + 1
		lines++
	}
	parts[len(parts)-1].text = text[begin:]
	return parts
}

func (p part) parse(file string) ([]ast.Node, *Problem) {
	tokens := lexer.Tokenize(p.text)
	for _, t := range tokens {
		if t.Position != nil {
			t.Position.Line += p.line
		}
	}
	if t := nesting(tokens); t != nil {
		problem := problemFor(file, t, fmt.Sprintf("more than %d lists and mappings stand in one another", maxNesting))
		return nil, &problem
	}
	if t := crowded(tokens); t != nil {
		problem := problemFor(file, t, fmt.Sprintf("the document has more than %d keys", maxKeys))
		return nil, &problem
	}
	tree, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // all of them are found when they are read
	if err != nil {
		problem := syntaxProblem(file, err)
		return nil, &problem
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

func decodeDocument(s source) (Object, Problems) {
	var d document
	spec, _ := child(s.node, ".spec")
	_, secrets := child(spec, ".secrets")
	c := checker{source: s, discreet: secrets != nil}
	c.fill(&d, "$", s.node)
	if d.APIVersion != APIVersion {
		c.add("$.apiVersion", "apiVersion is %q; write %s", clip(d.APIVersion), APIVersion)
		return Object{}, c.problems
	}
	if _, known := rules[d.Kind]; !known {
		if d.Kind == KindAppliance {
			c.add("$.kind", "an Appliance document is site.yaml of one appliance's medium; it is not applied at central")
		} else {
			c.add("$.kind", "kind %q is unknown; write one of %s", clip(string(d.Kind)), kindList())
		}
		return Object{}, c.problems
	}
	o := Object{Kind: d.Kind, Name: d.Metadata.Name, source: s}
	into := o.make()
	if d.Spec != nil {
		c.fill(into, "$.spec", d.Spec)
	} else {
		c.add("$.spec", "spec is missing")
		c.faulty = append(c.faulty, "$.spec") // all that could be said of it follows
	}
	o.check(&c)
	return o, c.problems
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
	s := source{file: f.Name, node: nodes[0]}
	var d struct {
		APIVersion string     `yaml:"apiVersion"`
		Kind       Kind       `yaml:"kind"`
		Spec       *Appliance `yaml:"spec"`
	}
	c := checker{source: s}
	c.fill(&d, "$", s.node)
	if d.APIVersion != APIVersion || d.Kind != KindAppliance || d.Spec == nil {
		c.add("$.kind", "write apiVersion: %s, kind: %s and a spec", APIVersion, KindAppliance)
		return nil, c.problems.inOrder()
	}
	c.appliance(d.Spec)
	return d.Spec, c.problems.inOrder()
}

func kindList() string {
	names := make([]string, len(Kinds))
	for i, k := range Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}
