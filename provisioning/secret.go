package provisioning

import (
	"encoding/json"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// SealedPrefix begins what central keeps of a secret in the place of its value. Nobody but central can open it, and only in
// the place that it was sealed for (SecretPlace).
const SealedPrefix = "sealed:"

// Bounds of a secret's value, in bytes. A shorter one would be hidden from what commands print together with half of the rest.
const (
	MinSecret = 4
	MaxSecret = 4096
)

// maxSealed bounds the sealed form: the value with nonce and tag, in base64.
const maxSealed = 2 * MaxSecret

// SecretPlace names a secret: the kind and the name of its document, and the variable, whose case does not count.
func SecretPlace(kind Kind, name, variable string) string {
	return string(kind) + "/" + name + "/" + strings.ToUpper(variable)
}

// SecretRelease says when a site's appliance hands out secrets.
type SecretRelease string

// When secrets are handed out. Computers that no record names never get any.
const (
	// SecretsAfterPassword: once the site's password has been given in this start of the computer.
	SecretsAfterPassword SecretRelease = "password"
	// SecretsAfterApproval: once a person at the appliance's console has approved it for the computer.
	SecretsAfterApproval SecretRelease = "approval"
	// SecretsAfterTPM: once the computer has proved, by a key that does not leave its TPM, that this is the one its record names.
	SecretsAfterTPM SecretRelease = "tpm"
	// SecretsKnown: to every computer that has a record. Whoever can send DHCP packets in its name gets them.
	SecretsKnown SecretRelease = "known"
)

// secrets checks secret variables beside the variables that are none. No message has a value in it, nor a name that may be a part
// of one: of {Join: first,second} the name is second.
func (c *checker) secrets(path string, secrets, vars map[string]string) {
	names := make(map[string]string, len(secrets))
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		at, v := inside(path, name), secrets[name]
		if err := CheckVariable(name, ""); err != nil {
			c.add(at, "this is no name of a secret: use letters, digits and underscores, beginning with a letter, at most 128")
			continue
		}
		if names[strings.ToUpper(name)] != "" {
			c.add(at, "two secrets have this name: case does not count")
		}
		names[strings.ToUpper(name)] = name
		switch {
		case strings.HasPrefix(v, SealedPrefix):
			if len(v) > maxSealed {
				c.add(at, "the secret is sealed with %d bytes; at most %d are possible", len(v), maxSealed)
			}
		case len(v) < MinSecret || len(v) > MaxSecret:
			c.add(at, "the secret has a value of %d bytes; %d to %d are possible", len(v), MinSecret, MaxSecret)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if secret, ok := names[strings.ToUpper(name)]; ok {
			c.add(inside(path, secret), "the secret is a variable as well; keep one of them")
		}
	}
}

// Secrets are the document's secret variables, nil where it has none. They are not to be changed.
func (o *Object) Secrets() map[string]string {
	if f := o.secretsField(); f.IsValid() {
		return f.Interface().(map[string]string)
	}
	return nil
}

// WithSecrets returns the document with other secret variables. It must have some.
func (o *Object) WithSecrets(secrets map[string]string) Object {
	out := *o
	document := reflect.New(o.field().Type().Elem())
	document.Elem().Set(o.field().Elem())
	out.field().Set(document)
	out.secretsField().Set(reflect.ValueOf(secrets))
	return out
}

// secretsField is the field of the document's spec, the zero Value for kinds without.
func (o *Object) secretsField() reflect.Value {
	if o.spec() == nil {
		return reflect.Value{}
	}
	return o.field().Elem().FieldByName("Spec").FieldByName("Secrets")
}

// variableReference is how a text refers to a variable; sequence.Variables.Expand replaces it.
var variableReference = regexp.MustCompile(`%([A-Za-z_][A-Za-z0-9_]{0,127})%`)

// Refers returns the names, in upper case, of the variables that the texts of the sequence's steps refer to. It may return more.
func (ts *TaskSequence) Refers() map[string]bool {
	out := map[string]bool{}
	for i := range ts.Spec.Steps {
		b, err := json.Marshal(ts.Spec.Steps[i])
		if err != nil {
			panic(err) // a step always encodes: it came from a document
		}
		// A percent sign can end one reference and begin another, so matches overlap.
		for at := 0; ; {
			m := variableReference.FindSubmatchIndex(b[at:])
			if m == nil {
				break
			}
			out[strings.ToUpper(string(b[at+m[2]:at+m[3]]))] = true
			at += m[1] - 1
		}
	}
	return out
}

// SecretOf is one secret of a snapshot.
type SecretOf struct {
	// Place is SecretPlace, and Value what stands there.
	Place, Value string
}

// AllSecrets are the secrets of the snapshot's computers, collections and task sequences, in no order.
func (s *Snapshot) AllSecrets() []SecretOf {
	var out []SecretOf
	s.eachSecrets(func(kind Kind, name string, secrets *map[string]string) {
		for variable, v := range *secrets {
			out = append(out, SecretOf{SecretPlace(kind, name, variable), v})
		}
	})
	return out
}

// BlankSecrets takes the values of the secrets out of the snapshot and leaves their names. What it shares with others stays as
// it is.
func (s *Snapshot) BlankSecrets() {
	s.eachSecrets(func(_ Kind, _ string, secrets *map[string]string) {
		blank := make(map[string]string, len(*secrets))
		for variable := range *secrets {
			blank[variable] = ""
		}
		*secrets = blank
	})
}

// onlySecrets keeps the secrets that its task sequences refer to. What it shares with others stays as it is.
func (s *Snapshot) onlySecrets() {
	refers := map[string]bool{}
	for i := range s.TaskSequences {
		maps.Copy(refers, s.TaskSequences[i].Refers())
	}
	s.eachSecrets(func(_ Kind, _ string, secrets *map[string]string) {
		kept := map[string]string{}
		for variable, v := range *secrets {
			if refers[strings.ToUpper(variable)] {
				kept[variable] = v
			}
		}
		if *secrets = kept; len(kept) == 0 {
			*secrets = nil
		}
	})
}

// SecretSequences are the names of the snapshot's task sequences that need secrets on some of its computers, sorted: those that
// refer to a secret of a computer, of a collection, or of their own.
func (s *Snapshot) SecretSequences() []string {
	common := map[string]bool{}
	own := map[string]map[string]bool{}
	s.eachSecrets(func(kind Kind, name string, secrets *map[string]string) {
		to := common
		if kind == KindTaskSequence {
			to = map[string]bool{}
			own[name] = to
		}
		for variable := range *secrets {
			to[strings.ToUpper(variable)] = true
		}
	})
	var out []string
	for i := range s.TaskSequences {
		ts := &s.TaskSequences[i]
		for variable := range ts.Refers() {
			if common[variable] || own[ts.Name][variable] {
				out = append(out, ts.Name)
				break
			}
		}
	}
	slices.Sort(out)
	return out
}

// eachSecrets calls do for each document of the snapshot that has secrets.
func (s *Snapshot) eachSecrets(do func(kind Kind, name string, secrets *map[string]string)) {
	some := func(kind Kind, name string, secrets *map[string]string) {
		if len(*secrets) > 0 {
			do(kind, name, secrets)
		}
	}
	for i := range s.Computers {
		some(KindComputer, s.Computers[i].Name, &s.Computers[i].Spec.Secrets)
	}
	for i := range s.Collections {
		some(KindCollection, s.Collections[i].Name, &s.Collections[i].Spec.Secrets)
	}
	for i := range s.TaskSequences {
		some(KindTaskSequence, s.TaskSequences[i].Name, &s.TaskSequences[i].Spec.Secrets)
	}
}
