package appliance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/policy"
	"branchpoint/services/branch"
	centralclient "branchpoint/services/central/client"
	"branchpoint/services/store"
)

// TestAppliancesAreNoTargets: the machine of one site's appliance gets nothing at another site, where everything unknown would be
// erased, once that has heard of it from central; and nothing at its own from the start.
func TestAppliancesAreNoTargets(t *testing.T) {
	ctx := t.Context()
	s, err := serve(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	}()
	request := centralclient.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(`apiVersion: branchpoint/v1
kind: Site
metadata: {name: LON}
spec: {pxe: {mode: proxy, unknownComputers: {}}, distributionPoint: {}}
---
apiVersion: branchpoint/v1
kind: Site
metadata: {name: PAR}
spec: {pxe: {mode: proxy, unknownComputers: {}}, distributionPoint: {}}
---
apiVersion: branchpoint/v1
kind: TaskSequence
metadata: {name: install}
spec: {steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]}
---
apiVersion: branchpoint/v1
kind: Advertisement
metadata: {name: strangers}
spec: {taskSequence: install, collection: all-unknown-computers, purpose: required}
`)}}}
	request.Confirm = "unknown"
	if _, err := s.admin.Apply(ctx, request); err != nil {
		t.Fatal(err)
	}
	at := func(site string, own provisioning.Hardware) (br *branch.Branch) {
		t.Helper()
		db, err := store.Open(ctx, filepath.Join(t.TempDir(), "branch.db"), store.Alone())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		far := centralclient.NewBranch(centralclient.BranchConfig{
			Address: s.address, CASHA256: s.CASHA256(), Now: time.Now, Certificate: func() (tls.Certificate, error) { return br.ClientCertificate() },
		})
		br, err = branch.New(ctx, branch.Config{
			Site: site, CentralCA: s.CASHA256(), Store: db, Central: centralSide{far}, Own: func() provisioning.Hardware { return own },
			Log: slog.New(slog.DiscardHandler), Now: time.Now, Rand: rand.Reader,
		})
		token, failed := s.admin.CreateToken(ctx, site, time.Hour, false)
		if err = errors.Join(err, failed); err == nil {
			err = br.Enrol(ctx, token.Token)
		}
		if err != nil {
			t.Fatal(err)
		}
		return br
	}
	machine := provisioning.Machine{MAC: "52:54:00:00:00:0a", GUID: "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", Arch: provisioning.ArchUEFIx64}
	stranger := provisioning.Machine{MAC: "52:54:00:00:00:99", GUID: "99999999-9999-4999-8999-999999999999", Arch: provisioning.ArchUEFIx64}
	par := at("PAR", provisioning.Hardware{})
	lon := at("LON", provisioning.Hardware{MACAddresses: []provisioning.MAC{machine.MAC}})
	var all sync.WaitGroup
	defer all.Wait()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	follow := func(br *branch.Branch) {
		t.Helper()
		all.Go(func() { _ = br.Follow(work) })
		eventually(t, "the configuration", func() bool { d := br.Explain(stranger); return d.Action == policy.Boot })
	}
	follow(par)
	if d := par.Explain(machine); d.Action != policy.Boot {
		t.Errorf("PAR: nobody has said yet what it is: %q", d.Lines())
	}
	follow(lon)
	if d := lon.Explain(machine); d.Rule() != policy.RuleInfrastructure || d.Action != policy.Silent {
		t.Errorf("LON: %q", d.Lines())
	}
	eventually(t, "central's word", func() bool {
		d := par.Explain(machine)
		return d.Rule() == policy.RuleInfrastructure && d.Action == policy.Silent
	})
	if d := par.Explain(stranger); d.Action != policy.Boot {
		t.Errorf("PAR: %q", d.Lines())
	}
}
