package provisioning

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// fill fills what dst points to from a node of the document, strictly: a field that does not exist, a value of another
// type, a key that stands twice, an anchor, an alias or a tag is a problem, and all of them are found at once. The YAML
// library's own decoder stops at the first. A text is what stands there: 1.10 is no 1.1.
func (c *checker) fill(dst any, path string, node ast.Node) {
	c.value(path, firstToken(node), node, reflect.ValueOf(dst).Elem())
}

// unreadable adds a problem of something that could not be read, at a token.
func (c *checker) unreadable(path string, t *token.Token, format string, args ...any) {
	if len(c.problems) < maxProblems {
		c.problems = append(c.problems, problemFor(c.source.file, t, fmt.Sprintf(format, args...)))
		c.faulty = append(c.faulty, path)
	}
}

var nodeType = reflect.TypeFor[ast.Node]()

// value fills v, which can be set. at is the token to point at.
func (c *checker) value(path string, at *token.Token, node ast.Node, v reflect.Value) {
	switch n := node.(type) {
	case nil, *ast.NullNode:
		return
	case *ast.AnchorNode, *ast.AliasNode:
		c.unreadable(path, node.GetToken(), "anchors and aliases are not allowed; write the value out")
		return
	case *ast.TagNode:
		c.unreadable(path, n.GetToken(), "tags are not allowed; write the value without%s, or in quotes", cmp.Or(c.quote(n.GetToken().Value), " it"))
		return
	}
	if v.Type() == nodeType {
		v.Set(reflect.ValueOf(node))
		return
	}
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		s, scalar := scalarText(node)
		if !scalar {
			c.wrongType(path, at, node, "a text")
		} else if err := text.UnmarshalText([]byte(s)); err != nil {
			c.unreadable(path, at, "%v", err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		c.value(path, at, node, v.Elem())
	case reflect.Struct:
		c.structure(path, at, node, v)
	case reflect.Map:
		c.mapping(path, at, node, v)
	case reflect.Slice:
		c.list(path, at, node, v)
	case reflect.String:
		s, ok := scalarText(node)
		if !ok {
			c.wrongType(path, at, node, "a text")
			return
		}
		v.SetString(s)
	case reflect.Bool:
		b, ok := node.(*ast.BoolNode)
		if !ok {
			c.wrongType(path, at, node, "true or false")
			return
		}
		v.SetBool(b.Value)
	case reflect.Int:
		c.integer(path, at, node, v)
	default:
		panic(fmt.Sprintf("no document has a field of type %s", v.Type()))
	}
}

func (c *checker) integer(path string, at *token.Token, node ast.Node, v reflect.Value) {
	n, ok := node.(*ast.IntegerNode)
	if !ok {
		c.wrongType(path, at, node, "a whole number")
		return
	}
	i, err := strconv.ParseInt(fmt.Sprint(n.Value), 10, v.Type().Bits())
	if err != nil {
		c.unreadable(path, at, "%s is larger than any number that is possible here", clip(n.GetToken().Value))
		return
	}
	v.SetInt(i)
}

func (c *checker) list(path string, at *token.Token, node ast.Node, v reflect.Value) {
	n, ok := node.(*ast.SequenceNode)
	if !ok {
		c.wrongType(path, at, node, "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Values), len(n.Values)))
	for i, e := range n.Values {
		c.value(item(path, i), firstToken(e), e, v.Index(i))
	}
}

func (c *checker) mapping(path string, at *token.Token, node ast.Node, v reflect.Value) {
	if !isMapping(node) {
		c.wrongType(path, at, node, "a mapping")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	c.entries(path, node, func(key string, e *ast.MappingValueNode) {
		value := reflect.New(v.Type().Elem()).Elem()
		c.value(inside(path, key), valueToken(e), e.Value, value)
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), value)
	})
}

func (c *checker) structure(path string, at *token.Token, node ast.Node, v reflect.Value) {
	if !isMapping(node) {
		c.wrongType(path, at, node, "a mapping")
		return
	}
	fields := fieldsOf(v.Type())
	c.entries(path, node, func(key string, e *ast.MappingValueNode) {
		i, ok := fields[key]
		if !ok {
			c.unreadable(inside(path, key), e.Key.GetToken(), "unknown field%s; check its spelling and its indentation", c.quote(key))
			return
		}
		c.value(inside(path, key), valueToken(e), e.Value, v.Field(i))
	})
}

// entries calls each for every entry of a mapping whose key is a text that did not stand there before.
func (c *checker) entries(path string, node ast.Node, each func(key string, e *ast.MappingValueNode)) {
	seen := map[string]*token.Token{}
	for _, e := range entries(node) {
		key, t := keyText(e.Key), e.Key.GetToken()
		switch first := seen[key]; {
		case key == "":
			c.unreadable(path, t, "the key of an entry is a text")
		case first != nil:
			c.unreadable(inside(path, key), t, "mapping key%s already defined on line %d; keep one of them", c.quote(key), first.Position.Line)
		default:
			seen[key] = t
			each(key, e)
		}
	}
}

func isMapping(node ast.Node) bool {
	switch node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return true
	}
	return false
}

func (c *checker) wrongType(path string, at *token.Token, node ast.Node, want string) {
	c.unreadable(path, at, "this is %s; %s is wanted here", nodeName(node), want)
}

// nodeName says in words what a node is.
func nodeName(node ast.Node) string {
	switch node.(type) {
	case *ast.SequenceNode:
		return "a list"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.IntegerNode:
		return "a whole number"
	case *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return "a number with a fraction"
	case *ast.BoolNode:
		return "true or false"
	}
	return "a text"
}

// knownFields holds what fieldsOf found, by type.
var knownFields sync.Map

// fieldsOf maps the YAML names of a struct's fields to their indexes.
func fieldsOf(t reflect.Type) map[string]int {
	if known, ok := knownFields.Load(t); ok {
		return known.(map[string]int)
	}
	fields := map[string]int{}
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if name != "" && name != "-" {
			fields[name] = i
		}
	}
	known, _ := knownFields.LoadOrStore(t, fields)
	return known.(map[string]int)
}
