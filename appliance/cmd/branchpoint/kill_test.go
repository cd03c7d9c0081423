package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"branchpoint/services/store"

	"golang.org/x/sys/unix"
)

var (
	kills    = flag.Int("kills", 20, "how often TestKilledDuringApply kills central")
	killSeed = flag.Uint64("seed", 1, "chooses the changes during which central is killed, and the moments")
)

// manyKills are enough that every phase of a change must have been hit.
const manyKills = 100

// killed is a central whose process is killed again and again.
type killed struct {
	t       *testing.T
	r       *rand.Rand
	dir     string // central's data
	folder  string // the configuration that is applied
	process *exec.Cmd
	startup time.Duration
	watch   watch
	// newest is the newest generation that was applied, or should have been; is is the configuration in force, and made says
	// which one each change has made.
	newest int
	is     configuration
	made   map[uint64]configuration
}

// command is a change as a person makes it.
type command struct {
	args  []string
	after configuration
}

// next chooses a change of what is in force: to another configuration, so that before and after can be told apart.
func (k *killed) next() command {
	k.t.Helper()
	choices := []func() command{k.apply, k.apply, k.rollBack}
	if k.is.variant == whole {
		choices = append(choices, k.remove, k.importList)
	}
	return choices[k.r.IntN(len(choices))]()
}

// apply applies the folder of another generation, and deletes everything that is not in it.
func (k *killed) apply() command {
	k.t.Helper()
	k.newest++
	next := configuration{k.newest, whole}
	if err := next.write(k.folder); err != nil {
		k.t.Fatal(err)
	}
	return command{[]string{"apply", "-f", k.folder, "--prune"}, next}
}

// rollBack goes back to a change that made another configuration.
func (k *killed) rollBack() command {
	k.t.Helper()
	var numbers []uint64
	for n := range k.made {
		if k.made[n] != k.is {
			numbers = append(numbers, n)
		}
	}
	if len(numbers) == 0 {
		return k.apply()
	}
	n := numbers[k.r.IntN(len(numbers))]
	return command{[]string{"rollback", strconv.FormatUint(n, 10)}, k.made[n]}
}

// remove deletes computers of every site.
func (k *killed) remove() command {
	args := []string{"delete", "computer"}
	for s := range killSites {
		for c := range killVaried {
			args = append(args, computerName(s, c))
		}
	}
	return command{args, configuration{k.is.generation, fewer}}
}

// importList imports a list of more computers for every site.
func (k *killed) importList() command {
	k.t.Helper()
	next := configuration{k.is.generation, more}
	path := filepath.Join(k.folder, "more.csv")
	if err := os.WriteFile(path, []byte(next.list()), 0o600); err != nil {
		k.t.Fatal(err)
	}
	return command{[]string{"import", "computers", path}, next}
}

// run runs the program as a person does; the channel gets how it ended.
func (k *killed) run(args ...string) <-chan error {
	done := make(chan error, 1)
	cmd := exec.Command("branchpoint", args...) // testscript.Main has put it there
	cmd.Env = append(os.Environ(), "BRANCHPOINT_ADMIN="+filepath.Join(k.dir, centralAdmin))
	go func() {
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		done <- err
	}()
	return done
}

// launch starts central's process; ready waits until it answers.
func (k *killed) launch() (ready func()) {
	k.t.Helper()
	k.process = exec.Command("branchpoint", "central", "--data", k.dir, "--listen", "127.0.0.1:0")
	out, err := k.process.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	var log strings.Builder
	k.process.Stderr = &log
	if err := k.process.Start(); err != nil {
		k.t.Fatal(err)
	}
	begin, process := time.Now(), k.process
	return func() {
		k.t.Helper()
		hung := time.AfterFunc(2*time.Minute, func() { _ = process.Process.Kill() })
		defer hung.Stop()
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "administer it with") {
				k.startup = time.Since(begin)
				return
			}
		}
		k.t.Fatalf("central did not start: %v\n%s", errors.Join(lines.Err(), process.Wait()), log.String())
	}
}

// kill ends the process as a power cut does.
func (k *killed) kill() {
	k.t.Helper()
	if err := k.process.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	_ = k.process.Wait() // that it was killed
}

// freeze stops the process where it is: how it stands can be looked at before it is killed.
func (k *killed) freeze() {
	k.t.Helper()
	if err := k.process.Process.Signal(unix.SIGSTOP); err != nil {
		k.t.Fatal(err)
	}
	for {
		err := unix.Waitid(unix.P_PID, k.process.Process.Pid, nil, unix.WSTOPPED, nil)
		if err == nil {
			return
		}
		if !errors.Is(err, unix.EINTR) {
			k.t.Fatal(err)
		}
	}
}

// dead is what a kill has left.
type dead struct {
	found
	phase phase // in which central was killed, as its files say
	torn  bool  // the database's log ends in the middle of a transaction
}

// during kills central while it makes a change: in about that phase of it, after that part of the time that the phase takes.
// It returns what is left, and the error of the command, nil if central had answered that all is done.
func (k *killed) during(c command, want phase, part float64) (dead, error) {
	k.t.Helper()
	lock, err := os.Open(filepath.Join(k.dir, centralDatabase+"-shm"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer lock.Close()
	answer := k.run(c.args...)
	err, answered := k.watch.wait(lock, c.args[0], want, part, answer)
	k.freeze()
	writing := writerHeld(lock)
	k.kill()
	if !answered {
		err = <-answer
	}
	dir, failed := os.MkdirTemp("", "branchpoint-killed-") // not k.t.TempDir: they would all stay until the end
	if failed != nil {
		k.t.Fatal(failed)
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{centralDatabase, centralDatabase + "-wal"} {
		b, err := os.ReadFile(filepath.Join(k.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			k.t.Fatal(err)
		}
	}
	d := dead{torn: torn(k.t, filepath.Join(dir, centralDatabase+"-wal"))}
	d.found = k.look(dir)
	d.phase = phaseOf(k.is, d.found, writing)
	return d, err
}

// look opens the database in a folder, and wants each of its parts to be whole.
func (k *killed) look(dir string) found {
	k.t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(dir, centralDatabase))
	if err != nil {
		k.t.Fatal(err)
	}
	defer db.Close()
	return look(k.t, db)
}

// TestKilledDuringApply kills central's process at random moments of changes of some hundred documents each: of a folder that
// is applied and everything else deleted, of a rollback, a deletion, an import; and some times once more while it starts after that.
// What is in force and what is published afterwards is what was before or what was asked for, never anything between, with its
// history and its audit entries, and never less than what was answered for.
func TestKilledDuringApply(t *testing.T) {
	k := &killed{
		t: t, r: rand.New(rand.NewPCG(*killSeed, 0)), dir: t.TempDir(), folder: t.TempDir(),
		made: map[uint64]configuration{}, watch: watch{},
	}
	k.launch()()
	k.rehearse()
	hits, tornLogs, restarts := [phases]int{}, 0, 0
	for i := range *kills {
		c, want := k.next(), phase(k.r.IntN(int(phases)))
		d, err := k.during(c, want, k.r.Float64())
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, kill %d, %v from %v to %v, killed %s (%v): "+format, append([]any{*killSeed, i, c.args[:2], k.is, c.after, d.phase, err}, args...)...)
		}
		switch {
		case d.inForce != k.is && d.inForce != c.after, err == nil && d.inForce != c.after:
			fail("%v is in force", d.inForce)
		case d.published != d.inForce && d.published != k.is:
			fail("%v is published", d.published)
		case d.inForce == c.after && k.made[d.change] != (configuration{}), d.inForce != c.after && k.made[d.change] != d.inForce:
			fail("change %d is the newest, which made %v", d.change, k.made[d.change])
		}
		hits[d.phase]++
		if d.torn {
			tornLogs++
		}
		ready := k.launch()
		if k.r.IntN(4) == 0 { // a restart publishes what the kill has kept from it
			time.Sleep(time.Duration(k.r.Float64() * float64(k.startup)))
			k.kill()
			restarts++
			ready = k.launch()
		}
		ready()
		now := k.look(k.dir)
		if now.inForce != d.inForce || now.published != d.inForce || now.change != d.change {
			fail("%+v was left; after the restart it is %+v", d.found, now)
		}
		k.is, k.made[now.change] = now.inForce, now.inForce
	}
	k.kill()
	for p, n := range hits {
		t.Logf("%3d × killed %s", n, phase(p))
		if *kills >= manyKills && n < *kills/(5*int(phases)) {
			t.Errorf("that is too seldom to say anything of that phase")
		}
	}
	t.Logf("seed %d: %d kills, %d in the middle of what was written to the log; %d more during the restart", *killSeed, *kills, tornLogs, restarts)
}

// rehearse makes each change once without killing anybody, to see how long its phases take, and to have what can be gone back to.
func (k *killed) rehearse() {
	k.t.Helper()
	lock, err := os.Open(filepath.Join(k.dir, centralDatabase+"-shm"))
	if err != nil {
		k.t.Fatal(err)
	}
	defer lock.Close()
	for _, next := range []func() command{k.apply, k.apply, k.remove, k.rollBack, k.apply, k.importList} {
		c := next()
		answer := k.run(c.args...)
		err, answered := k.watch.wait(lock, c.args[0], phases, 0, answer)
		if !answered {
			err = <-answer
		}
		if err != nil {
			k.t.Fatal(err)
		}
		now := k.look(k.dir)
		if now.inForce != c.after || now.published != c.after {
			k.t.Fatalf("%v: %+v", c.args[:2], now)
		}
		k.is, k.made[now.change] = c.after, c.after
	}
}
