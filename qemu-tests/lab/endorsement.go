package lab

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// EndorsementSum says which TPM a machine that is off has: the SHA-256, in hexadecimal, of its endorsement key (RSA 2048, TCG
// template L-1) as SubjectPublicKeyInfo, which tpm2_createek and openssl would say as well.
func (m *Machine) EndorsementSum() string {
	m.lab.t.Helper()
	sum, err := m.endorsementSum()
	if err != nil {
		m.lab.t.Fatalf("machine %s: ask its TPM which one it is: %v", m.name, err)
	}
	return sum
}

func (m *Machine) endorsementSum() (string, error) {
	if m.Running() {
		return "", errors.New("the machine is on")
	}
	state, socket := filepath.Join(m.dir, "tpm"), m.sockets.tpm+"-off"
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	p, err := startProcess(spawner(), exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state,
		"--server", "type=unixio,path="+socket, "--flags", "startup-clear"))
	if err != nil {
		return "", err
	}
	defer p.kill()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if p.exited() || time.Now().After(deadline) {
			return "", errors.New("swtpm did not come up")
		}
	}
	chip, err := linuxudstpm.Open(socket)
	if err != nil {
		return "", err
	}
	defer chip.Close()
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(tpm2.RSAEKTemplate)}.Execute(chip)
	if err != nil {
		return "", err
	}
	public, err := r.OutPublic.Contents()
	if err != nil {
		return "", err
	}
	parameters, err := public.Parameters.RSADetail()
	if err != nil {
		return "", err
	}
	unique, err := public.Unique.RSA()
	if err != nil {
		return "", err
	}
	key, err := tpm2.RSAPub(parameters, unique)
	if err != nil {
		return "", err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}
