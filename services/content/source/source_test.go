package source

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

// smallQcow2 makes a qcow2 image of 128 KiB in clusters of 512 bytes, with an MBR that has a partition.
func smallQcow2() []byte {
	be := binary.BigEndian
	b := make([]byte, 6*512)
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 9)       // cluster bits
	be.PutUint64(b[24:], 128<<10) // size
	be.PutUint32(b[36:], 4)       // L1 entries
	be.PutUint64(b[40:], 512)     // L1 table
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	be.PutUint64(b[512:], 2*512|1<<63) // L2 table
	be.PutUint64(b[2*512:], 3*512|1<<63)
	be.PutUint64(b[2*512+8:], 4*512|1<<63)
	mbr := b[3*512:]
	mbr[446+4], mbr[446+8], mbr[446+12] = 0x83, 1, 100
	mbr[510], mbr[511] = 0x55, 0xaa
	copy(b[4*512:], strings.Repeat("x", 512))
	return b
}

func smallTar() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"etc/os-release", "sbin/init"} {
		_ = w.WriteHeader(&tar.Header{Name: name, Size: 1, Mode: 0o755, Format: tar.FormatPAX})
		_, _ = w.Write([]byte("x"))
	}
	_ = w.Close()
	return b.Bytes()
}

// readAll reads a source to its end.
func readAll(t testing.TB, b []byte) ([]byte, error) {
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var out []byte
	buf := make([]byte, Block)
	const most = 4 << 20 // a few bytes may describe a huge disk of zeros
	for len(out) < most {
		zeros, err := s.SkipZeros()
		if err != nil {
			return nil, err
		}
		if zeros > 0 {
			out = append(out, make([]byte, min(zeros, most))...)
			continue
		}
		n, err := io.ReadFull(s, buf)
		out = append(out, buf[:n]...)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func TestSmallSources(t *testing.T) {
	disk, err := readAll(t, smallQcow2())
	if err != nil {
		t.Fatal(err)
	}
	if len(disk) != 128<<10 || disk[512] != 'x' || disk[1024] != 0 || disk[511] != 0xaa {
		t.Errorf("%d bytes", len(disk))
	}
	if raw, err := readAll(t, disk); err != nil || !bytes.Equal(raw, disk) {
		t.Errorf("raw: %v", err)
	}
	if b, err := readAll(t, smallTar()); err != nil || !bytes.Equal(b, smallTar()) {
		t.Errorf("tar: %v", err)
	}
}

// FuzzSource hands in anything: it is refused with a code and a next step, or read.
func FuzzSource(f *testing.F) {
	f.Add(smallQcow2())
	f.Add(smallTar())
	f.Add(smallQcow2()[3*512:])
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte("\xfd7zXZ\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := readAll(t, b); err != nil && (provisioning.CodeOf(err) == provisioning.CodeInternal || provisioning.NextOf(err) == "") {
			t.Errorf("%v", err)
		}
	})
}
