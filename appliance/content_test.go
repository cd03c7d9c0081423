package appliance

import (
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/content"
	contentclient "branchpoint/services/content/client"
)

// addImage adds a disk image of random content to a store.
func addImage(t *testing.T, to *content.Store, name string, size int) provisioning.ContentRef {
	t.Helper()
	b := make([]byte, size)
	random := rand.New(rand.NewPCG(1, uint64(size)))
	for i := 512; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], random.Uint64())
	}
	// A master boot record with one partition over the whole disk.
	b[446+4] = 0x83
	binary.LittleEndian.PutUint32(b[446+8:], 1)
	binary.LittleEndian.PutUint32(b[446+12:], uint32(size/512-1))
	copy(b[510:], "\x55\xaa")
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	added, err := content.Add(t.Context(), to, name, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return added.Ref
}

// TestAPackageWithoutRoomHoldsNoneBack syncs a large package and a small one onto a disk that has room for the small one.
func TestAPackageWithoutRoomHoldsNoneBack(t *testing.T) {
	open := func() *content.Store {
		s, err := content.Open(filepath.Join(t.TempDir(), "content"), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		return s
	}
	central, here := open(), open()
	large, small := addImage(t, central, "large", 8<<20), addImage(t, central, "small", 2<<20)
	server := httptest.NewServer(content.NewReadHandler(central, func(*http.Request) error { return nil }, nil))
	t.Cleanup(server.Close)
	upstream := contentclient.New(server.URL, nil)
	full := provisioning.Errorf(provisioning.CodeNoSpace, "Take packages out.", "no room")
	snapshot := &provisioning.Snapshot{Content: []provisioning.ContentRef{large, small}}
	for _, c := range []struct {
		name string
		// asks is how often there is room once the small package is here.
		asks int
	}{{"none at the beginning", 0}, {"none any more", 1}} {
		asked := 0
		var needed []int64
		s := &site{appliance: testAppliance(), content: here, installed: map[provisioning.SHA256]bool{}}
		s.room = func(bytes int64) error {
			if !here.Installed(small) {
				return nil
			}
			if asked++; asked <= c.asks {
				return nil
			}
			needed = append(needed, bytes)
			return full
		}
		err := s.syncSnapshot(t.Context(), upstream, snapshot, make(chan struct{}))
		if provisioning.CodeOf(err) != provisioning.CodeNoSpace || provisioning.NextOf(err) == "" || !strings.Contains(err.Error(), "large") || strings.Contains(err.Error(), "small") {
			t.Fatalf("%s: %v", c.name, err)
		}
		if !s.isInstalled(small) || s.isInstalled(large) || here.Installed(large) {
			t.Errorf("%s: installed %v", c.name, s.installed)
		}
		if len(needed) < 2 || needed[1] <= 0 || needed[1] > large.Size {
			t.Errorf("%s: needed %v of %d", c.name, needed, large.Size)
		}
	}
	// As soon as there is room, it goes on.
	s := &site{appliance: testAppliance(), content: here, installed: map[provisioning.SHA256]bool{}, room: func(int64) error { return nil }}
	if err := s.syncSnapshot(t.Context(), upstream, snapshot, make(chan struct{})); err != nil {
		t.Fatal(err)
	}
	if it := s.screen.Items()[topicContent]; !s.isInstalled(large) || it.State != screen.OK {
		t.Errorf("installed %v, and the screen says %+v", s.installed, it)
	}
}
