package central

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/central/client"
)

// Explain says what a machine would get at a site, and why: by the snapshot that is published for the site, what the site has
// reported, and the function by which its appliance decides. It fails with CodeInvalid where it cannot be told which site is
// meant.
func (c *Central) Explain(ctx context.Context, in client.ExplainRequest) (client.Explanation, error) {
	docs, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return client.Explanation{}, err
	}
	catalog, err := c.decoded.catalog(docs)
	if err != nil {
		return client.Explanation{}, err
	}
	readable, err := c.readable(ctx, docs)
	if err != nil {
		return client.Explanation{}, err
	}
	m, computer, err := machine(catalog, readable, in)
	if err != nil {
		return client.Explanation{}, err
	}
	site, err := c.siteOf(ctx, catalog, in, computer)
	if err != nil {
		return client.Explanation{}, err
	}
	out := client.Explanation{Site: site.Name, Machine: m}
	if out.At, err = timeAt(in.At, &site.Spec, c.cfg.Now()); err != nil {
		return client.Explanation{}, err
	}
	err = c.reporting.do(ctx, func() error { return c.explain(ctx, in, computer, &out) })
	return out, err
}

// explain fills in what is decided about out's machine.
func (c *Central) explain(ctx context.Context, in client.ExplainRequest, computer *provisioning.Computer, out *client.Explanation) error {
	stored, err := c.cfg.Store.SiteSnapshot(ctx, out.Site)
	if err != nil && provisioning.CodeOf(err) != provisioning.CodeNotFound {
		return err
	}
	if err != nil || len(stored.Signed.Payload) == 0 {
		out.Decision = policy.Decide(nil, out.Machine, policy.History{}, out.At)
		if err == nil && stored.Problem != "" {
			out.Notes = append(out.Notes, "its configuration cannot be published: "+stored.Problem)
		}
		return nil
	}
	var s provisioning.Snapshot
	if err := json.Unmarshal(stored.Signed.Payload, &s); err != nil {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the snapshot of site %s: %w", out.Site, err)
	}
	h, err := c.siteHistory(ctx, &s, out.At)
	if err != nil {
		return err
	}
	out.Notes = append(out.Notes, complete(&out.Machine, in, computer, &s, h.Runs)...)
	p, _ := policy.Compile(&s) // what of it cannot be used is silent, here as there, and the reasons say so
	out.Epoch, out.Number = s.Epoch, s.Number
	out.Decision = p.Answer(out.Machine, h, out.At, policy.Appliance{})
	notes, err := c.notes(ctx, stored, &s, out)
	out.Notes = append(out.Notes, notes...)
	return err
}

// machine reads what is asked about: the machine as far as it was said, and the computer that it is known as; nil where no
// record names it, or more than one.
func machine(catalog provisioning.Catalog, readable func(provisioning.Key) bool, in client.ExplainRequest) (provisioning.Machine, *provisioning.Computer, error) {
	m, err := described(in)
	if err != nil {
		return m, nil, err
	}
	if o := named(catalog, in.Machine); o.Computer != nil && readable(o.Key()) {
		if len(o.Computer.Spec.MACAddresses) > 0 {
			m.MAC = o.Computer.Spec.MACAddresses[0]
		}
		return m, o.Computer, nil
	}
	if m.MAC, err = provisioning.ParseMAC(in.Machine); err != nil {
		return m, nil, provisioning.Errorf(provisioning.CodeNotFound, "See which computers there are: branchpoint get computers",
			"%.64q is neither a computer's name nor a MAC address", in.Machine)
	}
	var owners []provisioning.Object
	for _, o := range catalog {
		if o.Computer != nil && slices.Contains(o.Computer.Spec.MACAddresses, m.MAC) {
			owners = append(owners, o)
		}
	}
	if len(owners) == 1 && readable(owners[0].Key()) {
		return m, owners[0].Computer, nil
	}
	return m, nil, nil
}

// named returns the computer of that name, in either case.
func named(catalog provisioning.Catalog, name string) provisioning.Object {
	if o, ok := catalog[provisioning.Key{Kind: provisioning.KindComputer, Name: name}]; ok {
		return o
	}
	for _, o := range catalog {
		if o.Computer != nil && strings.EqualFold(o.Name, name) {
			return o
		}
	}
	return provisioning.Object{}
}

// architectures are what a request calls firmwares.
var architectures = map[string]provisioning.Arch{"bios": provisioning.ArchBIOS, "uefi": provisioning.ArchUEFIx64, "http": provisioning.ArchHTTPBootx64}

// described is what a request says of a machine beside its address.
func described(in client.ExplainRequest) (m provisioning.Machine, err error) {
	if in.GUID != "" && in.GUID != client.NoGUID {
		if m.GUID, err = provisioning.ParseGUID(in.GUID); err != nil {
			return m, provisioning.Errorf(provisioning.CodeInvalid, "", "%w", err)
		}
	}
	m.Arch = provisioning.ArchUEFIx64
	if in.Firmware != "" {
		var ok bool
		if m.Arch, ok = architectures[strings.ToLower(in.Firmware)]; !ok {
			return m, provisioning.Errorf(provisioning.CodeInvalid, "Write bios, uefi or http.", "firmware %.64q is not known", in.Firmware)
		}
	}
	return m, nil
}

// siteOf is the site that a request is about: one whose machines the caller may see, or the one of a computer that they may.
func (c *Central) siteOf(ctx context.Context, catalog provisioning.Catalog, in client.ExplainRequest, computer *provisioning.Computer) (*provisioning.Site, error) {
	var visible []string
	for _, name := range sites(catalog) {
		if c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(name)) == nil {
			visible = append(visible, name)
		}
	}
	name := in.Site
	if name == "" && computer != nil {
		name = computer.Spec.Site
	}
	if name == "" && len(visible) == 1 {
		name = visible[0]
	}
	if name == "" {
		why := "no record says which computer it is"
		if computer != nil {
			why = computer.Name + " is limited to no site"
		}
		return nil, provisioning.Errorf(provisioning.CodeInvalid, "Name one with --site: "+listed(visible), "it cannot be told at which site %.64s would boot: %s", in.Machine, why)
	}
	own := computer != nil && (computer.Spec.Site == "" || computer.Spec.Site == name)
	site := catalog[provisioning.Key{Kind: provisioning.KindSite, Name: name}].Site
	switch {
	case site != nil && (own || slices.Contains(visible, name)):
		return site, nil
	case site != nil:
		return nil, c.allow(ctx, provisioning.ActionRead, provisioning.AtSite(name))
	}
	return nil, provisioning.Errorf(provisioning.CodeNotFound, "Name another one: "+listed(visible), "there is no site %.64q", name)
}

// complete adds to a machine what was not said of it and is known: from the computer's record, else from the last run that was
// given to its address. It returns notes of where that is from.
func complete(m *provisioning.Machine, in client.ExplainRequest, computer *provisioning.Computer, s *provisioning.Snapshot, runs []provisioning.Run) []string {
	var last *provisioning.Run
	for i := range runs {
		if m.MAC != "" && runs[i].Machine.MAC == m.MAC {
			last = &runs[i]
		}
	}
	var notes []string
	if in.GUID == "" {
		switch {
		case computer != nil && computer.Spec.SMBIOSGUID != "":
			m.GUID = computer.Spec.SMBIOSGUID
		case last != nil && last.Machine.GUID != "":
			m.GUID = last.Machine.GUID
			notes = append(notes, "the SMBIOS GUID is that of the machine that run "+last.ID+" was given to")
		default:
			notes = append(notes, "no SMBIOS GUID is known; a machine whose firmware gives one may get another answer (--guid)")
		}
	}
	if in.Firmware == "" {
		switch {
		case last != nil:
			m.Arch = last.Machine.Arch
		case computer != nil && s.Inventories[computer.Name].Firmware == "bios":
			m.Arch = provisioning.ArchBIOS
		}
	}
	return notes
}

// notes say in what the site's appliance may know better.
func (c *Central) notes(ctx context.Context, stored *provisioning.SiteSnapshot, s *provisioning.Snapshot, e *client.Explanation) ([]string, error) {
	var out []string
	if stored.Problem != "" {
		out = append(out, "what was configured since cannot be published: "+stored.Problem)
	}
	if e.At.Before(s.IssuedAt) {
		out = append(out, "this configuration was made at "+s.IssuedAt.UTC().Format(time.RFC3339)+"; at the time asked about the site had another one")
	}
	if needing := s.SecretSequences(); s.SecretsFor == "" && len(needing) > 0 {
		out = append(out, "nothing is advertised at the site with task sequence "+strings.Join(needing, ", ")+
			", which needs secrets: its appliance has not said yet to whom they are to be encrypted, or is of an older version that knows none")
	}
	contacts, err := c.cfg.Store.SiteContacts(ctx)
	if err != nil {
		return nil, err
	}
	switch x, ok := contacts[e.Site]; {
	case !ok || x.At.IsZero():
		out = append(out, "the site's appliance has never asked for its configuration")
	case x.Epoch < s.Epoch || x.Epoch == s.Epoch && x.Number < s.Number:
		out = append(out, fmt.Sprintf("when the site was last heard of, at %s, it had configuration %d.%d", x.At.UTC().Format(time.RFC3339), x.Epoch, x.Number))
	}
	if len(s.SequenceContent(e.Decision.TaskSequence)) > 0 && e.Decision.Action != policy.Silent {
		out = append(out, "it is silent as long as the content is not at the site in full, which central does not know")
	}
	return out, nil
}
