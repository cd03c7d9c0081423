package provisioning

import "time"

// ReportKind says what a SiteReport is about.
type ReportKind string

// The kinds of site reports.
const (
	// ReportDiscovered: a machine that was unknown has been deployed; Discovered is what it is known as from now on.
	ReportDiscovered ReportKind = "discovered"
	// ReportInventory: the agent of Computer has told of its hardware.
	ReportInventory ReportKind = "inventory"
	// ReportConflict: a machine cannot be told from others.
	ReportConflict ReportKind = "conflict"
	// ReportPasswordRefused: somebody at a client gave a wrong password.
	ReportPasswordRefused ReportKind = "password-refused"
	// ReportWipeCap: a machine waits, as more deployments that erase disks would begin than the site's wipe cap lets.
	ReportWipeCap ReportKind = "wipe-cap"
	// ReportConsoleShell: a shell was opened at a console of the appliance, or has ended; Text says which. Who it was is not known.
	ReportConsoleShell ReportKind = "console-shell"
)

// SiteReport is one thing that a branch tells central beside what happens in runs. It is kept at the branch until central
// has it, and one that arrives twice counts once.
type SiteReport struct {
	// ID is random, 32 hexadecimal digits.
	ID   string     `json:"id"`
	Site string     `json:"site"`
	Kind ReportKind `json:"kind"`
	// At is the branch's clock, UTC.
	At time.Time `json:"at"`
	// Computer is whom it is about; empty where nobody can say.
	Computer string `json:"computer,omitempty"`
	// Machine is what was seen on the wire.
	Machine    Machine    `json:"machine,omitzero"`
	Discovered *Computer  `json:"discovered,omitempty"`
	Inventory  *Inventory `json:"inventory,omitempty"`
	Conflict   *Conflict  `json:"conflict,omitempty"`
	// Text is for people.
	Text string `json:"text,omitempty"`
}

// Conflict is a conflicting record: a machine that a site cannot tell from others, and gives nothing therefore.
type Conflict struct {
	Machine Machine `json:"machine"`
	// ByMAC and ByGUID are the names of the computers that have its MAC address, and its SMBIOS GUID, by name.
	ByMAC  []string `json:"byMAC,omitempty"`
	ByGUID []string `json:"byGUID,omitempty"`
	// Text says what contradicts what.
	Text string `json:"text"`
}

// ID is the same for the same machine and the same computers: what is reported again is told from what is new by it.
func (c *Conflict) ID() string {
	b := append([]byte(c.Machine.MAC), 0)
	b = append(append(b, c.Machine.GUID...), 0)
	for _, names := range [][]string{c.ByMAC, c.ByGUID} {
		for _, n := range names {
			b = append(append(b, n...), 0)
		}
		b = append(b, 1)
	}
	return string(SumSHA256(b)[:32])
}

// Bounds of what a site report says, in bytes and in names.
const (
	maxReportText  = 1024
	maxReportNames = 64
)

// Validate checks a site report that came over the network: bounded fields, known shape.
func (r *SiteReport) Validate() error {
	invalid := func(what string) error {
		return Errorf(CodeInvalid, "", "site report %.32s of kind %.32q: %s", r.ID, r.Kind, what)
	}
	switch {
	case !ValidID(r.ID):
		return invalid("its id is malformed")
	case checkName(r.Site) != nil || r.Computer != "" && checkName(r.Computer) != nil:
		return invalid("it names no site, or its computer is malformed")
	case len(r.Text) > maxReportText:
		return invalid("its text is longer than allowed")
	case r.Machine != (Machine{}) && r.Machine.check() != nil:
		return invalid("its machine is malformed")
	}
	switch r.Kind {
	case ReportDiscovered:
		return r.validDiscovered(invalid)
	case ReportInventory:
		if r.Computer == "" || r.Inventory == nil {
			return invalid("computer or inventory is missing")
		}
	case ReportConflict:
		return r.validConflict(invalid)
	case ReportPasswordRefused, ReportWipeCap:
	case ReportConsoleShell:
		if r.Text == "" || r.Computer != "" || r.Machine != (Machine{}) || r.Inventory != nil {
			return invalid("it says nothing of a console, or more than that")
		}
	default:
		return invalid("the kind is not known")
	}
	return r.Inventory.check(invalid)
}

func (r *SiteReport) validDiscovered(invalid func(string) error) error {
	c := r.Discovered
	if c == nil || !ValidHostName(c.Name) || len(c.Spec.MACAddresses) > 1 || c.Spec.Site != "" && c.Spec.Site != r.Site {
		return invalid("it discovers no computer of its site with one MAC address at most")
	}
	m := Machine{GUID: c.Spec.SMBIOSGUID}
	check := m.checkGUID
	if len(c.Spec.MACAddresses) == 1 {
		m.MAC = c.Spec.MACAddresses[0]
		check = m.check
	} else if m.GUID == "" {
		return invalid("the computer can be recognised by nothing")
	}
	if check() != nil || len(c.Spec.Description) > maxReportText || len(c.Spec.Variables) > 0 || len(c.Spec.Secrets) > 0 || c.Spec.Infrastructure {
		return invalid("the computer is malformed, or says more than a branch can know")
	}
	return r.Inventory.check(invalid)
}

func (r *SiteReport) validConflict(invalid func(string) error) error {
	c := r.Conflict
	if c == nil || c.Machine.check() != nil || len(c.Text) > maxReportText || len(c.ByMAC)+len(c.ByGUID) > maxReportNames {
		return invalid("the conflict is missing, malformed or longer than allowed")
	}
	for _, n := range append(append([]string(nil), c.ByMAC...), c.ByGUID...) {
		if checkName(n) != nil {
			return invalid("the conflict names what is no computer")
		}
	}
	return nil
}

// check reports whether addresses stand in their canonical form.
func (m Machine) check() error {
	if mac, err := ParseMAC(string(m.MAC)); err != nil || mac != m.MAC {
		return Errorf(CodeInvalid, "", "MAC address %.64q is malformed", m.MAC)
	}
	return m.checkGUID()
}

func (m Machine) checkGUID() error {
	if m.GUID != "" {
		if g, err := ParseGUID(string(m.GUID)); err != nil || g != m.GUID {
			return Errorf(CodeInvalid, "", "SMBIOS GUID %.64q is malformed", m.GUID)
		}
	}
	return nil
}

// MaxInventoryField bounds each text of an Inventory, in bytes.
const MaxInventoryField = 256

func (i *Inventory) check(invalid func(string) error) error {
	if i == nil {
		return nil
	}
	for _, s := range []string{i.Manufacturer, i.Product, i.Serial, i.AssetTag, i.Firmware} {
		if len(s) > MaxInventoryField {
			return invalid("a text of the inventory is longer than allowed")
		}
	}
	if i.MemoryMiB < 0 {
		return invalid("the memory is negative")
	}
	return nil
}
