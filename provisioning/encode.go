package provisioning

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Encode returns the document's canonical text: YAML with every field in the order of its type, without comments, and
// with addresses in canonical form. What means the same encodes to the same bytes.
func (o *Object) Encode() (string, error) {
	spec := o.spec()
	if spec == nil {
		return "", Errorf(CodeInternal, "", "encode %s %q: there is no such document", clip(string(o.Kind)), clip(o.Name))
	}
	// By way of JSON, whose tags are the fields' YAML names: the YAML library leaves out empty structs that mean
	// something, such as restart: {}, and changes some strings (measured: tabs, CR LF).
	b, err := json.Marshal(struct {
		APIVersion string   `json:"apiVersion"`
		Kind       Kind     `json:"kind"`
		Metadata   metadata `json:"metadata"`
		Spec       any      `json:"spec"`
	}{APIVersion, o.Kind, metadata{o.Name}, spec})
	if err != nil {
		return "", Errorf(CodeInternal, "", "encode %s %s: %w", o.Kind, o.Name, err)
	}
	return jsonToYAML(b)
}

// Decode reads the document back.
func (d *Document) Decode() (Object, error) {
	file := fmt.Sprintf("stored %s %s", d.Kind, d.Name)
	objects, ps := Decode(File{Name: file, Text: []byte(d.Text)})
	if len(ps) > 0 {
		return Object{}, Errorf(CodeCorrupt, "", "read stored %s %s: %w", d.Kind, d.Name, ps)
	}
	if len(objects) != 1 || objects[0].Key() != d.Key() {
		return Object{}, Errorf(CodeCorrupt, "", "stored %s %s holds another document", d.Kind, d.Name)
	}
	objects[0].source = source{file: file, text: d.Text}
	return objects[0], nil
}

// jsonToYAML writes a JSON object as block YAML, in the same order. Strings that are no plain words are quoted as JSON
// quotes them, which YAML reads alike (YAML 1.2.2 section 1.3).
func jsonToYAML(b []byte) (string, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var w strings.Builder
	if err := yamlValue(&w, d, "", false); err != nil {
		return "", Errorf(CodeInternal, "", "encode document: %w", err)
	}
	return strings.TrimPrefix(w.String(), "\n"), nil
}

// yamlValue writes the next value after a key or a dash; inList says it stands after a dash.
func yamlValue(w *strings.Builder, d *json.Decoder, indent string, inList bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		w.WriteString(" " + yamlScalar(t) + "\n")
		return nil
	}
	if !d.More() {
		w.WriteString(map[json.Delim]string{'{': " {}\n", '[': " []\n"}[delim])
		_, err := d.Token()
		return err
	}
	if inList {
		w.WriteString(" ")
	} else {
		w.WriteString("\n")
	}
	for first := true; d.More(); first = false {
		if !inList || !first {
			w.WriteString(indent)
		}
		if delim == '[' {
			w.WriteString("-")
			if err := yamlValue(w, d, indent+"  ", true); err != nil {
				return err
			}
			continue
		}
		key, err := d.Token()
		if err != nil {
			return err
		}
		w.WriteString(yamlScalar(key) + ":")
		if err := yamlValue(w, d, indent+"  ", false); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// plainWord is text that YAML reads as that text without quotes, unless it is one of notText.
var plainWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_./-]*$`)

// notText are the plain words that some version of YAML reads as something other than text.
var notText = []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}

func yamlScalar(t json.Token) string {
	switch v := t.(type) {
	case string:
		if plainWord.MatchString(v) && !slices.Contains(notText, strings.ToLower(v)) {
			return v
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			panic(err) // a string always encodes
		}
		return strings.TrimSuffix(b.String(), "\n")
	case nil:
		return "null"
	}
	return fmt.Sprint(t)
}
