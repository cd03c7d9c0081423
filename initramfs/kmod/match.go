package kmod

import "strings"

// normalise writes '_' for '-' outside of brackets, as depmod and modprobe do with module names and aliases.
func normalise(s string) string {
	if !strings.Contains(s, "-") {
		return s
	}
	b := []byte(s)
	depth := false
	for i, c := range b {
		switch {
		case c == '[':
			depth = true
		case c == ']':
			depth = false
		case c == '-' && !depth:
			b[i] = '_'
		}
	}
	return string(b)
}

// match is fnmatch(3) without flags and without backslashes, which aliases of the kernel never hold: '*' any run, '?' one
// character, [a-f0-9] one of a set, [!…] one not of it. An unclosed '[' stands for itself. Time is at most the product of
// both lengths.
func match(pattern, s string) bool {
	p, i := 0, 0
	star, mark := -1, 0
	for i < len(s) {
		if p < len(pattern) {
			switch c := pattern[p]; c {
			case '*':
				star, mark = p, i
				p++
				continue
			case '?':
				p++
				i++
				continue
			case '[':
				if ok, next := matchSet(pattern, p, s[i]); next > 0 {
					if ok {
						p, i = next, i+1
						continue
					}
				} else if s[i] == '[' {
					p, i = p+1, i+1
					continue
				}
			default:
				if c == s[i] {
					p, i = p+1, i+1
					continue
				}
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchSet decides whether c is in the set that starts at pattern[at], and returns where the pattern goes on; 0 if the set
// is never closed.
func matchSet(pattern string, at int, c byte) (in bool, next int) {
	p := at + 1
	negated := p < len(pattern) && (pattern[p] == '!' || pattern[p] == '^')
	if negated {
		p++
	}
	for first := true; p < len(pattern); first = false {
		lo := pattern[p]
		if lo == ']' && !first {
			return in != negated, p + 1
		}
		hi := lo
		p++
		if p+1 < len(pattern) && pattern[p] == '-' && pattern[p+1] != ']' {
			hi = pattern[p+1]
			p += 2
		}
		if lo <= c && c <= hi {
			in = true
		}
	}
	return false, 0
}
