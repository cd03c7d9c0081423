// Package tpmtest gives tests a TPM 2.0 in software (swtpm, which setup.sh installs).
package tpmtest

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// Chip is a software TPM (swtpm, which setup.sh installs).
type Chip struct {
	socket string
	// Before is called with each command before the chip gets it, where it is set; what it returns is the answer, unless nil.
	Before func(command []byte) []byte
	// Sent is what went over the wires, both ways.
	Sent bytes.Buffer
}

// Start starts one that runs until the test ends.
func Start(t testing.TB) *Chip {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &Chip{socket: filepath.Join(dir, "s")}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+c.socket, "--flags", "startup-clear")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal("setup.sh installs it: ", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if s, err := net.Dial("unix", c.socket); err == nil {
			s.Close()
			return c
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// spy is one opening of a chip.
type spy struct {
	transport.TPMCloser
	chip *Chip
}

func (s spy) Send(command []byte) ([]byte, error) {
	if s.chip.Before != nil {
		if b := s.chip.Before(command); b != nil {
			return b, nil
		}
	}
	answer, err := s.TPMCloser.Send(command)
	s.chip.Sent.Write(command)
	s.chip.Sent.Write(answer)
	return answer, err
}

// Open reaches it, as a TPM is to be opened (tpm.New).
func (c *Chip) Open() (transport.TPMCloser, error) {
	t, err := linuxudstpm.Open(c.socket)
	return spy{t, c}, err
}
