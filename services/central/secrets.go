package central

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode"

	"branchpoint/provisioning"

	"filippo.io/age"
)

// seal replaces the secrets that an edit sets by their sealed forms, under central's key and bound to their places. The value
// that is stored already keeps its form, so that applying it again changes nothing; a sealed form stays as it is. It fails with
// provisioning.Problems where one was sealed for another place, or elsewhere.
func (c *Central) seal(stored []provisioning.Document, e edit) error {
	var before provisioning.Catalog
	var problems provisioning.Problems
	for _, w := range e.set {
		given := w.object.Secrets()
		if len(given) == 0 {
			continue
		}
		if before == nil {
			var err error
			if before, err = c.decoded.catalog(stored); err != nil {
				return err
			}
		}
		old := before[w.object.Key()]
		kept := standingSecrets(&old)
		sealed := make(map[string]string, len(given))
		for _, name := range slices.Sorted(maps.Keys(given)) {
			place := provisioning.SecretPlace(w.object.Kind, w.object.Name, name)
			s, err := c.sealed(place, given[name], kept[strings.ToUpper(name)])
			if provisioning.CodeOf(err) == provisioning.CodeCorrupt {
				problems = append(problems, w.object.Problem("$.spec.secrets."+name,
					"%s was sealed for another document or variable, or by another central; write the value itself", name))
				continue
			}
			if err != nil {
				return err
			}
			sealed[name] = s
		}
		if !maps.Equal(sealed, given) {
			w.object, w.text, w.sound, w.values = w.object.WithSecrets(sealed), "", false, true
		}
	}
	if len(problems) > 0 {
		slices.SortFunc(problems, func(a, b provisioning.Problem) int { return strings.Compare(a.String(), b.String()) })
		return problems
	}
	return nil
}

// standingSecrets are the sealed forms of a stored document, by variable in upper case.
func standingSecrets(o *provisioning.Object) map[string]string {
	out := map[string]string{}
	for name, s := range o.Secrets() {
		out[strings.ToUpper(name)] = s
	}
	return out
}

// sealed returns the sealed form of what was given for a place: kept, where that has the same value.
func (c *Central) sealed(place, given, kept string) (string, error) {
	if strings.HasPrefix(given, provisioning.SealedPrefix) {
		_, err := c.unsealed(place, given)
		return given, err
	}
	if kept != "" {
		if value, err := c.unsealed(place, kept); err == nil && equal(value, given) {
			return kept, nil
		}
	}
	b, err := c.cfg.Key.seal(c.cfg.Rand, sealedName(place), []byte(given))
	if err != nil {
		return "", provisioning.Errorf(provisioning.CodeInternal, "", "seal %s: %w", place, err)
	}
	return provisioning.SealedPrefix + base64.RawURLEncoding.EncodeToString(b), nil
}

// unsealed opens a sealed form. It fails with CodeCorrupt where it is not one of this place by this central.
func (c *Central) unsealed(place, sealed string) (string, error) {
	text, ok := strings.CutPrefix(sealed, provisioning.SealedPrefix)
	// Strictly: one value has one form in a place.
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if !ok || err != nil || strings.ContainsFunc(text, unicode.IsSpace) {
		return "", provisioning.Errorf(provisioning.CodeCorrupt, "Write the secret's value into its document and apply that.", "secret %s is not sealed", place)
	}
	value, err := c.cfg.Key.open(sealedName(place), b)
	return string(value), err
}

func sealedName(place string) string { return "secret " + place }

// withhold leaves out the advertisements of sequences that need secrets: an appliance that has not said to whom they are to be
// encrypted may be of a version that knows none, and would erase a disk for a sequence that fails at the step with the secret.
// The sequences stay, so that their content is copied, and kept.
func withhold(s *provisioning.Snapshot) {
	needing := s.SecretSequences()
	s.Advertisements = slices.DeleteFunc(s.Advertisements, func(a provisioning.Advertisement) bool { return slices.Contains(needing, a.Spec.TaskSequence) })
}

// enclose puts the values of a snapshot's secrets into an age file to SecretsFor, in the place of their sealed forms. Without
// a recipient they are left out, and only their names stay.
func (c *Central) enclose(s *provisioning.Snapshot) error {
	values := map[string]string{}
	for _, x := range s.AllSecrets() {
		value, err := c.unsealed(x.Place, x.Value)
		if err != nil {
			return err
		}
		values[x.Place] = value
	}
	s.BlankSecrets()
	if len(values) == 0 || s.SecretsFor == "" {
		return nil
	}
	recipient, err := age.ParseX25519Recipient(s.SecretsFor)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "read the recipient of site %s: %w", s.Site.Name, err)
	}
	plain, err := json.Marshal(values)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "encode secrets: %w", err)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, recipient)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return provisioning.Errorf(provisioning.CodeInternal, "", "encrypt the secrets of site %s: %w", s.Site.Name, err)
	}
	s.Secrets = out.Bytes()
	return nil
}

// noteRecipient keeps to whom the secrets of a site are to be encrypted: the appliance that shows the certificate with that
// sum says so. Snapshots are published where that is new.
func (c *Central) noteRecipient(ctx context.Context, site string, certificate provisioning.SHA256, recipient string) error {
	if recipient == "" { // an older appliance
		return nil
	}
	if _, err := age.ParseX25519Recipient(recipient); err != nil || len(recipient) > maxRecipient {
		return provisioning.Errorf(provisioning.CodeInvalid, "", "the recipient of site %s is no age X25519 recipient", site)
	}
	known, err := c.cfg.Store.SiteCertificate(ctx, certificate)
	if err != nil || known.Recipient == recipient {
		return err
	}
	// One after another it would make snapshots with each poll; the branch says it again.
	if known.Recipient != "" && !c.recipients.may(site, c.cfg.Now()) {
		c.cfg.Log.Debug("a site's appliance has said only now that secrets are to be encrypted to another recipient", "site", site)
		return nil
	}
	if err := c.cfg.Store.PutRecipient(ctx, certificate, recipient); err != nil {
		return err
	}
	c.cfg.Log.Info("a site's appliance has said to whom secrets are to be encrypted", "site", site, "recipient", recipient)
	c.publishSoon(ctx)
	return nil
}

// maxRecipient bounds an age X25519 recipient, which has 62 characters.
const maxRecipient = 128
