package steps

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestProbeAgreesWithMkfs makes real file systems; a tool that is not installed leaves its case out.
func TestProbeAgreesWithMkfs(t *testing.T) {
	// New for every run: mkfs.btrfs refuses a UUID that any block device of the host already carries.
	b := make([]byte, 16)
	rand.Read(b)
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	for _, c := range []struct {
		args []string
		want FileSystemInfo
	}{
		{[]string{"mkfs.ext4", "-q", "-F", "-U", uuid, "-L", "my root"}, FileSystemInfo{"ext4", uuid, "my root"}},
		{[]string{"mkfs.vfat", "-F", "32", "-i", "13D0E5B0", "-n", "MY ESP"}, FileSystemInfo{"vfat", "13D0-E5B0", "MY ESP"}},
		{[]string{"mkfs.vfat", "-F", "16", "-i", "13D0E5B0", "-n", "ESP16"}, FileSystemInfo{"vfat", "13D0-E5B0", "ESP16"}},
		{[]string{"mkswap", "-U", uuid, "-L", "swap"}, FileSystemInfo{"swap", uuid, "swap"}},
		{[]string{"mkfs.xfs", "-q", "-m", "uuid=" + uuid, "-L", "xfs"}, FileSystemInfo{"xfs", uuid, "xfs"}},
		{[]string{"mkfs.btrfs", "-q", "-U", uuid, "-L", "btrfs"}, FileSystemInfo{"btrfs", uuid, "btrfs"}},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			if _, err := exec.LookPath(c.args[0]); err != nil {
				t.Skip(c.args[0], "is not installed")
			}
			name := filepath.Join(t.TempDir(), "fs")
			f, err := os.Create(name)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(400 << 20); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(c.args[0], append(c.args[1:], name)...).CombinedOutput(); err != nil {
				t.Fatalf("%v %s", err, out)
			}
			got, ok := ProbeFileSystem(f)
			if !ok || got != c.want {
				t.Errorf("got %+v %v", got, ok)
			}
		})
	}
	for _, b := range [][]byte{nil, make([]byte, 512), make([]byte, 1<<20), bytes.Repeat([]byte{0xff}, 1<<20)} {
		if got, ok := ProbeFileSystem(bytes.NewReader(b)); ok {
			t.Errorf("%d bytes of nothing: %+v", len(b), got)
		}
	}
}

func FuzzProbeFileSystem(f *testing.F) {
	b := make([]byte, probeSize)
	copy(b, "XFSB")
	f.Add(b)
	f.Add(b[:4096])
	f.Fuzz(func(t *testing.T, b []byte) {
		fsi, ok := ProbeFileSystem(bytes.NewReader(b))
		if ok && (fsi.Type == "" || len(fsi.UUID) > 36 || len(fsi.Label) > 256 || strings.ContainsRune(fsi.Label, 0)) {
			t.Errorf("%+v", fsi)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add([]byte(`{"partitiontable":{"label":"gpt","partitions":[{"node":"/dev/sda1","start":1,"size":1,"type":"83"}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if tab, err := ParseTable(b); err == nil {
			tab.Growable()
		}
	})
}
