package provisioning

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// AccountAdmin is the built-in account, whose token central writes into its data folder. It may do everything.
const AccountAdmin = "admin"

// Actor is who does something at central, and from where. It travels in the context of a request.
type Actor struct {
	// Account is the account's name, "site LON" for a branch; empty where central acts by itself.
	Account string
	// From is the network address that the request came from, without port; empty where there was none.
	From string
}

type actorKey struct{}

// WithActor returns a context in which a acts.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorOf returns who acts in ctx, the zero Actor where nobody was named.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

// AuditEntry is one change at central.
type AuditEntry struct {
	// Number counts the entries, from 1.
	Number uint64    `json:"number"`
	At     time.Time `json:"at"`
	// Account and From are those of the Actor.
	Account string `json:"account"`
	From    string `json:"from,omitempty"`
	// Action is what was done, one word such as apply, or a few.
	Action string `json:"action"`
	// Kind and Name say to what: a document, or an account, an API token, an enrolment token, a site's certificate, the
	// root key, the console of a site's appliance.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Site is the site that it concerns, where it is one.
	Site string `json:"site,omitempty"`
	// Change is the number of the configuration's change, 0 where it was none.
	Change uint64 `json:"change,omitempty"`
	// Before and After are what stood there, without secrets; empty where there was nothing.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
}

// AuditFilter chooses audit entries, newest first. Empty fields choose all.
type AuditFilter struct {
	// Before is the number below which entries are wanted: the last one of the page before; 0 begins with the newest.
	Before  uint64
	Account string
	Kind    string
	Name    string
	Site    string
	// Limit is how many at most, 1 to 1000; 0 means 100.
	Limit int
}

// Redacted stands where a secret was.
const Redacted = "(redacted)"

// secretWords are parts of the names under which secrets stand in documents and variables.
var secretWords = []string{
	"password", "passwd", "pwd", "passphrase", "passcode", "secret", "token", "credential", "privatekey", "productkey", "apikey", "accesskey",
}

// releasing are lines of a Site document that say after what secrets are handed out: who changed that is to be seen.
var releasing = map[string]bool{
	"secretsAfter: " + string(SecretsAfterPassword): true, "secretsAfter: " + string(SecretsAfterApproval): true, "secretsAfter: " + string(SecretsAfterTPM): true,
	"secretsAfter: " + string(SecretsKnown): true,
}

func secretName(name string) bool {
	name = strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(name))
	for _, w := range secretWords {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

// Redact returns a document's canonical text (Object.Encode) with Redacted in place of each value whose name says that it is a
// secret, such as passwordHash or a variable DomainPassword. Secrets inside of other texts, such as command lines, cannot be
// known.
func Redact(text string) string {
	if !secretName(text) {
		return text
	}
	var out strings.Builder
	hidden := -1 // how deep the secret's name stands whose lines are left out, -1 while there is none
	for line := range strings.Lines(text) {
		indent, name, value := cutLine(line)
		if hidden >= 0 && len(indent) > hidden {
			continue
		}
		hidden = -1
		if !secretName(name) || releasing[strings.TrimSpace(line)] {
			out.WriteString(line)
			continue
		}
		if value == "" {
			hidden = len(indent)
		}
		out.WriteString(indent + name + ": " + Redacted + "\n")
	}
	return out.String()
}

// cutLine cuts a line of canonical text into what stands before its name, its name as it is written, and its value; the name
// is empty where there is none.
func cutLine(line string) (indent, name, value string) {
	rest := strings.TrimLeft(strings.TrimRight(line, "\n"), " -")
	indent = line[:strings.Index(line, rest)]
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		name, value = quoted, rest[len(quoted):]
	} else if i := strings.IndexByte(rest, ':'); i >= 0 {
		name, value = rest[:i], rest[i:]
	}
	value, ok := strings.CutPrefix(value, ":")
	if !ok {
		return indent, "", ""
	}
	return indent, name, strings.TrimSpace(value)
}
