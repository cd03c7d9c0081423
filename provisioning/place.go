package provisioning

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// source is where a document came from.
type source struct {
	// file is the file's name, for people.
	file string
	// node is the document's syntax tree; nil where it did not come from a file, or is read from text when it is needed.
	node ast.Node
	// text is the only document of a text whose tree is not kept: 20,000 trees would fill the memory of central.
	text string
}

// problem makes a Problem at the value that a path such as $.spec.steps[0].name names, or as near as there is something.
func (s *source) problem(path, message string) Problem {
	t, _ := s.locate(path)
	return problemFor(s.file, t, message)
}

// loaded is the source with its tree, for finding several places.
func (s source) loaded() source {
	if s.node == nil && s.text != "" {
		if nodes, _ := parse(File{Name: s.file, Text: []byte(s.text)}); len(nodes) == 1 {
			s.node = nodes[0]
		}
	}
	return s
}

// locate finds the token to point at for a path, and the part of the path that exists.
func (s *source) locate(path string) (*token.Token, string) {
	node := s.loaded().node
	if node == nil {
		return nil, path
	}
	at, found := firstToken(node), "$"
	for _, step := range pathSteps(path) {
		next, t := child(node, step)
		if t == nil {
			break
		}
		node, at = next, t
		found += step
	}
	return at, found
}

// pathSteps takes a path apart: "$.spec.steps[0]" is ".spec", ".steps", "[0]".
func pathSteps(path string) []string {
	path = strings.TrimPrefix(path, "$")
	var steps []string
	for path != "" {
		n := strings.IndexAny(path[1:], ".[") + 1
		if n == 0 {
			n = len(path)
		}
		steps, path = append(steps, path[:n]), path[n:]
	}
	return steps
}

// child goes one step from a node. It returns a nil token where there is nothing.
func child(node ast.Node, step string) (ast.Node, *token.Token) {
	if name, ok := strings.CutPrefix(step, "."); ok {
		for _, e := range entries(node) {
			if keyText(e.Key) == name {
				return e.Value, valueToken(e)
			}
		}
		return nil, nil
	}
	i, err := strconv.Atoi(strings.Trim(step, "[]"))
	list, ok := node.(*ast.SequenceNode)
	if !ok || err != nil || i < 0 || i >= len(list.Values) {
		return nil, nil
	}
	return list.Values[i], firstToken(list.Values[i])
}

// entries are the entries of a mapping, none of any other node. The library has one type for mappings of one entry.
func entries(node ast.Node) []*ast.MappingValueNode {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// keyText is a mapping's key as it stands there, "" where it is no scalar.
func keyText(k ast.Node) string {
	if explicit, ok := k.(*ast.MappingKeyNode); ok { // ? key
		if explicit.Value == nil {
			return ""
		}
		return keyText(explicit.Value)
	}
	text, _ := scalarText(k)
	return text
}

// scalarText is a scalar as it stands there, without quotes; false where the node is no scalar. Nothing, and null, are "".
func scalarText(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		if n.Value == nil {
			return "", true
		}
		return n.Value.Value, true
	case *ast.NullNode:
		return "", true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

// valueToken is the token to point at for an entry of a mapping: its value, or its key where the value begins below.
func valueToken(e *ast.MappingValueNode) *token.Token {
	switch v := e.Value.(type) {
	case nil, *ast.NullNode:
		return e.Key.GetToken()
	case *ast.MappingNode:
		if !v.IsFlowStyle {
			return e.Key.GetToken()
		}
	case *ast.MappingValueNode:
		if !v.IsFlowStyle {
			return e.Key.GetToken()
		}
	case *ast.SequenceNode:
		if !v.IsFlowStyle {
			return e.Key.GetToken()
		}
	}
	return e.Value.GetToken()
}

// firstToken is a node's first one: of a block mapping the library gives the colon.
func firstToken(node ast.Node) *token.Token {
	if m, ok := node.(*ast.MappingNode); ok && m.IsFlowStyle {
		return m.GetToken()
	}
	if es := entries(node); len(es) > 0 {
		return es[0].Key.GetToken()
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

// syntaxProblem turns an error of the YAML library into a Problem.
func syntaxProblem(file string, err error) Problem {
	var ye yaml.Error
	if errors.As(err, &ye) {
		message, _, _ := strings.Cut(ye.GetMessage(), `: "`) // what it quotes after that may be a secret
		return problemFor(file, ye.GetToken(), message)
	}
	return Problem{File: file, Message: err.Error()}
}

// inOrder sorts the problems of one file by place.
func (p Problems) inOrder() Problems {
	slices.SortStableFunc(p, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return p
}

// atMost keeps the first n problems, and says how many more there are.
func (p Problems) atMost(n int) Problems {
	if len(p) <= n {
		return p
	}
	return append(p[:n:n], Problem{File: p[0].File, Message: fmt.Sprintf("there are %d more problems; correct these first", len(p)-n)})
}

// within reports whether path is inside of outer, or outer itself.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// inside is the path of a mapping's entry. A key that would be taken for several steps has its mapping's.
func inside(path, key string) string {
	if key == "" || strings.ContainsAny(key, ".[]") {
		return path
	}
	return path + "." + key
}

func item(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// ProblemInText makes a Problem at a line and a column of a text, each from 1. Where it cannot be told where in the file that
// is, because the text is folded or has escapes, it is at the text itself.
func (o *Object) ProblemInText(path string, line, column int, format string, args ...any) Problem {
	p := o.Problem(path, format, args...)
	t, found := o.source.locate(path)
	if t == nil || found != path {
		return p
	}
	switch t.Type {
	case token.LiteralType: // the text begins on the next line, with blanks that are not its own
		if t.Next == nil {
			return p
		}
		p.Line += line
		p.Column = column + indentation(t.Next.Origin)
	case token.SingleQuoteType, token.DoubleQuoteType:
		if line == 1 && !strings.Contains(t.Origin, "\\") {
			p.Column += column
		}
	case token.StringType:
		if line == 1 {
			p.Column += column - 1
		}
	}
	return p
}

// indentation is how many blanks the first line of a block has that is not empty.
func indentation(block string) int {
	for l := range strings.Lines(block) {
		if text := strings.TrimLeft(l, " "); strings.TrimSpace(text) != "" {
			return len(l) - len(text)
		}
	}
	return 0
}
