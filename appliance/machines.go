package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch"
)

// maxShown is how many machines of a kind the screen lists; it says how many more there are.
const maxShown = 4

// machinesItem says which machines need a person: those that cannot be told from others, those that wait for an approval,
// and, as long as the history of runs is not back, all for which something is required.
func machinesItem(conflicts, waiting []branch.Notice, historyComplete bool) screen.Item {
	if len(conflicts)+len(waiting) == 0 && historyComplete {
		return screen.Item{State: screen.OK, Text: "none waits for a person"}
	}
	var text, next []string
	if !historyComplete {
		text = append(text, "what has run at this site before is not known here yet: nothing that is required begins")
		next = append(next, "It comes from central by itself. If nothing ever ran at this site, type: approve history")
	}
	if len(waiting) > 0 {
		text = append(text, plural(len(waiting), "computer")+" more than the wipe cap allows in an hour:")
		text = append(text, noticeLines(waiting)...)
		next = append(next, fmt.Sprintf("If these disks are to be erased, type: approve wipes %d (or at central: branchpoint pxe approve SITE %d)", len(waiting), len(waiting)))
	}
	if len(conflicts) > 0 {
		text = append(text, plural(len(conflicts), "conflicting record")+", which get nothing:")
		text = append(text, noticeLines(conflicts)...)
		next = append(next, "Correct the documents of these computers at central, where \"branchpoint conflicts\" lists them.")
	}
	return screen.Item{State: screen.Problem, Text: strings.Join(text, "\n"), Next: strings.Join(next, "\n")}
}

func noticeLines(list []branch.Notice) []string {
	var out []string
	for i, n := range list {
		if i == maxShown {
			return append(out, fmt.Sprintf("  and %d more", len(list)-maxShown))
		}
		line := "  " + string(n.Machine.MAC)
		if n.Conflict != nil {
			line += ": " + n.Conflict.Text
		} else {
			line += " " + n.Computer
		}
		out = append(out, line)
	}
	return out
}

// watchMachines shows which machines need a person, until ctx ends.
func (s *site) watchMachines(ctx context.Context) error {
	told := [2]int{}
	return s.branch.Watch(ctx, func() {
		conflicts, waiting := s.branch.Notices()
		s.screen.Set(topicMachines, machinesItem(conflicts, waiting, s.branch.HistoryComplete()))
		if now := [2]int{len(conflicts), len(waiting)}; now != told {
			told = now
			s.emit("machines", map[string]any{"conflicts": len(conflicts), "waiting": len(waiting)})
		}
	})
}

// machineDesk is what people at the console ask of the branch about machines.
type machineDesk interface {
	ApproveWipes(ctx context.Context, wipes int) (int, error)
	ApproveSecrets(computer string) (time.Time, error)
	AcceptHistory(ctx context.Context) error
	HistoryComplete() bool
	NoteConsole(text string)
	explainer
}

// setDesk says whom the console's commands about machines ask; nil is nobody. It is told
// what central is to know of shells meanwhile.
func (a *appliance) setDesk(d machineDesk) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.desk = d
	if d != nil {
		a.console.tell(d)
	}
}

// machines is whom the console's commands ask. It fails while no site runs.
func (a *appliance) machines() (machineDesk, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.desk == nil {
		return nil, errors.New("this appliance does not serve a site now; the lines above say why")
	}
	return a.desk, nil
}

// approve is the command of that name.
func (a *appliance) approve(ctx context.Context, args []string, out io.Writer) error {
	desk, err := a.machines()
	if err != nil {
		return err
	}
	switch {
	case len(args) == 2 && args[0] == "wipes":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return fmt.Errorf("%q is no number; type, for example: approve wipes 5", args[1])
		}
		left, err := desk.ApproveWipes(ctx, n)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "  %s may begin beyond the wipe cap in the next 24 hours\n", plural(left, "deployment"))
		return nil
	case len(args) == 2 && args[0] == "secrets":
		until, err := desk.ApproveSecrets(args[1])
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "  the next start of %s is given secrets, until %s UTC; see that it is that computer which starts\n", args[1], until.UTC().Format(time.TimeOnly))
		return nil
	case len(args) == 1 && args[0] == "history":
		if desk.HistoryComplete() {
			fmt.Fprintln(out, "  the history of what has run here is complete already")
			return nil
		}
		fmt.Fprintln(out, "  From then on every required advertisement erases each computer that this appliance does not know to have been deployed.")
		fmt.Fprintln(out, "  If no other appliance has ever deployed computers here, type: approve history yes")
		return nil
	case len(args) == 2 && args[0] == "history" && args[1] == "yes":
		if err := desk.AcceptHistory(ctx); err != nil {
			return err
		}
		fmt.Fprintln(out, "  what is required begins from now on")
		return nil
	}
	return errors.New("type: approve wipes N, or: approve secrets COMPUTER, or: approve history")
}

// explainer decides as the branch does, touches nothing, and says it as central's explain does.
type explainer interface {
	Explain(m provisioning.Machine) []string
}

// bootWays are the firmwares that explain knows.
var bootWays = map[string]provisioning.Arch{"bios": provisioning.ArchBIOS, "uefi": provisioning.ArchUEFIx64, "http": provisioning.ArchHTTPBootx64}

// explain is the command of that name: MAC address, and in any order SMBIOS GUID and firmware.
func (a *appliance) explain(_ context.Context, args []string, out io.Writer) error {
	desk, err := a.machines()
	if err != nil {
		return err
	}
	m, err := describedMachine(args)
	if err != nil {
		return err
	}
	for _, line := range desk.Explain(m) {
		fmt.Fprintln(out, "  "+line)
	}
	return nil
}

// describedMachine reads what a person types of a machine. Without another word it boots by UEFI.
func describedMachine(args []string) (provisioning.Machine, error) {
	usage := errors.New("type: explain MAC [GUID] [bios|uefi|http]")
	if len(args) == 0 || len(args) > 3 {
		return provisioning.Machine{}, usage
	}
	mac, err := provisioning.ParseMAC(args[0])
	if err != nil {
		return provisioning.Machine{}, err
	}
	m := provisioning.Machine{MAC: mac, Arch: provisioning.ArchUEFIx64}
	for _, word := range args[1:] {
		if arch, ok := bootWays[strings.ToLower(word)]; ok {
			m.Arch = arch
			continue
		}
		if m.GUID, err = provisioning.ParseGUID(word); err != nil {
			return provisioning.Machine{}, fmt.Errorf("%w; %w", err, usage)
		}
	}
	return m, nil
}

// siteDesk is the branch as the console sees it.
type siteDesk struct{ *branch.Branch }

func (d siteDesk) Explain(m provisioning.Machine) []string {
	decision := d.Branch.Explain(m)
	return policy.Explanation(m, &decision)
}
