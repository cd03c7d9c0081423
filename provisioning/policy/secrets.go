package policy

import (
	"maps"
	"slices"
	"strings"

	"branchpoint/provisioning"
)

// Secret is one that a task sequence needs on a computer.
type Secret struct {
	// Variable is the name of the variable, in upper case.
	Variable string
	// Place is where its value stands in Snapshot.Secrets.
	Place string
}

// indexSecrets notes for each sequence which of the variables that it refers to are secrets of anything in the snapshot.
func (p *Policy) indexSecrets() {
	secret := map[string]bool{}
	note := func(secrets map[string]string) {
		for name := range secrets {
			secret[strings.ToUpper(name)] = true
		}
	}
	for i := range p.snapshot.Computers {
		note(p.snapshot.Computers[i].Spec.Secrets)
	}
	for i := range p.snapshot.Collections {
		note(p.snapshot.Collections[i].Spec.Secrets)
	}
	for i := range p.snapshot.TaskSequences {
		note(p.snapshot.TaskSequences[i].Spec.Secrets)
	}
	if len(secret) == 0 {
		return
	}
	p.refers = map[string][]string{}
	for i := range p.snapshot.TaskSequences {
		ts := &p.snapshot.TaskSequences[i]
		for _, name := range slices.Sorted(maps.Keys(ts.Refers())) {
			if secret[name] {
				p.refers[ts.Name] = append(p.refers[ts.Name], name)
			}
		}
	}
}

// secrets are those that a sequence refers to and that are set for the computer, by the precedence of variables: a variable that
// is none and comes first leaves nothing secret.
func (q *question) secrets(sequence string) []Secret {
	var out []Secret
	for _, name := range q.p.refers[sequence] {
		if s, ok := q.secret(sequence, name); ok {
			out = append(out, s)
		}
	}
	return out
}

func (q *question) secret(sequence, name string) (Secret, bool) {
	in := func(kind provisioning.Kind, document string, secrets, variables map[string]string) (s Secret, secret, found bool) {
		if has(variables, name) {
			return s, false, true
		}
		found = has(secrets, name)
		return Secret{name, provisioning.SecretPlace(kind, document, name)}, found, found
	}
	if c := q.computer; c != nil {
		if s, secret, found := in(provisioning.KindComputer, c.Name, c.Spec.Secrets, c.Spec.Variables); found {
			return s, secret
		}
		for i, of := range q.p.collectionSpecs {
			if s, secret, found := in(provisioning.KindCollection, of.Name, of.Spec.Secrets, of.Spec.Variables); found && q.member(i).Member {
				return s, secret
			}
		}
	}
	if ts := q.p.sequences[sequence]; ts != nil {
		if s, secret, found := in(provisioning.KindTaskSequence, ts.Name, ts.Spec.Secrets, ts.Spec.Variables); found {
			return s, secret
		}
	}
	return Secret{}, false
}

// has reports whether variables have one of that name, which is in upper case.
func has(variables map[string]string, name string) bool {
	for k := range variables {
		if strings.EqualFold(k, name) {
			return true
		}
	}
	return false
}

// withheld says why the secrets that a sequence needs are not handed out to the computer, "" where they are, or where it needs
// none. after is what they are handed out after, empty where there are none.
func (q *question) withheld(sequence string) (why string, after provisioning.SecretRelease) {
	needed := q.secrets(sequence)
	if len(needed) == 0 {
		return "", ""
	}
	after = q.p.SecretsAfter()
	needs := "needs secrets (" + needed[0].Variable
	for _, s := range needed[1:] {
		needs += ", " + s.Variable
	}
	needs += ")"
	switch {
	case q.computer == nil || q.discovered:
		return needs + ", which only computers with a record at central are given", after
	case q.p.snapshot.SecretsFor == "":
		return needs + ", and the site's appliance has not told central yet to whom they are to be encrypted", after
	case q.h.Recipient != nil && *q.h.Recipient == "":
		return needs + ", which cannot be opened by this appliance: its key is sealed, and cannot be had now", after
	case q.h.Recipient != nil && *q.h.Recipient != q.p.snapshot.SecretsFor:
		return needs + ", which cannot be opened by this appliance: central has encrypted them to another, and sends them once it has heard from this one", after
	case after == provisioning.SecretsKnown && q.shows(q.computer):
		return "", after
	case after == provisioning.SecretsKnown:
		return needs + ", which are handed out to a machine that has both an address of the record and its SMBIOS GUID; correct the record", after
	case after == provisioning.SecretsAfterApproval && q.h.Released[q.computer.Name]:
		return "", after
	case after == provisioning.SecretsAfterApproval:
		return needs + ", which a person has to approve at the appliance's console: approve secrets " + q.computer.Name, after
	case after == provisioning.SecretsAfterTPM && q.computer.Spec.TPM != "":
		return "", after
	case after == provisioning.SecretsAfterTPM:
		return needs + ", which are handed out to a computer that proves by its TPM which one it is, and its record names none: set tpm", after
	case after != provisioning.SecretsAfterPassword:
		return needs + ", and the site's secretsAfter says after what, which is one that this version does not know", after
	case q.p.role.PasswordHash == "":
		return needs + ", which are handed out after the site's password, and the site has none: set passwordHash, or secretsAfter: approval", after
	}
	return "", after
}

// shows reports whether the machine has all that the computer's record can be known by: one that leaves out its GUID, or has
// another address, is known all the same, and may be somebody else's.
func (q *question) shows(c *provisioning.Computer) bool {
	return (len(c.Spec.MACAddresses) == 0 || slices.Contains(c.Spec.MACAddresses, q.m.MAC)) && (c.Spec.SMBIOSGUID == "" || c.Spec.SMBIOSGUID == q.m.GUID)
}

// SecretsAfter is what the site hands secrets out after.
func (p *Policy) SecretsAfter() provisioning.SecretRelease {
	switch {
	case p.role == nil:
		return provisioning.SecretsAfterApproval
	case p.role.SecretsAfter != "":
		return p.role.SecretsAfter
	case p.role.PasswordHash != "":
		return provisioning.SecretsAfterPassword
	}
	return provisioning.SecretsAfterApproval
}

// releasable applies the rule about secrets to an advertisement.
func (q *question) releasable(a *advertisement) bool {
	why, after := q.withheld(a.Spec.TaskSequence)
	if why != "" {
		return q.no(RuleSecrets, a, why)
	}
	if after != "" {
		q.d.because(RuleSecrets, "advertisement "+a.Name+" needs secrets, which are handed out here: "+releases[after])
	}
	return true
}

var releases = map[provisioning.SecretRelease]string{
	provisioning.SecretsAfterPassword: "after the site's password",
	provisioning.SecretsAfterApproval: "a person has approved it",
	provisioning.SecretsAfterTPM:      "once its TPM has proved which computer it is",
	provisioning.SecretsKnown:         "to every known computer",
}

// Secrets are those that a computer's task sequence is run with on the machine m, by variable. A computer that the snapshot does not name gets
// none. It fails with CodeForbidden where the sequence needs some that are not handed out to it.
func (p *Policy) Secrets(m provisioning.Machine, computer, sequence string, h History) ([]Secret, error) {
	if p.snapshot == nil {
		return nil, nil
	}
	q := &question{p: p, m: m, h: &h, computer: p.computers[computer]}
	if q.computer != nil {
		q.past, q.abroad = h.runs(computer, ""), p.deployed.runs(computer, "")
	}
	if why, _ := q.withheld(sequence); why != "" {
		return nil, provisioning.Errorf(provisioning.CodeForbidden, "", "task sequence %s %s", sequence, why)
	}
	return q.secrets(sequence), nil
}
