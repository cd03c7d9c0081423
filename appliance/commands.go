package appliance

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"branchpoint/appliance/screen"
)

// commands are what a person can type at the console.
func (a *appliance) commands() []screen.Command {
	return []screen.Command{
		{Name: "status", Help: "show everything again", Run: func(_ context.Context, _ []string, out io.Writer) error {
			_, err := io.WriteString(out, a.screen.Text())
			return err
		}},
		{Name: "disks", Help: "list the disks and what they hold", Run: func(_ context.Context, _ []string, out io.Writer) error {
			a.mu.Lock()
			disks, data := slices.Clone(a.disks), a.data
			a.mu.Unlock() // before anything is written: a terminal may take its time
			for i := range disks {
				c := &disks[i]
				what := c.contents()
				if c.Path == data {
					what = "the data disk in use"
				}
				fmt.Fprintf(out, "  %s: %s\n", c.name(), what)
			}
			if len(disks) == 0 {
				fmt.Fprintln(out, "  no disk was found")
			}
			return nil
		}},
		{Name: "claim", Help: "claim SERIAL: show a disk that is to be erased and become the data disk", Run: a.proposeClaim},
		{Name: "confirm", Help: "confirm SERIAL: erase the disk that claim has shown", Run: a.confirmClaim},
		{Name: "explain", Help: "explain MAC [GUID] [bios|uefi|http]: what a machine would get, and why", Run: a.explain},
		{Name: "approve", Help: "approve wipes N: let N more disks be erased than the wipe cap allows; approve secrets COMPUTER: let its next start have them; approve history: see there", Run: a.approve},
		{Name: "log", Help: "show the end of the log", Run: func(_ context.Context, _ []string, out io.Writer) error {
			b, err := os.ReadFile(LogPath)
			if err != nil {
				return err
			}
			_, err = out.Write(b[max(0, len(b)-shownLog):])
			return err
		}},
		{Name: "shell", Help: "a command shell on this console, where central allows it; exit leaves it", Attach: a.openShell},
		{Name: "restart", Help: "restart this appliance", Run: func(context.Context, []string, io.Writer) error {
			return power(unix.LINUX_REBOOT_CMD_RESTART)
		}},
		{Name: "shutdown", Help: "switch this appliance off", Run: func(context.Context, []string, io.Writer) error {
			return power(unix.LINUX_REBOOT_CMD_POWER_OFF)
		}},
	}
}

// shownLog is how much of the log's end is shown, in bytes: about a screen.
const shownLog = 3000

// power ends the machine. The data disk is made read-only first, so that nothing is lost in its cache.
func power(cmd int) error {
	unix.Sync()
	// Fails where files are still open for writing; they are synced, and ext4's journal does the rest.
	_ = unix.Mount("", dataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	return unix.Reboot(cmd)
}
