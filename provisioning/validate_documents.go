package provisioning

import (
	"regexp"
	"slices"
	"strings"
)

func (c *checker) computer(o *Computer) {
	s := &o.Spec
	if checkName(o.Name) == nil && !ValidHostName(o.Name) {
		c.add("$.metadata.name", "%q cannot be a host name: letters, digits and hyphens only", clip(o.Name))
	}
	c.description(s.Description)
	if s.Site != "" {
		if err := checkName(s.Site); err != nil {
			c.add("$.spec.site", "site: %v", err)
		}
	}
	if len(s.MACAddresses) == 0 && s.SMBIOSGUID == "" {
		c.add("$.spec", "a computer is known by macAddresses or smbiosGUID; give at least one")
	}
	c.atMost("$.spec.macAddresses", "MAC addresses", len(s.MACAddresses), MaxMACAddresses)
	c.macs("$.spec.macAddresses", s.MACAddresses)
	if s.SMBIOSGUID != "" {
		g, err := ParseGUID(string(s.SMBIOSGUID))
		switch {
		case err != nil:
			c.add("$.spec.smbiosGUID", "%v", err)
		case g == "":
			c.add("$.spec.smbiosGUID", "%s is no GUID of one computer: firmware without one says that", s.SMBIOSGUID)
		}
		s.SMBIOSGUID = g
	}
	if s.TPM != "" && !s.TPM.Valid() {
		c.add("$.spec.tpm", "tpm is no SHA-256 of an endorsement key: 64 hexadecimal digits in lower case")
	}
	c.variables("$.spec.variables", s.Variables)
	c.secrets("$.spec.secrets", s.Secrets, s.Variables)
}

// BuiltIn reports whether a collection is one of the built-in ones, which exist without a document.
func BuiltIn(collection string) bool {
	return collection == AllSystems || collection == AllUnknownComputers
}

// maxQuery bounds a collection's query, in bytes.
const maxQuery = 16384

func (c *checker) collection(o *Collection) {
	s := &o.Spec
	if BuiltIn(strings.ToLower(o.Name)) {
		c.add("$.metadata.name", "%s is built in; give the collection another name", strings.ToLower(o.Name))
	}
	c.description(s.Description)
	c.hosts("$.spec.computers", s.Computers)
	if len(s.Query) > maxQuery {
		c.add("$.spec.query", "the query has %d bytes; at most %d are possible", len(s.Query), maxQuery)
	}
	c.variables("$.spec.variables", s.Variables)
	c.secrets("$.spec.secrets", s.Secrets, s.Variables)
}

func (c *checker) pkg(s PackageSpec) {
	c.description(s.Description)
	if err := checkName(s.Package); err != nil {
		c.add("$.spec.package", "package: %v", err)
	}
	if s.Version < 0 {
		c.add("$.spec.version", "version counts from 1; leave it out for the newest")
	}
}

func (c *checker) bootImage(s *BootImageSpec) {
	c.description(s.Description)
	for i, a := range s.Architectures {
		if a != BootBIOS && a != BootUEFIx64 && a != BootHTTPUEFIx64 {
			c.add(item("$.spec.architectures", i), "%q is no architecture with a boot image; write %s, %s or %s", clip(string(a)), BootBIOS, BootUEFIx64, BootHTTPUEFIx64)
		}
	}
	unique(c, "$.spec.architectures", s.Architectures)
}

func (c *checker) association(s *ComputerAssociationSpec) {
	c.description(s.Description)
	if !ValidHostName(s.Source) {
		c.add("$.spec.source", "source is %q; write the name of the computer whose state is captured", clip(s.Source))
	}
	if !ValidHostName(s.Destination) {
		c.add("$.spec.destination", "destination is %q; write the name of the computer that restores it", clip(s.Destination))
	}
}

// accountForm is the name of an account, with what names of people and of mail have.
var accountForm = regexp.MustCompile(`^[\p{L}\p{N}][\p{L}\p{N}._@+-]{0,127}$`)

func (c *checker) role(s *RoleSpec) {
	c.description(s.Description)
	switch s.Rights {
	case RightsAdministrator, RightsOperator, RightsViewer:
	default:
		c.add("$.spec.rights", "rights is %q; write %s, %s or %s", clip(string(s.Rights)), RightsAdministrator, RightsOperator, RightsViewer)
	}
	if len(s.Accounts) == 0 {
		c.add("$.spec.accounts", "accounts is empty: nobody has the role")
	}
	for i, a := range s.Accounts {
		if !accountForm.MatchString(a) {
			c.add(item("$.spec.accounts", i), "%q is no name of an account: letters, digits, dots, hyphens, underscores, + and @", clip(a))
		}
	}
	unique(c, "$.spec.accounts", s.Accounts)
	c.limits("$.spec.sites", s.Sites)
	c.limits("$.spec.collections", s.Collections)
}

// limits checks what a role is limited to. Without a limit it holds everywhere: what somebody has written and left empty, or
// emptied, must not come to mean that.
func (c *checker) limits(path string, names []string) {
	if len(names) == 0 {
		at, found := c.source.locate(path)
		if names != nil || at != nil && found == path {
			c.add(path, "this limits the role to nothing; name something, or leave the key out for everywhere")
		}
	}
	c.names(path, names)
}

func (c *checker) advertisement(s *AdvertisementSpec) {
	if err := checkName(s.TaskSequence); err != nil {
		c.add("$.spec.taskSequence", "taskSequence: %v", err)
	}
	switch {
	case s.Collection == "" && len(s.Computers) == 0:
		c.add("$.spec.computers", "the advertisement is for nobody; give collection or computers")
	case s.Collection != "" && len(s.Computers) > 0:
		c.add("$.spec.computers", "give either collection or computers, not both")
	}
	if s.Collection != "" {
		if err := checkName(s.Collection); err != nil {
			c.add("$.spec.collection", "collection: %v", err)
		}
	}
	c.hosts("$.spec.computers", s.Computers)
	if s.Purpose != PurposeRequired && s.Purpose != PurposeAvailable {
		c.add("$.spec.purpose", "purpose is %q; write %s or %s", clip(string(s.Purpose)), PurposeRequired, PurposeAvailable)
	}
	c.between("$.spec", "priority", s.Priority, -1000, 1000)
	for i, a := range s.AvailableTo {
		if a != AvailableToPXE && a != AvailableToMedia && a != AvailableToClient {
			c.add(item("$.spec.availableTo", i), "%q is no way to a computer; write %s, %s or %s", clip(string(a)), AvailableToPXE, AvailableToMedia, AvailableToClient)
		}
	}
	unique(c, "$.spec.availableTo", s.AvailableTo)
	c.requiredOnly(s)
	c.clientRun(s)
	if !s.Start.IsZero() && !s.Expires.IsZero() && !s.Start.Before(s.Expires.Time) {
		c.add("$.spec.expires", "it expires before it starts")
	}
}

// requiredOnly checks what only required advertisements have.
func (c *checker) requiredOnly(s *AdvertisementSpec) {
	c.windows("$.spec.maintenanceWindows", s.MaintenanceWindows)
	switch s.Rerun {
	case "", RerunNever, RerunIfFailed, RerunAlways:
	default:
		c.add("$.spec.rerun", "rerun is %q; write %s, %s or %s", clip(string(s.Rerun)), RerunNever, RerunIfFailed, RerunAlways)
	}
	if s.Rerun == RerunAlways && s.Collection == AllUnknownComputers {
		c.add("$.spec.rerun", "rerun: %s is not possible for %s: each boot from the network would erase a machine that nobody knows", RerunAlways, AllUnknownComputers)
	}
	if s.Purpose != PurposeAvailable {
		return
	}
	if s.Rerun != "" {
		c.add("$.spec.rerun", "rerun is for required advertisements; people choose an available one as often as they like")
	}
	if len(s.MaintenanceWindows) > 0 {
		c.add("$.spec.maintenanceWindows", "maintenanceWindows are for required advertisements; people choose when an available one runs")
	}
}

// clientRun checks how an advertisement runs from an installed system.
func (c *checker) clientRun(s *AdvertisementSpec) {
	r := s.Client
	if r == nil {
		return
	}
	const at = "$.spec.client"
	if !slices.Contains(s.AvailableTo, AvailableToClient) {
		c.add(at, "client is for advertisements that are available to installed systems; add %s to availableTo", AvailableToClient)
	}
	switch r.When {
	case "", TriggerNow, TriggerLogOn, TriggerLogOff:
	default:
		c.add(at+".when", "when is %q; write %s, %s or %s", clip(string(r.When)), TriggerNow, TriggerLogOn, TriggerLogOff)
	}
	c.between(at, "countdownMinutes", r.CountdownMinutes, 0, 1440)
	c.between(at, "remindMinutes", r.RemindMinutes, 0, 1440)
}
