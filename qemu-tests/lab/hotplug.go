package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// HotPlug are the QEMU arguments for Config.Args that give a machine the controller which [Machine.Plug] needs.
var HotPlug = []string{"-device", "virtio-scsi-pci,id=hotplug"}

// Plugged is a disk that is hung on a machine while it runs, on SCSI.
type Plugged struct {
	// Path is that of a raw file, or Flaky a disk that can be made to fail.
	Path     string
	Flaky    *FlakyDisk
	Serial   string
	ReadOnly bool
}

// Plug hangs a disk on the running machine, under an id that [Machine.Unplug] takes. It is gone at the next power-on.
func (m *Machine) Plug(id string, d Plugged) {
	m.lab.t.Helper()
	file := map[string]any{"driver": "file", "filename": d.Path, "read-only": d.ReadOnly, "discard": "unmap"}
	if d.Flaky != nil {
		file = map[string]any{"driver": "nbd", "server": map[string]any{"type": "unix", "path": d.Flaky.socket}, "read-only": d.ReadOnly, "discard": "unmap"}
	}
	m.QMP("blockdev-add", map[string]any{
		"driver": "raw", "node-name": id, "file": file, "read-only": d.ReadOnly, "discard": "unmap",
		"cache": map[string]any{"no-flush": true}, // as of the disks that a machine starts with: see diskArgs
	}, nil)
	m.QMP("device_add", map[string]any{"driver": "scsi-hd", "bus": "hotplug.0", "id": id + "-disk", "drive": id, "serial": d.Serial}, nil)
}

// Unplug pulls a disk out of the running machine, whatever that does with it.
func (m *Machine) Unplug(id string) {
	m.lab.t.Helper()
	m.QMP("device_del", map[string]any{"id": id + "-disk"}, nil)
	const limit = 30 * time.Second
	ctx, cancel := m.watch(limit)
	defer cancel()
	err := m.awaitQMP(ctx, func() bool {
		for _, e := range m.qmpLog {
			if e.Name == "DEVICE_DELETED" && e.Data["device"] == id+"-disk" {
				return true
			}
		}
		return false
	})
	if err != nil {
		m.lab.t.Fatal(m.missing("the end of disk "+id, limit, err))
	}
	m.QMP("blockdev-del", map[string]any{"node-name": id}, nil)
}

// FlakyDisk is a disk that can be made to fail, and work again: the machine reaches its file through a program of its own,
// without which every request ends with an error.
type FlakyDisk struct {
	lab          *Lab
	path, socket string
	proc         *process
}

// FlakyDisk gives a raw file as a disk that works so far, for [Machine.Plug].
func (l *Lab) FlakyDisk(path string) *FlakyDisk {
	l.t.Helper()
	d := &FlakyDisk{lab: l, path: path, socket: filepath.Join(l.run, fmt.Sprintf("nbd.%x", derive(path))[:20])}
	d.Mend()
	l.onClose(func() { d.proc.kill() })
	return d
}

// Break makes every request of the machine fail from now on.
func (d *FlakyDisk) Break() {
	d.proc.kill()
	_ = os.Remove(d.socket) // the next one makes its own
}

// Mend makes the disk work again, with what it held.
func (d *FlakyDisk) Mend() {
	d.lab.t.Helper()
	cmd := exec.Command("qemu-nbd", "--persistent", "--format=raw", "--cache=unsafe", "--discard=unmap", "--shared=4", "--socket="+d.socket, d.path)
	p, err := startProcess(spawner(), cmd)
	if err != nil {
		d.lab.t.Fatalf("flaky disk: %v", err)
	}
	d.proc = p
	ctx, cancel := d.lab.limit(30 * time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(d.socket); err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-p.done:
			d.lab.t.Fatalf("flaky disk: qemu-nbd ended at once: %v", p.cmd.ProcessState)
		case <-ctx.Done():
			d.lab.t.Fatal("flaky disk: qemu-nbd does not come up")
		}
	}
}
