package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
	"branchpoint/services/pxe"
	"branchpoint/services/store"
)

// oneSnapshot is a central site that sends one snapshot.
type oneSnapshot struct {
	key    ed25519.PrivateKey
	signed chan *provisioning.SignedSnapshot
}

func (c oneSnapshot) Enrol(_ context.Context, _ string, csr []byte) (branch.Enrolment, error) {
	return branch.Enrolment{Certificate: csr, SnapshotKey: c.key.Public().(ed25519.PublicKey)}, nil
}

func (c oneSnapshot) Snapshot(ctx context.Context, _, _ uint64, _ time.Duration) (*provisioning.SignedSnapshot, error) {
	select {
	case s := <-c.signed:
		return s, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (oneSnapshot) Report(context.Context, []provisioning.StatusMessage) error { return nil }

// TestWhatTheServicePointIsTold: the site's computers are its known machines, and what it notices nobody has to take.
func TestWhatTheServicePointIsTold(t *testing.T) {
	a := testAppliance()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const mac, guid = provisioning.MAC("52:54:00:00:00:01"), provisioning.GUID("22222222-2222-4222-8222-222222222222")
	signed, err := provisioning.SignSnapshot(&provisioning.Snapshot{
		Epoch: 1, Number: 1, IssuedAt: time.Now(), Site: provisioning.Site{Name: "LON"},
		Computers: []provisioning.Computer{{Name: "desk-1", Spec: provisioning.ComputerSpec{MACAddresses: []provisioning.MAC{mac}, SMBIOSGUID: guid}}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	c := oneSnapshot{key, make(chan *provisioning.SignedSnapshot, 1)}
	c.signed <- signed
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "branch.db"), store.Alone())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &site{appliance: a, db: db}
	s.branch, err = branch.New(t.Context(), branch.Config{Site: "LON", Store: db, Central: c, Log: a.Log, Now: a.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	others := make(chan otherServer, 1)
	deps := s.pxeDeps(others)
	if deps.Known(mac, guid) {
		t.Error("it is known before there is a snapshot")
	}
	if err := s.branch.Enrol(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	_, changed := s.branch.Snapshot()
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan struct{})
	go func() { _ = s.branch.Follow(ctx); close(followed) }()
	defer func() { stop(); <-followed }()
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Fatal("no snapshot is in force")
	}
	if !deps.Known(mac, "") || !deps.Known("52:54:00:00:00:02", guid) || deps.Known("52:54:00:00:00:02", "") {
		t.Error("the snapshot's computers and no others are to be known")
	}
	for range 3 {
		deps.OtherServer("eth0", netip.MustParseAddr("192.0.2.1"))
	}
	if o := <-others; o != (otherServer{"eth0", netip.MustParseAddr("192.0.2.1")}) {
		t.Errorf("told of %v", o)
	}
}

// TestAnotherDHCPServerIsShown: as long as clients are seen to use it, with what to do, and not for ever.
func TestAnotherDHCPServerIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &site{appliance: testAppliance()}
		others := make(chan otherServer, 1)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		text := pxeText(provisioning.PXEModeDHCP, []pxe.Interface{{Name: "eth0", Prefix: netip.MustParsePrefix("192.0.2.10/24")}})
		go func() { s.showPXE(ctx, text, others); close(done) }()
		shown := func() screen.Item { synctest.Wait(); return s.screen.Items()[topicPXE] }
		alone := screen.Item{State: screen.OK, Text: "mode dhcp on eth0 192.0.2.10/24"}
		if it := shown(); it != alone {
			t.Errorf("alone: %+v", it)
		}
		for range 3 {
			others <- otherServer{"eth0", netip.MustParseAddr("192.0.2.1")}
			time.Sleep(otherServerTime - time.Second)
			it := shown()
			if !strings.HasPrefix(it.Text, alone.Text) || !strings.Contains(it.Text, "192.0.2.1, gives out addresses on eth0") || !strings.Contains(it.Next, "proxy") {
				t.Errorf("beside another: %+v", it)
			}
		}
		time.Sleep(2 * time.Second)
		if it := shown(); it != alone {
			t.Errorf("when the other one is gone: %+v", it)
		}
		stop()
		<-done
	})
}

// TestServicePointIsMadeAnew: only where what it is made of changes; each field of the role is one or the other.
func TestServicePointIsMadeAnew(t *testing.T) {
	anew := map[string]bool{"Mode": true, "Interfaces": true, "ResponseDelaySeconds": true, "DHCP": true}
	asked := map[string]bool{"UnknownComputers": true, "PasswordHash": true, "Ignore": true, "SharedAdapters": true, "WipesPerHour": true, "SecretsAfter": true}
	kind := reflect.TypeFor[provisioning.PXERole]()
	for i := range kind.NumField() {
		name := kind.Field(i).Name
		var role provisioning.PXERole
		switch f := reflect.ValueOf(&role).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Int:
			f.SetInt(7)
		case reflect.Slice:
			f.Set(reflect.MakeSlice(f.Type(), 1, 1))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		default:
			t.Fatalf("%s is a %s", name, f.Kind())
		}
		if anew[name] == asked[name] {
			t.Errorf("%s: say here whether the service point is made of it", name)
		}
		if changes := !reflect.DeepEqual(servicePoint(&role), servicePoint(&provisioning.PXERole{})); changes != anew[name] {
			t.Errorf("%s: the service point is made anew: %t, want %t", name, changes, anew[name])
		}
	}
	if servicePoint(nil) != nil {
		t.Error("a role that is off is a service point")
	}
}
