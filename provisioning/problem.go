package provisioning

import (
	"fmt"
	"strings"
)

// Problem is one fault in a configuration file, with its place.
type Problem struct {
	// File is the file's name as the person gave it.
	File string `json:"file"`
	// Line and Column count from 1; 0 where the fault has no place.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Message says what is wrong and, after a semicolon or colon, what to write instead.
	Message string `json:"message"`
}

// String is "file:line:column: message".
func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, p.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems are the faults found in one go; as an error, one line each.
type Problems []Problem

// Error lists the problems, one line each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}
