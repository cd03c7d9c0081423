package provisioning

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

func (c *checker) sequence(s *TaskSequenceSpec) {
	if len(s.Steps) == 0 {
		c.add("$.spec.steps", "steps is empty: the sequence does nothing")
	}
	c.description(s.Description)
	if s.BootImage != "" {
		if err := checkName(s.BootImage); err != nil {
			c.add("$.spec.bootImage", "bootImage: %v", err)
		}
	}
	c.variables("$.spec.variables", s.Variables)
	c.secrets("$.spec.secrets", s.Secrets, s.Variables)
	for i := range s.Steps {
		c.step(item("$.spec.steps", i), &s.Steps[i], i == len(s.Steps)-1)
	}
}

func (c *checker) step(path string, s *Step, last bool) {
	if len(s.Name) > 128 {
		c.add(path+".name", "a step's name has at most 128 characters")
	}
	switch acts := s.actions(); len(acts) {
	case 0:
		c.add(path, "the step does nothing; add one of partitionDisk, applyOperatingSystemImage, applyNetworkSettings, applyOperatingSystemSettings, runCommandLine, restart")
		return
	case 1:
	default:
		c.add(path, "the step has %d actions (%s); make a step of each", len(acts), strings.Join(acts, ", "))
		return
	}
	switch {
	case s.PartitionDisk != nil:
		c.partitions(path+".partitionDisk", s.PartitionDisk)
	case s.ApplyOperatingSystemImage != nil:
		if err := checkName(s.ApplyOperatingSystemImage.Image); err != nil {
			c.add(path+".applyOperatingSystemImage.image", "image: %v", err)
		}
		c.disk(path+".applyOperatingSystemImage.disk", s.ApplyOperatingSystemImage.Disk)
	case s.ApplyNetworkSettings != nil:
		c.network(path+".applyNetworkSettings", s.ApplyNetworkSettings)
	case s.ApplyOperatingSystemSettings != nil:
		c.settings(path+".applyOperatingSystemSettings", s.ApplyOperatingSystemSettings)
	case s.RunCommandLine != nil:
		r := s.RunCommandLine
		p := path + ".runCommandLine"
		if strings.TrimSpace(r.Command) == "" {
			c.add(p+".command", "command is empty")
		}
		if r.In != "" && r.In != InTarget && r.In != InBootImage {
			c.add(p+".in", "in is %q; write target or boot-image", clip(string(r.In)))
		}
		if r.TimeoutMinutes < 0 || r.TimeoutMinutes > 24*60 {
			c.add(p+".timeoutMinutes", "timeoutMinutes is %d; 0 to 1440 is possible", r.TimeoutMinutes)
		}
	case s.Restart != nil:
		if !last {
			c.add(path+".restart", "restart leaves the boot image for the installed system; it must be the last step")
		}
	}
}

func (c *checker) disk(path string, d DiskSelector) {
	if d.Number != nil && d.Serial != "" {
		c.add(path, "choose the disk by number or by serial, not both")
	}
	if d.Number != nil && (*d.Number < 0 || *d.Number > 255) {
		c.add(path+".number", "disk numbers count from 0")
	}
}

func (c *checker) partitions(path string, d *PartitionDisk) {
	c.disk(path+".disk", d.Disk)
	switch d.Table {
	case "", TableGPT:
	case TableMBR:
		if len(d.Partitions) > 4 {
			c.add(path+".partitions", "an MBR holds 4 partitions; use table: gpt for more")
		}
	default:
		c.add(path+".table", "table is %q; write gpt or mbr", clip(string(d.Table)))
	}
	if len(d.Partitions) == 0 || len(d.Partitions) > 64 {
		c.add(path+".partitions", "give 1 to 64 partitions")
	}
	mounts := map[string]bool{}
	percent := int64(0)
	for i := range d.Partitions {
		p := &d.Partitions[i]
		at := item(path+".partitions", i)
		size, err := ParsePartitionSize(p.Size)
		switch {
		case err != nil:
			c.add(at+".size", "%v", err)
		case size.Rest && i != len(d.Partitions)-1:
			c.add(at+".size", "only the last partition can take the rest")
		}
		percent += size.Percent
		switch p.Type {
		case "", PartitionData, PartitionESP, PartitionBIOSBoot, PartitionRoot, PartitionSwap:
		default:
			c.add(at+".type", "type is %q; write data, esp, bios-boot, root or swap", clip(string(p.Type)))
		}
		switch p.FileSystem {
		case FileSystemNone, FileSystemExt4, FileSystemVFAT, FileSystemSwap:
		default:
			c.add(at+".fileSystem", "fileSystem is %q; write ext4, vfat or swap", clip(string(p.FileSystem)))
		}
		if p.Type == PartitionESP && p.FileSystem != FileSystemVFAT {
			c.add(at+".fileSystem", "an EFI system partition needs fileSystem: vfat")
		}
		if p.Type == PartitionBIOSBoot && (p.FileSystem != FileSystemNone || d.Table == TableMBR) {
			c.add(at, "a bios-boot partition is for GPT and has no file system")
		}
		if p.Mount != "" {
			if !strings.HasPrefix(p.Mount, "/") || strings.Contains(p.Mount, "..") || strings.ContainsAny(p.Mount, " \t\n\\") {
				c.add(at+".mount", "mount is an absolute path without blanks such as / or /boot/efi")
			}
			if p.FileSystem != FileSystemExt4 && p.FileSystem != FileSystemVFAT {
				c.add(at+".mount", "only a partition with a file system can be mounted")
			}
			if mounts[p.Mount] {
				c.add(at+".mount", "%s is mounted twice", p.Mount)
			}
			mounts[p.Mount] = true
		}
		if len(p.Name) > 36 || strings.ContainsAny(p.Name, "\"\n,") {
			c.add(at+".name", "a partition name has at most 36 characters, without quotes and commas")
		}
		limit := 16 // ext4 and swap
		if p.FileSystem == FileSystemVFAT {
			limit = 11
		}
		if len(p.Label) > limit || strings.ContainsAny(p.Label, "\"\n/ ") {
			c.add(at+".label", "a label of this file system has at most %d characters, without blanks, quotes and slashes", limit)
		}
	}
	if percent > 100 {
		c.add(path+".partitions", "the partitions' percentages add up to %d", percent)
	}
}

func (c *checker) network(path string, n *ApplyNetworkSettings) {
	c.addressing(path, n.DHCP, n.Address, n.Gateway, n.DNS)
	if n.Search != "" && !regexp.MustCompile(`^[A-Za-z0-9.-]{1,253}$`).MatchString(n.Search) {
		c.add(path+".search", "%q is no domain name", clip(n.Search))
	}
}

func (c *checker) settings(path string, s *ApplyOperatingSystemSettings) {
	if s.ComputerName != "" && !strings.Contains(s.ComputerName, "%") && !ValidHostName(s.ComputerName) {
		c.add(path+".computerName", "%q cannot be a host name: letters, digits and hyphens only", clip(s.ComputerName))
	}
	if s.TimeZone != "" && (!regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}$`).MatchString(s.TimeZone)) {
		c.add(path+".timeZone", "%q is no time zone name such as Europe/Berlin", clip(s.TimeZone))
	}
	a := s.Administrator
	if a == nil {
		return
	}
	if a.Name != "" && !regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`).MatchString(a.Name) {
		c.add(path+".administrator.name", "%q is no account name: lower-case letters, digits, hyphens, at most 32", clip(a.Name))
	}
	if a.PasswordHash != "" && !regexp.MustCompile(`^\$[A-Za-z0-9./$,=_-]{10,512}$`).MatchString(a.PasswordHash) {
		c.add(path+".administrator.passwordHash", "passwordHash is no crypt hash; make one with: openssl passwd -6")
	}
	for i, k := range a.SSHKeys {
		f := strings.Fields(k)
		if len(f) < 2 || strings.ContainsAny(k, "\n\r") || len(k) > 16384 || !(strings.HasPrefix(f[0], "ssh-") || strings.HasPrefix(f[0], "ecdsa-") || strings.HasPrefix(f[0], "sk-")) {
			c.add(item(path+".administrator.sshKeys", i), "this is no public key line such as: ssh-ed25519 AAAA… name")
		}
	}
}

// PartitionSize is a partition's size: exactly one of its fields is set.
type PartitionSize struct {
	// Bytes is a fixed size.
	Bytes int64
	// Percent is a share, 1 to 100, of what the fixed sizes leave.
	Percent int64
	// Rest takes everything that is left.
	Rest bool
}

var sizeForm = regexp.MustCompile(`^([0-9]{1,12})\s*(MiB|GiB|TiB|%)$`)

// ParsePartitionSize reads "512MiB", "20GiB", "1TiB", "50%", "rest" or "".
func ParsePartitionSize(s string) (PartitionSize, error) {
	if s == "" || s == "rest" {
		return PartitionSize{Rest: true}, nil
	}
	bad := fmt.Errorf("size %q: write 512MiB, 20GiB, 50%% or rest", clip(s))
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return PartitionSize{}, bad
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n < 1 {
		return PartitionSize{}, bad
	}
	shift := map[string]uint{"MiB": 20, "GiB": 30, "TiB": 40}[m[2]]
	switch {
	case m[2] == "%" && n > 100:
		return PartitionSize{}, bad
	case m[2] == "%":
		return PartitionSize{Percent: n}, nil
	case n > (1<<62)>>shift:
		return PartitionSize{}, bad
	}
	return PartitionSize{Bytes: n << shift}, nil
}
