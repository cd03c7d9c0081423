package steps

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"branchpoint/provisioning"
)

// bootLabel is the name of the firmware's boot entry for the system just installed.
const bootLabel = "Branchpoint: installed system"

// bootEntry finds the number of an entry in efibootmgr's list, "Boot0007* Branchpoint: installed system\tHD(1,GPT,…".
var bootEntry = regexp.MustCompile(`(?m)^Boot([0-9A-Fa-f]{4})\*? ` + regexp.QuoteMeta(bootLabel) + `(?:\t|\s*$)`)

// bootNext has UEFI firmware start the installed system at the next start, and only then: its boot order stays as the
// computer's owner set it. Without this, firmware that boots from the network first waits minutes for an offer that does
// not come. It is a convenience: what goes wrong with it is said, and the firmware goes its own order.
func (r *Runner) bootNext(ctx context.Context) string {
	if !r.system.Firmware().UEFI || r.bootDisk == "" {
		return ""
	}
	number, err := r.setBootNext(ctx)
	if err != nil {
		r.log.Warn("cannot choose what the firmware starts next", "error", err)
		return " The firmware was not told what to start next and goes its own order."
	}
	return " The firmware starts it next, by boot entry " + number + "."
}

func (r *Runner) setBootNext(ctx context.Context) (string, error) {
	table, err := r.readTable(ctx, r.bootDisk)
	if err != nil {
		return "", err
	}
	partition := 0
	for _, p := range table.Partitions {
		if strings.EqualFold(p.Type, gptTypes[provisioning.PartitionESP]) || strings.EqualFold(p.Type, mbrTypes[provisioning.PartitionESP]) {
			partition = PartitionNumber(p.Node)
			break
		}
	}
	if partition == 0 {
		return "", fmt.Errorf("disk %s has no EFI system partition", r.bootDisk)
	}
	list, err := r.exec(ctx, Command{Args: []string{"efibootmgr"}})
	if err != nil {
		return "", fmt.Errorf("list the firmware's boot entries: %w", err)
	}
	for _, old := range bootEntry.FindAllStringSubmatch(list.Stdout, -1) {
		if _, err := r.exec(ctx, Command{Args: []string{"efibootmgr", "--quiet", "--bootnum", old[1], "--delete-bootnum"}}); err != nil {
			return "", fmt.Errorf("remove an earlier boot entry: %w", err)
		}
	}
	list, err = r.exec(ctx, Command{Args: []string{
		"efibootmgr", "--create-only", "--disk", r.bootDisk, "--part", fmt.Sprint(partition),
		"--label", bootLabel, "--loader", `\EFI\BOOT\BOOTX64.EFI`, // UEFI specification section 3.5.1.1
	}})
	if err != nil {
		return "", fmt.Errorf("make a boot entry: %w", err)
	}
	made := bootEntry.FindStringSubmatch(list.Stdout)
	if made == nil {
		return "", fmt.Errorf("efibootmgr does not list the boot entry it made")
	}
	if _, err := r.exec(ctx, Command{Args: []string{"efibootmgr", "--quiet", "--bootnext", made[1]}}); err != nil {
		return "", fmt.Errorf("choose the next start: %w", err)
	}
	return made[1], nil
}
