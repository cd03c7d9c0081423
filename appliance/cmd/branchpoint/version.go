package main

import (
	"iter"
	"strings"
)

// version is the program's, set when it is built for release.
var version = "0.1"

// linesOf yields the lines of a text without their ends, leaving out empty ones.
func linesOf(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for line := range strings.Lines(text) {
			if line = strings.TrimRight(line, "\r\n"); line != "" && !yield(line) {
				return
			}
		}
	}
}
