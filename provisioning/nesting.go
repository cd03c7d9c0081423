package provisioning

import "github.com/goccy/go-yaml/token"

// maxNesting is how deep lists and mappings may stand in one another on a line. Real documents need a handful.
const maxNesting = 64

// nesting returns the token at which a document is nested deeper than maxNesting, nil if it is nowhere. The YAML library
// takes memory with the square of the depth (measured: 10,000 brackets, 155 MiB; two million end the program), so it
// has to be known before parsing. Depth by indentation bounds itself, since each line repeats it.
func nesting(tokens token.Tokens) *token.Token {
	flow, dashes, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position != nil && t.Position.Line != line {
			dashes, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow = max(0, flow-1)
		case token.SequenceEntryType, token.MappingKeyType:
			dashes++
		}
		if flow > maxNesting || dashes > maxNesting {
			return t
		}
	}
	return nil
}

// maxKeys is how many keys one document may have. Real documents need hundreds.
const maxKeys = 10_000

// crowded returns the token of the first key that is too many, nil if none is. The YAML library takes time with the square
// of a mapping's keys (measured: 100,000 take minutes, 10,000 less than half a second).
func crowded(tokens token.Tokens) *token.Token {
	keys := 0
	for _, t := range tokens {
		if t.Type == token.MappingValueType {
			if keys++; keys > maxKeys {
				return t
			}
		}
	}
	return nil
}
