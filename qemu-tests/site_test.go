package qemutests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"branchpoint/qemu-tests/lab"
)

// Addresses in the site's network, which is a switch of its own.
const (
	applianceAddr = "10.77.0.2"
	foreignDHCP   = "10.77.0.1/24"
	// centralGuestAddr is where the appliance finds central: the WAN link forwards it to this host's loopback.
	centralGuestAddr = "10.0.2.100:8443"
)

// site is a branch office in the lab with its central: a switch for the office, a WAN link from the appliance to central,
// which runs on this host.
type site struct {
	t      testing.TB
	lab    *lab.Lab
	office *lab.Switch
	wan    *lab.Link

	data, admin string // central's data directory, the admin's file
	central     string // its address on this host
	process     *exec.Cmd
	yaml        string // the directory of configuration documents
	appliance   *lab.Machine

	// What a scenario may set before startAppliance: the model of the appliance's card in the office ("" is virtio), and
	// the office's default gateway ("" is none).
	model, gateway string
}

// newSite starts central with the content package debian-13 from the given file.
func newSite(t testing.TB, image string) *site {
	t.Helper()
	s := newBareSite(t)
	s.must("content", "add", "debian-13", image)
	return s
}

// newBareSite starts central without content.
func newBareSite(t testing.TB) *site {
	t.Helper()
	l := lab.New(t)
	s := &site{t: t, lab: l, office: l.Switch("office"), data: filepath.Join(t.TempDir(), "central"), yaml: t.TempDir()}
	s.startCentral()
	s.wan = lab.NewLink(t, s.central)
	return s
}

// startCentral runs central until the test ends. Started again, it has the data and the address that it had.
func (s *site) startCentral() {
	s.t.Helper()
	if s.central == "" {
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		s.central = free.Addr().String()
		free.Close()
	}
	logFile, err := os.OpenFile(s.lab.Path("central.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(lab.Artifact(s.t, "build/bin/branchpoint"), "central", "--data", s.data, "--listen", s.central)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if err := lab.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	s.process = cmd
	s.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		logFile.Close()
	})
	s.admin = filepath.Join(s.data, "admin.json")
	// Central answers when it has written the admin's file and accepts connections.
	deadline := time.Now().Add(30 * time.Second)
	for {
		c, err := net.Dial("tcp", s.central)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			b, _ := os.ReadFile(logFile.Name())
			s.t.Fatalf("central does not come up: %v\n%s", err, b)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// cli runs the admin's command line.
func (s *site) cli(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(lab.Artifact(s.t, "build/bin/branchpoint"), append([]string{"--admin", s.admin}, args...)...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	return o.String(), e.String(), err
}

func (s *site) must(args ...string) string {
	s.t.Helper()
	out, stderr, err := s.cli(args...)
	if err != nil {
		s.t.Fatalf("branchpoint %s: %v\n%s%s", strings.Join(args, " "), err, out, stderr)
	}
	return out
}

// apply writes a document file and applies the whole directory.
func (s *site) apply(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.yaml, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.must("apply", "-f", s.yaml)
}

// network is the appliance's: a fixed address in the office, with a gateway unless that is empty, and DHCP on the WAN, where
// nobody is served.
func network(office, wan *lab.NIC, gateway string) string {
	if gateway != "" {
		gateway = "  gateway: " + gateway + "\n"
	}
	return fmt.Sprintf(`- mac: %s
  address: %s/24
%s- mac: %s
  dhcp: true
  serve: false
`, office.MAC, applianceAddr, gateway, wan.MAC)
}

// startAppliance personalises the file for site LON and boots it as a USB disk, with a blank data disk and more disks.
func (s *site) startAppliance(fw lab.Firmware, more ...lab.Disk) *lab.Machine {
	s.t.Helper()
	c := s.applianceConfig(fw)
	c.Disks = append(append(c.Disks, lab.Disk{Path: s.lab.BlankDisk("data", 8<<30), Serial: "DATA0001"}), more...)
	s.appliance = s.lab.Machine(c)
	s.appliance.Start()
	return s.appliance
}

// startAnother is startAppliance for a machine and a data disk of another name, for any site and its office.
func (s *site) startAnother(name, code string, office *lab.Switch, fw lab.Firmware) *lab.Machine {
	s.t.Helper()
	c := s.personalised(code, office, fw)
	c.Name = name
	c.Disks = append(c.Disks, lab.Disk{Path: s.lab.BlankDisk(name, 8<<30), Serial: "DATA0001"})
	m := s.lab.Machine(c)
	m.Start()
	return m
}

// applianceConfig personalises the file for site LON and gives the machine that boots it as a USB disk, without a data disk.
func (s *site) applianceConfig(fw lab.Firmware) lab.Config {
	s.t.Helper()
	return s.personalised("LON", s.office, fw)
}

// personalised is applianceConfig for any site and its office.
func (s *site) personalised(code string, sw *lab.Switch, fw lab.Firmware) lab.Config {
	s.t.Helper()
	office := lab.NIC{Model: s.model, MAC: net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 2}, Switch: sw}
	wan := lab.NIC{MAC: net.HardwareAddr{0x52, 0x54, 0, 0x77, 1, 2}, WAN: &lab.WAN{Forwards: []lab.Forward{{Guest: centralGuestAddr, Host: s.wan.Addr()}}}}
	networkFile := filepath.Join(s.t.TempDir(), "network.yaml")
	if err := os.WriteFile(networkFile, []byte(network(&office, &wan, s.gateway)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	image := filepath.Join(s.t.TempDir(), "appliance.img")
	s.must("appliance", "image", "--site", code, "--central", centralGuestAddr, "--network", networkFile,
		"--image", lab.Artifact(s.t, "build/branchpoint.img"), "--output", image)
	return lab.Config{
		Name: "appliance", Firmware: fw, MemoryMB: 1536,
		Disks: []lab.Disk{{Path: image, Bus: lab.USB, Boot: 1}}, NICs: []lab.NIC{office, wan},
	}
}

// waitServing waits until the appliance has its configuration and content, and serves.
func (s *site) waitServing() {
	s.t.Helper()
	s.appliance.WaitEvent(4*time.Minute, "appliance-ready", nil)
	s.appliance.WaitEvent(10*time.Minute, "serving", nil)
}

// run is what `branchpoint status --json` says of one run.
type run struct {
	Computer     string `json:"computer"`
	TaskSequence string `json:"taskSequence"`
	State        string `json:"state"`
}

func (s *site) runs() []run {
	s.t.Helper()
	var out struct {
		Runs []run `json:"runs"`
	}
	if err := json.Unmarshal([]byte(s.must("status", "--json")), &out); err != nil {
		s.t.Fatal(err)
	}
	return out.Runs
}

// waitRun waits until central knows that the computer's run has ended, and requires success.
func (s *site) waitRun(computer string) {
	s.t.Helper()
	s.waitRuns(computer)
}

// waitRuns waits until central knows of one run of each of the computers, and of no other, which have all succeeded.
func (s *site) waitRuns(computers ...string) {
	s.t.Helper()
	want := slices.Sorted(slices.Values(computers))
	deadline := time.Now().Add(time.Minute)
	for {
		runs := s.runs()
		var got []string
		for _, r := range runs {
			if r.State == "succeeded" {
				got = append(got, r.Computer)
			}
		}
		slices.Sort(got)
		if len(runs) == len(want) && slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("central knows of %+v; want one run each of %v that succeeded", runs, want)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

const siteProxy = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec:
  pxe: {mode: proxy}
  distributionPoint: {}
`

const siteDHCP = `apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec:
  pxe:
    mode: dhcp
    dhcp: {rangeStart: 10.77.0.100, rangeEnd: 10.77.0.150}
  distributionPoint: {}
`

// computer is a document for the machine.
func computer(name string, m *lab.Machine) string {
	return fmt.Sprintf(`apiVersion: branchpoint/v1
kind: Computer
metadata: {name: %s}
spec:
  macAddresses: ["%s"]
  smbiosGUID: %s
`, name, m.MAC(0), m.UUID())
}

const osImage = `apiVersion: branchpoint/v1
kind: OperatingSystemImage
metadata: {name: debian}
spec: {package: debian-13}
`

// settings are the steps that both kinds of image get after they were written.
const settings = `    - applyNetworkSettings: {dhcp: true}
    - applyOperatingSystemSettings:
        timeZone: Etc/GMT-3
        administrator:
          passwordHash: "$6$saltsalt$Yy1rJ8YrcmTRwUJ0wBKLl8Mx5jxW1ZLJQQVqPCP1YCrYSIjQxEVHTCUwB2cjJr9pGcm1pj1UG3pVh4aXq8GtB1"
          sshKeys: ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f lab"]
    - name: Leave a mark
      runCommandLine: {command: "echo %OSDComputerName% > /etc/deployed-by-branchpoint"}
    - restart: {}
`

const wholeDisk = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - applyOperatingSystemImage: {image: debian}
` + settings

const partitionsBIOS = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - partitionDisk:
        partitions:
          - {type: bios-boot, size: 1MiB}
          - {type: swap, size: 128MiB, fileSystem: swap}
          - {type: root, size: rest, fileSystem: ext4, mount: /}
    - applyOperatingSystemImage: {image: debian}
` + settings

const partitionsUEFI = `apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec:
  steps:
    - partitionDisk:
        partitions:
          - {type: esp, size: 128MiB, fileSystem: vfat, mount: /boot/efi}
          - {type: root, size: rest, fileSystem: ext4, mount: /}
    - applyOperatingSystemImage: {image: debian}
` + settings

func advertisement(computer string) string {
	return fmt.Sprintf(`apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: rollout}
spec:
  taskSequence: install
  computers: [%s]
  purpose: required
`, computer)
}
