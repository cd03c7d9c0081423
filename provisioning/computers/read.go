package computers

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"branchpoint/provisioning"
)

// record is one line of a list.
type record struct {
	line int
	// cells are as many as there are headings, and good until the next line is read: a list may have very many.
	cells []string
	// problem says why the line cannot be read; then there are no cells.
	problem string
}

// field is what a column holds.
type field int

const (
	fieldNone field = iota // the column has no heading
	fieldName
	fieldMAC
	fieldGUID
	fieldSource
	fieldSite
	fieldDescription
	fieldVariable
)

// heading is a column's.
type heading struct {
	field    field
	variable string
}

// headings are the usual ones, in lower case and without blanks, hyphens and underscores.
var headings = map[string]field{
	"name": fieldName, "computer": fieldName, "computername": fieldName, "hostname": fieldName,
	"mac": fieldMAC, "macs": fieldMAC, "macaddress": fieldMAC, "macaddresses": fieldMAC,
	"guid": fieldGUID, "uuid": fieldGUID, "smbiosguid": fieldGUID, "smbiosuuid": fieldGUID,
	"source": fieldSource, "sourcecomputer": fieldSource,
	"site": fieldSite, "sitecode": fieldSite,
	"description": fieldDescription,
}

// read takes a list apart, and calls each for every line in which something stands. It fails with provisioning.Problems.
func read(f provisioning.File, each func([]heading, record)) error {
	fail := func(line int, format string, args ...any) error {
		p := provisioning.Problem{File: f.Name, Line: line, Message: fmt.Sprintf(format, args...)}
		if line > 0 {
			p.Column = 1
		}
		return provisioning.Problems{p}
	}
	text := bytes.TrimPrefix(f.Text, []byte("\ufeff"))
	switch {
	case len(f.Text) > MaxSize:
		return fail(0, "the list has %d bytes; at most %d are read", len(f.Text), MaxSize)
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}), bytes.IndexByte(text, 0) >= 0:
		return fail(0, "the list is no text in UTF-8; in a spreadsheet, save it as \"CSV UTF-8\"")
	case !utf8.Valid(text):
		return fail(invalidLine(text), "the list is no text in UTF-8 from here on; in a spreadsheet, save it as \"CSV UTF-8\"")
	}
	comma, skipped := separator(text)
	for range skipped {
		_, text, _ = bytes.Cut(text, []byte("\n"))
	}
	r := csv.NewReader(bytes.NewReader(text))
	r.Comma, r.FieldsPerRecord, r.ReuseRecord = comma, -1, true
	r.TrimLeadingSpace = comma != '\t' // else it would trim separators
	first, err := r.Read()
	if errors.Is(err, io.EOF) {
		return fail(0, "the list is empty; it begins with a line of headings such as name,mac,smbios guid,source computer")
	}
	if err != nil {
		return fail(lineOf(err)+skipped, "the headings cannot be read: %v", cause(err))
	}
	line, _ := r.FieldPos(0)
	t, ps := columns(f.Name, line+skipped, first)
	if len(ps) > 0 {
		return ps
	}
	buffer := make([]string, len(t))
	for n := 0; ; {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if n == MaxLines {
			return fail(0, "the list has more than %d lines; import it in parts", MaxLines)
		}
		if err != nil {
			each(t, record{line: lineOf(err) + skipped, problem: "the line cannot be read: " + cause(err)})
			n++
			continue
		}
		line, _ := r.FieldPos(0)
		clear(buffer)
		if rec := (record{line: line + skipped, cells: buffer}); rec.fill(t, cells) {
			each(t, rec)
			n++
		}
	}
}

// fill takes a line's cells, and reports whether something stands in it.
func (r *record) fill(columns []heading, cells []string) bool {
	some := false
	for i, c := range cells {
		if strings.TrimSpace(c) == "" {
			continue
		}
		some = true
		switch {
		case i >= len(columns):
			r.problem = fmt.Sprintf("the line has %d cells, the headings are %d; a cell that holds the separator stands in quotes", len(cells), len(columns))
			return true
		case columns[i].field == fieldNone:
			r.problem = fmt.Sprintf("cell %d is in a column without heading", i+1)
			return true
		case len(c) > MaxCell:
			r.problem = fmt.Sprintf("cell %d has %d bytes; at most %d are possible. Is a quotation mark missing?", i+1, len(c), MaxCell)
			return true
		}
		r.cells[i] = c
	}
	return some
}

// columns reads the headings.
func columns(file string, line int, cells []string) ([]heading, provisioning.Problems) {
	var ps provisioning.Problems
	fail := func(i int, format string, args ...any) {
		ps = append(ps, provisioning.Problem{File: file, Line: line, Column: 1, Message: fmt.Sprintf("column %d: ", i+1) + fmt.Sprintf(format, args...)})
	}
	if len(cells) > MaxColumns {
		return nil, provisioning.Problems{{File: file, Line: line, Column: 1, Message: fmt.Sprintf("the list has %d columns; at most %d are read", len(cells), MaxColumns)}}
	}
	out := make([]heading, len(cells))
	seen := map[heading]int{}
	for i, c := range cells {
		c = strings.TrimSpace(c)
		if c == "" {
			continue
		}
		h := heading{field: headings[strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(c))]}
		if len(c) > 4 && strings.EqualFold(c[:4], "var:") {
			h = heading{fieldVariable, strings.TrimSpace(c[4:])}
			if err := provisioning.CheckVariable(h.variable, ""); err != nil {
				fail(i, "%v", err)
				continue
			}
		}
		if h.field == fieldNone {
			fail(i, "%.64q is no heading; write name, mac, smbios guid, source computer, site, description, or var:NAME for a variable", c)
			continue
		}
		key := heading{h.field, strings.ToUpper(h.variable)}
		if first, ok := seen[key]; ok {
			fail(i, "%.64q says the same as column %d", c, first+1)
		}
		seen[key], out[i] = i, h
	}
	if _, ok := seen[heading{field: fieldName}]; !ok && len(ps) == 0 {
		ps = append(ps, provisioning.Problem{File: file, Line: line, Column: 1, Message: "there is no column name; a list begins with a line of headings such as name,mac,smbios guid,source computer"})
	}
	return out, ps
}

// separator finds what separates the columns: what the first line has most of outside of quotes, or what a line "sep=;"
// above it says, as spreadsheets write. skipped are the lines above the headings.
func separator(text []byte) (comma rune, skipped int) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	for len(bytes.TrimSpace(line)) == 0 && len(text) > len(line) {
		text = text[len(line)+1:]
		line, _, _ = bytes.Cut(text, []byte("\n"))
		skipped++
	}
	if s, ok := bytes.CutPrefix(bytes.TrimRight(line, "\r"), []byte("sep=")); ok && len(s) == 1 && bytes.Contains([]byte(",;\t"), s) {
		return rune(s[0]), skipped + 1
	}
	counts := map[rune]int{}
	quoted := false
	for _, c := range string(line) {
		if c == '"' {
			quoted = !quoted
		}
		if !quoted {
			counts[c]++
		}
	}
	comma = ','
	for _, c := range []rune{';', '\t'} {
		if counts[c] > counts[comma] {
			comma = c
		}
	}
	return comma, skipped
}

// invalidLine is the line of the first bytes that are no UTF-8, from 1.
func invalidLine(text []byte) int {
	line := 1
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		if r == utf8.RuneError && n == 1 {
			break
		}
		if r == '\n' {
			line++
		}
		text = text[n:]
	}
	return line
}

// lineOf is the line at which what could not be read begins.
func lineOf(err error) int {
	if e, ok := errors.AsType[*csv.ParseError](err); ok {
		return e.StartLine
	}
	return 0
}

// cause says in words why a line cannot be read.
func cause(err error) string {
	switch {
	case errors.Is(err, csv.ErrQuote):
		return "a quotation mark is missing, or one inside of quotes is not written twice"
	case errors.Is(err, csv.ErrBareQuote):
		return "a quotation mark stands inside of a cell that is not in quotes"
	}
	return err.Error()
}
