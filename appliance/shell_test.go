package appliance

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/initramfs/events"
	"branchpoint/provisioning"

	"golang.org/x/sys/unix"
)

// siteWith is a site whose document allows a shell, or not.
func siteWith(shell bool) *provisioning.Site {
	return &provisioning.Site{Name: "LON", Spec: provisioning.SiteSpec{
		Admins: []string{"Jo Miller, +44 20 7946 0000"}, Texts: &provisioning.SiteTexts{Organization: "St Mary's", Welcome: "for clients"},
		Console: &provisioning.ConsoleSettings{Shell: shell},
	}}
}

// person sits at a console of an appliance, which is a real terminal.
type person struct {
	t       *testing.T
	keys    *os.File // what is typed goes here
	console *os.File // the appliance's side
	shown   lockedBuffer
}

func (p *person) text() string {
	p.shown.mu.Lock()
	defer p.shown.mu.Unlock()
	return p.shown.buf.String()
}

// types types a line and waits until the console shows something new.
func (p *person) types(line, want string) string {
	p.t.Helper()
	before := len(p.text())
	if _, err := p.keys.WriteString(line); err != nil {
		p.t.Fatal(err)
	}
	return p.sees(before, want)
}

func (p *person) sees(after int, want string) string {
	p.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		if new := p.text()[after:]; strings.Contains(new, want) {
			return new
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%q is not shown after\n%s", want, p.text()[after:])
		}
	}
}

// modes are the terminal modes of the console.
func (p *person) modes() unix.Termios {
	p.t.Helper()
	var modes unix.Termios
	err := control(p.console, func(fd int) error {
		m, err := unix.IoctlGetTermios(fd, unix.TCGETS)
		if err == nil {
			modes = *m
		}
		return err
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return modes
}

// atConsoles is an appliance with so many consoles, which people sit at.
func atConsoles(t *testing.T, n int) (*appliance, *fakeDesk, []*person) {
	t.Helper()
	desk := &fakeDesk{}
	a := &appliance{Options: Options{Log: slog.New(slog.DiscardHandler), Now: time.Now}, events: events.New(time.Now)}
	a.setDesk(desk)
	var people []*person
	var consoles []screen.Console
	for i := range n {
		keys, console, err := openPTY(&unix.Winsize{Row: 30, Col: 90})
		if err != nil {
			t.Fatal(err)
		}
		p := &person{t: t, keys: keys, console: console}
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = p.shown.readFrom(keys)
		}()
		t.Cleanup(func() {
			console.Close()
			keys.Close()
			<-read
		})
		people = append(people, p)
		consoles = append(consoles, screen.Console{Name: fmt.Sprintf("console%d", i), ReadWriter: console, Redraw: i == 0})
	}
	a.screen = screen.New("Branchpoint appliance", nil, consoles, a.commands())
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go a.screen.Serve(ctx)
	return a, desk, people
}

// readFrom keeps what is read.
func (l *lockedBuffer) readFrom(f *os.File) (int, error) {
	buf := make([]byte, 4096)
	for {
		n, err := f.Read(buf)
		_, _ = l.Write(buf[:n])
		if err != nil {
			return 0, err
		}
	}
}

// running reports whether a process of that number runs.
func running(t *testing.T, pid string) bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// jobNumber is what inShell has the shell say.
var jobNumber = regexp.MustCompile(`job-(\d+)-is-there`)

// inShell opens a shell, and a program in it that goes on in the background, whose number it returns.
func inShell(t *testing.T, p *person) (pid string) {
	t.Helper()
	p.types("shell\n", "exit leads back")
	before := len(p.text())
	p.types("sleep 5000 & echo job-$!-is-there; echo $((1+1))-said\n", "2-said")
	m := jobNumber.FindStringSubmatch(p.text()[before:])
	if m == nil || !running(t, m[1]) {
		t.Fatalf("no process %q runs:\n%s", m, p.text())
	}
	return m[1]
}

func TestShellIsRefusedUnlessCentralAllowsIt(t *testing.T) {
	a, desk, people := atConsoles(t, 2)
	for _, p := range people {
		p.types("shell\n", "there is no configuration from central here yet")
	}
	a.heed(siteWith(false))
	a.heed(&provisioning.Site{Name: "LON"})
	for _, p := range people {
		p.types("shell\n", "an administrator can, by spec.console: {shell: true} of site LON")
		p.types("shell now\n", "shell: type: shell")
		p.types("echo nothing runs this\n", `there is no command "echo"`)
	}
	if len(desk.notes) != 0 {
		t.Errorf("central is told %q", desk.notes)
	}
}

func TestShell(t *testing.T) {
	a, desk, people := atConsoles(t, 2)
	a.heed(siteWith(true))
	for i, p := range people {
		before := p.modes()
		pid := inShell(t, p)
		p.types("echo $((40+2))-in-the-shell\n", "42-in-the-shell\r\n")
		p.types("stty size; stty -echo raw\n", "30 90")
		a.screen.Set("Topic", screen.Item{Text: fmt.Sprintf("changed %d", i)}) // nobody is disturbed
		p.types("echo still-$((1+1))\n", "still-2")
		mark := len(p.text())
		p.types("exit 3\n", "help lists the commands> ")
		if all := p.text(); strings.Contains(all[:mark], fmt.Sprintf("changed %d", i)) {
			t.Errorf("the screen was shown in the shell:\n%s", all)
		}
		p.sees(mark, fmt.Sprintf("changed %d", i))
		if running(t, pid) {
			t.Error("what ran in the shell runs on")
		}
		if after := p.modes(); after != before {
			t.Errorf("the terminal's modes are %+v, they were %+v", after, before)
		}
		p.types("help\n", "a command shell on this console")
		desk.mu.Lock()
		notes := desk.notes
		desk.notes = nil
		desk.mu.Unlock()
		if len(notes) != 2 || !strings.Contains(notes[0], fmt.Sprintf("a shell was opened at console%d", i)) || !strings.Contains(notes[1], "was left") {
			t.Errorf("central is told %q", notes)
		}
	}
}

// TestShellIsLeft: what has made itself a session of its own runs on, and holds the shell's terminal; the console is the screen's all
// the same, and another shell can be opened.
func TestShellIsLeft(t *testing.T) {
	a, _, people := atConsoles(t, 1)
	a.heed(siteWith(true))
	p := people[0]
	p.types("shell\n", "exit leads back")
	before := len(p.text())
	p.types("setsid sh -c 'echo job-$$-is-there; exec sleep 5000' &\n", "-is-there\r\n")
	m := jobNumber.FindStringSubmatch(p.sees(before, "-is-there\r\n"))
	if m == nil {
		t.Fatalf("no number is shown:\n%s", p.text())
	}
	pid, err := strconv.Atoi(m[1])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGKILL) })
	p.types("exit\n", "help lists the commands> ")
	if !running(t, m[1]) {
		t.Error("nothing held the terminal")
	}
	inShell(t, p)
	p.types("exit\n", "help lists the commands> ")
}

// TestShellEndsWhenCentralSaysSo: on all consoles, with everything that runs in it.
func TestShellEndsWhenCentralSaysSo(t *testing.T) {
	a, desk, people := atConsoles(t, 2)
	a.heed(siteWith(true))
	var pids []string
	for _, p := range people {
		pids = append(pids, inShell(t, p))
	}
	people[0].types("cat\n", "cat")
	a.heed(siteWith(true)) // changes nothing
	people[1].types("echo $((1+1))-goes-on\n", "2-goes-on")
	marks := []int{len(people[0].text()), len(people[1].text())}
	a.heed(siteWith(false))
	for i, p := range people {
		p.sees(marks[i], "central does not allow a shell any more")
		p.types("shell\n", "an administrator can")
		if running(t, pids[i]) {
			t.Error("what ran in the shell runs on")
		}
	}
	desk.mu.Lock()
	defer desk.mu.Unlock()
	if len(desk.notes) != 4 || !strings.Contains(strings.Join(desk.notes[2:], " "), "ended, as central does not allow a shell any more") {
		t.Errorf("central is told %q", desk.notes)
	}
}

// TestShellWithoutSite: what a shell was used for while no site ran is told as soon as one does, once, and bounded.
func TestShellWithoutSite(t *testing.T) {
	a, desk, people := atConsoles(t, 1)
	a.heed(siteWith(true))
	a.setDesk(nil)
	inShell(t, people[0])
	people[0].types("exit\n", "help lists the commands> ")
	if len(desk.notes) != 0 {
		t.Fatalf("%q", desk.notes)
	}
	a.setDesk(desk)
	a.setDesk(desk)
	if len(desk.notes) != 2 || !strings.HasPrefix(desk.notes[0], "a shell was opened at console0 (at 20") || !strings.Contains(desk.notes[1], "was left") {
		t.Errorf("central is told %q", desk.notes)
	}
	desk.notes = nil
	a.setDesk(nil)
	for range maxUntold + 3 {
		a.noteShell(&shellSession{"console0"}, "opened", "a shell was opened")
	}
	if a.setDesk(desk); len(desk.notes) != maxUntold+1 || !strings.HasPrefix(desk.notes[maxUntold], "3 more notes") {
		t.Errorf("central is told %q", desk.notes)
	}
}

// TestHeadOfTheScreen: organisation and admins stand on the appliance's screen, and what is for clients does not.
func TestHeadOfTheScreen(t *testing.T) {
	a, _, people := atConsoles(t, 2)
	a.heed(siteWith(false))
	for _, p := range people {
		p.sees(0, "St Mary's")
		p.sees(0, "Contact: Jo Miller, +44 20 7946 0000")
		if strings.Contains(p.text(), "for clients") {
			t.Errorf("got\n%s", p.text())
		}
	}
	s := siteWith(false)
	s.Spec.Texts.Organization = "\x1b[2Jevil\n\x9b31m" + strings.Repeat("é", 200)
	a.heed(s)
	for _, p := range people {
		if shown := p.sees(0, "evil"); strings.Contains(shown, "\x1b[2Jevil") || strings.Contains(shown, "\n\x9b") {
			t.Errorf("got %q", shown)
		}
	}
}
