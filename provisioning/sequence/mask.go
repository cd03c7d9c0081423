package sequence

import (
	"cmp"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"branchpoint/provisioning"
)

// masked stands where a secret was.
const masked = "(secret)"

// Mask hides the values of secrets in texts that are reported, shown or logged. It knows them as they are, line by line, and
// as messages quote them (%q of package fmt, JSON); what else a program makes of one, such as its base64 form, it does not know. The zero value hides nothing.
type Mask struct {
	values   []string // the longest first
	replacer *strings.Replacer
}

// NewMask makes a mask for secrets by variable.
func NewMask(secrets map[string]string) Mask {
	var m Mask
	for _, v := range secrets {
		for _, part := range append(strings.Split(v, "\n"), v) {
			if part = strings.TrimSpace(part); len(part) >= provisioning.MinSecret {
				m.values = append(m.values, part)
				m.values = append(m.values, quoted(part)...)
			}
		}
	}
	if len(m.values) == 0 {
		return m
	}
	// Of values that begin alike the longest is replaced.
	slices.SortFunc(m.values, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	m.values = slices.Compact(m.values)
	var pairs []string
	for _, v := range m.values {
		pairs = append(pairs, v, masked)
	}
	m.replacer = strings.NewReplacer(pairs...)
	return m
}

// quoted are the forms that a text has between quotation marks.
func quoted(s string) []string {
	forms := []string{strconv.Quote(s), strconv.QuoteToASCII(s)}
	for _, html := range []bool{false, true} { // whether <, > and & are escaped
		var b strings.Builder
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(html)
		if e.Encode(s) == nil { // which a string always is
			forms = append(forms, strings.TrimSuffix(b.String(), "\n"))
		}
	}
	for i, f := range forms {
		forms[i] = f[1 : len(f)-1]
	}
	return forms
}

// Text hides what is secret in s. At the beginning of s, which may have been cut off, the end of a secret is hidden, too.
func (m Mask) Text(s string) string {
	if m.replacer == nil {
		return s
	}
	s = m.replacer.Replace(s)
	cut := 0
	for _, v := range m.values {
		for n := len(v) - 1; n >= provisioning.MinSecret && n > cut; n-- {
			if strings.HasPrefix(s, v[len(v)-n:]) {
				cut = n
			}
		}
	}
	if cut > 0 {
		s = masked + s[cut:]
	}
	return s
}

// Err hides what is secret in an error. One that has nothing to hide stays as it is.
func (m Mask) Err(err error) error {
	if err == nil || m.Text(withNext(err)) == withNext(err) {
		return err
	}
	return provisioning.Errorf(provisioning.CodeOf(err), m.Text(provisioning.NextOf(err)), "%s", m.Text(err.Error()))
}

// Result hides what is secret in a step's result.
func (m Mask) Result(r Result) Result {
	r.Text, r.Output, r.Err = m.Text(r.Text), m.Text(r.Output), m.Err(r.Err)
	return r
}
