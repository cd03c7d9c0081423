package pxe

import (
	"fmt"
	"net/netip"
	"strings"

	"branchpoint/provisioning"
)

// kernelArguments are what the boot image's kernel is told; no secret stands there. The last console is /dev/console:
// the screen, which a person sees and which every PC has. BOOTIF says, in PXELINUX's form, which card the machine booted
// from (01 is Ethernet's hardware type): its configuration is applied to that one, and not to the first that answers.
func kernelArguments(mac provisioning.MAC) string {
	return "console=ttyS0,115200 console=tty0 BOOTIF=01-" + strings.ReplaceAll(string(mac), ":", "-")
}

// failurePause is how many seconds a message about a failed boot stands on the client's screen.
const failurePause = 10

// grubFirst is the grub.cfg that GRUB reads by TFTP, or by HTTP after HTTP Boot: Debian's signed network GRUB reads only
// that one name, so it says where the machine's own configuration is. Where net_default_mac is not set, GRUB knows the
// first card alone.
func grubFirst(server netip.Addr, httpPort int, texts provisioning.ShownTexts) string {
	return fmt.Sprintf(`# The first file that GRUB reads; the machine's own configuration is made when it is asked for.
set timeout=0
set mac=${net_default_mac}
if [ -z "$mac" ] ; then set mac=${net_efinet0_mac} ; fi
if [ -z "$mac" ] ; then set mac=${net_efinet0_dhcp_mac} ; fi
configfile (http,%s)/boot/grub/${mac}.cfg
%s`, hostPort(server, httpPort), grubFailure("the configuration of this machine could not be loaded", texts))
}

// bootPage is what the configuration for one boot of one machine is made of.
type bootPage struct {
	// server and httpPort are where everything is loaded from.
	server   netip.Addr
	httpPort int
	// layers are the names of the RAM file systems, and secret is the path of this boot's own.
	layers []string
	secret string
	// mac is the card that the machine boots from.
	mac provisioning.MAC
	// texts are the site's.
	texts provisioning.ShownTexts
}

// grubBoot is the configuration for one boot of one machine.
func grubBoot(p bootPage) string {
	root := "(http," + hostPort(p.server, p.httpPort) + ")"
	var b strings.Builder
	fmt.Fprintf(&b, `set timeout=0
%secho "Branchpoint: loading from %s ..."
if linux %s/boot/files/%s %s ; then
  if initrd`, grubEcho(firmwareHead(p.texts)), p.server, root, FileKernel, kernelArguments(p.mac))
	for _, l := range p.layers {
		fmt.Fprintf(&b, " %s/boot/files/%s", root, l)
	}
	fmt.Fprintf(&b, " %s%s ; then\n    boot\n  fi\nfi\n", root, p.secret)
	b.WriteString(grubFailure("the boot image could not be loaded", p.texts))
	return b.String()
}

// grubFailure says on the client's screen what failed and starts the machine anew. The next DISCOVER is a new decision;
// where a machine fails again and again, it gets no answer after a while and boots its own disk.
//
// "exit" would not lead to the next boot device: Debian's signed GRUB 2.12 ignores its argument and returns success, on
// which OVMF shows its set-up screen (measured). Loading the disk's boot manager from here would change what the TPM
// measures, and make BitLocker ask for its recovery key.
func grubFailure(what string, texts provisioning.ShownTexts) string {
	return fmt.Sprintf(`echo "Branchpoint: %s."
%secho "This computer restarts in %d seconds."
sleep %d
reboot
`, what, grubEcho(firmwareContacts(texts)), failurePause, failurePause)
}

// grubNothing is the configuration for a machine that gets nothing (any more): started anew, it gets no offer and boots
// its own disk.
const grubNothing = `echo "Branchpoint: there is nothing to do for this computer. It restarts."
sleep 2
reboot
`

// ipxeBoot is the script for one boot of one machine.
func ipxeBoot(p bootPage) string {
	root := "http://" + hostPort(p.server, p.httpPort)
	var b strings.Builder
	fmt.Fprintf(&b, `#!ipxe
imgfree
%secho Branchpoint: loading from %s ...
kernel --name %s %s/boot/files/%s %s || goto failed
`, ipxeEcho(firmwareHead(p.texts)), p.server, FileKernel, root, FileKernel, kernelArguments(p.mac))
	for _, l := range p.layers {
		fmt.Fprintf(&b, "initrd --name %s %s/boot/files/%s || goto failed\n", l, root, l)
	}
	fmt.Fprintf(&b, `initrd --name boot.cpio %s%s || goto failed
boot || goto failed
:failed
echo Branchpoint: the boot image could not be loaded.
%secho The next boot device is tried in %d seconds.
imgfree
sleep %d
exit 1
`, root, p.secret, ipxeEcho(firmwareContacts(p.texts)), failurePause, failurePause)
	return b.String()
}

// ipxeNothing is the script for a machine that gets nothing: on to the next boot device.
const ipxeNothing = "#!ipxe\nexit 1\n"

// menuSeconds is how long a menu waits for a key before it goes on to the next boot device.
const menuSeconds = 10

// loader is one of the programs that ask for the configuration of a boot: GRUB, or iPXE.
type loader struct {
	// extension is how the names of its configurations end.
	extension string
	// boot makes the configuration of a boot, menu that of a choice.
	boot func(bootPage) string
	menu func(menuPage) string
	// next is the configuration that goes on to the next boot device, and restarts says that it starts the machine anew
	// for that. nothing is the one for a machine that gets nothing (any more).
	next, nothing string
	restarts      bool
}

var (
	loaderGRUB     = loader{".cfg", grubBoot, grubMenu, grubNext, grubNothing, true}
	loaderIPXE     = loader{".ipxe", ipxeBoot, ipxeMenu, ipxeNothing, ipxeNothing, false}
	loadersOfMenus = []loader{loaderGRUB, loaderIPXE}
)

// menuPage is what a menu is made of.
type menuPage struct {
	// server and httpPort are where the entries lead to.
	server   netip.Addr
	httpPort int
	// next goes on to the next boot device, and entries are the choices.
	next    menuEntry
	entries []menuEntry
	// texts are the site's.
	texts provisioning.ShownTexts
}

// aboutPause is how many seconds the texts of a site stand on the screen that are asked for at a GRUB menu.
const aboutPause = 60

// grubMenu lets the person at the machine choose. Whatever fails leads to a new start. GRUB's menu has no room for a text but
// its entries: those of the site's head stand above the others, and show whom to turn to.
func grubMenu(p menuPage) string {
	head, contacts := firmwareHead(p.texts), firmwareContacts(p.texts)
	if len(head) == 0 && len(contacts) > 0 {
		head = []string{"Help"}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `set timeout=%d
set timeout_style=menu
set default=%d
`, menuSeconds, len(head))
	for _, line := range head {
		fmt.Fprintf(&b, "menuentry \"%s\" {\n", line)
		for said := range strings.Lines(grubEcho(firmwareHead(p.texts)) + grubEcho(contacts)) {
			b.WriteString("  " + said)
		}
		fmt.Fprintf(&b, "  echo \"Esc leads back to the menu.\"\n  sleep --interruptible %d\n}\n", aboutPause)
	}
	for i, e := range append([]menuEntry{p.next}, p.entries...) {
		hotkey := ""
		if i > 0 && i < 10 {
			hotkey = fmt.Sprintf(" --hotkey=%d", i)
		}
		fmt.Fprintf(&b, "menuentry \"%s\"%s {\n  configfile (http,%s)%s\n", e.Title, hotkey, hostPort(p.server, p.httpPort), e.Path)
		for line := range strings.Lines(grubFailure("the configuration of this choice could not be loaded", p.texts)) {
			b.WriteString("  " + line)
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// grubNext goes on to the next boot device: started anew, the machine gets no offer for a while. See grubFailure for why it
// is not "exit".
const grubNext = `echo "Branchpoint: this computer restarts, and starts from its next boot device then."
reboot
`

// ipxeMenu lets the person at the machine choose. Whatever fails leads to the next boot device.
func ipxeMenu(p menuPage) string {
	root := "http://" + hostPort(p.server, p.httpPort)
	var b strings.Builder
	fmt.Fprintf(&b, "#!ipxe\nimgfree\nmenu Branchpoint\n%sitem --key n next %s\n", ipxeGaps(firmwareHead(p.texts)), p.next.Title)
	for i, e := range p.entries {
		key := ""
		if i < 9 {
			key = fmt.Sprintf("--key %d ", i+1)
		}
		fmt.Fprintf(&b, "item %schoice%d %s\n", key, i+1, e.Title)
	}
	b.WriteString(ipxeGaps(firmwareContacts(p.texts)))
	fmt.Fprintf(&b, "choose --default next --timeout %d chosen || goto next\ngoto ${chosen} || goto next\n", menuSeconds*1000)
	for i, e := range p.entries {
		fmt.Fprintf(&b, ":choice%d\nchain %s%s ||\nexit 1\n", i+1, root, e.Path)
	}
	// The branch is told, but it need not hear it.
	fmt.Fprintf(&b, ":next\nchain --timeout 3000 %s%s ||\nexit 1\n", root, p.next.Path)
	return b.String()
}

// macOfGRUBPath reads the MAC address out of "/boot/grub/52:54:00:12:34:56.cfg".
func macOfGRUBPath(path string) (provisioning.MAC, bool) {
	name, ok := strings.CutPrefix(path, "/boot/grub/")
	if !ok {
		return "", false
	}
	name, ok = strings.CutSuffix(name, ".cfg")
	if !ok || strings.Contains(name, "/") {
		return "", false
	}
	mac, err := provisioning.ParseMAC(name)
	return mac, err == nil
}
