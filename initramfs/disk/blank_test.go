package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sparse is a disk of zeros with some other bytes, of any size.
type sparse struct {
	size int64
	data map[int64]byte
	bad  int64 // reads across this byte fail, if not 0
	read int64
}

var errBadSector = errors.New("input/output error")

func (s *sparse) ReadAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > s.size {
		return 0, errors.New("read behind the end")
	}
	if s.bad != 0 && s.bad >= at && s.bad < at+int64(len(b)) {
		return 0, errBadSector
	}
	s.read += int64(len(b))
	clear(b)
	for o, c := range s.data {
		if o >= at && o < at+int64(len(b)) {
			b[o-at] = c
		}
	}
	return len(b), nil
}

func TestBlank(t *testing.T) {
	const size = 500 << 30
	for name, c := range map[string]struct {
		size  int64
		at    int64
		blank bool
		what  string
	}{
		"zeros":                             {size, -1, true, ""},
		"small zeros":                       {1 << 20, -1, true, ""},
		"one byte of a tiny disk":           {512, 300, false, "data"},
		"odd size":                          {size + 12345, -1, true, ""},
		"first byte":                        {size, 0, false, "data"},
		"last byte":                         {size, size - 1, false, "data"},
		"end of first edge":                 {size, blankEdge - 1, false, "data"},
		"start of last edge":                {size, size - blankEdge, false, "data"},
		"a sample":                          {size, blankEdge + (size-2*blankEdge)/blankSamples*1000/4096*4096 + 17, false, "data"},
		"btrfs mirror":                      {size, 64 << 20, false, "data"},
		"ext4 spare superblock of group 27": {size, 27*128<<20 + 0x38, false, "data"},
		"small disk is read whole":          {20 << 20, 11<<20 + 5, false, "data"},
	} {
		t.Run(name, func(t *testing.T) {
			d := &sparse{size: c.size, data: map[int64]byte{}}
			if c.at >= 0 {
				d.data[c.at] = 1
			}
			blank, found, err := Blank(context.Background(), d, c.size)
			if err != nil || blank != c.blank || found.What != c.what {
				t.Fatalf("got %v, %v, %v", blank, found, err)
			}
			if c.at >= 0 && found.Offset != c.at {
				t.Fatalf("found at %d, is at %d", found.Offset, c.at)
			}
			if d.read > 64<<20 {
				t.Fatalf("read %d bytes", d.read)
			}
		})
	}
}

func TestBlankOfHugeDiskSamplesEvenly(t *testing.T) {
	const size = 20 << 40
	list := spans(size)
	if len(list) < blankSamples {
		t.Fatalf("%d samples", len(list))
	}
	last := int64(0)
	for _, s := range list {
		if s[0] < last || s[1] > size {
			t.Fatalf("spans overlap or leave the disk: %v", s)
		}
		if s[0]-last > size/blankSamples+1<<20 {
			t.Fatalf("a gap of %d bytes before %d", s[0]-last, s[0])
		}
		last = s[1]
	}
	if last != size {
		t.Fatalf("the end is not read: %d", last)
	}
}

func TestBlankRefusesToGuess(t *testing.T) {
	ctx := context.Background()
	if blank, _, err := Blank(ctx, &sparse{size: 1 << 40, bad: 7 << 20}, 1<<40); blank || !errors.Is(err, errBadSector) {
		t.Errorf("bad sector: %v, %v", blank, err)
	}
	if blank, _, err := Blank(ctx, bytes.NewReader(make([]byte, 1<<20)), 2<<20); blank || err == nil {
		t.Errorf("shorter than it says: %v, %v", blank, err)
	}
	if blank, _, err := Blank(ctx, &sparse{}, 0); blank || err == nil {
		t.Errorf("no size: %v, %v", blank, err)
	}
	ended, end := context.WithCancel(ctx)
	end()
	if blank, _, err := Blank(ended, &sparse{size: 1 << 40}, 1<<40); blank || !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v, %v", blank, err)
	}
}

// TestIdentifyReal looks at what real tools write.
func TestIdentifyReal(t *testing.T) {
	for name, c := range map[string]struct {
		command []string
		what    string
		label   string
	}{
		"ext4":     {[]string{"mkfs.ext4", "-q", "-L", "branchpoint-data", "IMG"}, "ext4", "branchpoint-data"},
		"ext3":     {[]string{"mkfs.ext3", "-q", "IMG"}, "ext3", ""},
		"ext2":     {[]string{"mkfs.ext2", "-q", "IMG"}, "ext2", ""},
		"FAT32":    {[]string{"mkfs.vfat", "-F", "32", "-n", "BP-ESP", "IMG"}, "FAT32", "BP-ESP"},
		"FAT16":    {[]string{"mkfs.vfat", "-F", "16", "IMG"}, "FAT16", ""},
		"swap":     {[]string{"mkswap", "-q", "-L", "swappy", "IMG"}, "swap", "swappy"},
		"GPT":      {[]string{"sh", "-c", "echo 'label: gpt' | sfdisk -q IMG"}, "GPT", ""},
		"MBR":      {[]string{"sh", "-c", "echo 'label: dos' | sfdisk -q IMG"}, "MBR", ""},
		"ISO 9660": {[]string{"sh", "-c", "d=$(mktemp -d) && touch $d/x && xorriso -as mkisofs -quiet -V BRANCHPOINT -o IMG $d 2>/dev/null && rm -r $d"}, "ISO 9660", "BRANCHPOINT"},
	} {
		t.Run(name, func(t *testing.T) {
			program := c.command[0]
			if program == "sh" {
				program = map[string]string{"GPT": "sfdisk", "MBR": "sfdisk", "ISO 9660": "xorriso"}[name]
			}
			path, err := exec.LookPath(program)
			if err != nil {
				if path, err = exec.LookPath("/usr/sbin/" + program); err != nil {
					t.Skipf("%s is not installed on this machine", program)
				}
			}
			if c.command[0] != "sh" {
				c.command[0] = path
			}
			img := filepath.Join(t.TempDir(), "disk.img")
			if err := os.WriteFile(img, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, 64<<20); err != nil {
				t.Fatal(err)
			}
			var args []string
			for _, a := range c.command {
				args = append(args, strings.ReplaceAll(a, "IMG", img))
			}
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
			f, size, err := Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			found, err := Identify(context.Background(), f, size)
			if err != nil || len(found) == 0 || found[0].What != c.what || found[0].Label != c.label {
				t.Fatalf("got %v, %v", found, err)
			}
			if blank, where, err := Blank(context.Background(), f, size); blank || err != nil || !strings.Contains(where.String(), c.what) {
				t.Fatalf("blank %v, %v, %v", blank, where, err)
			}
		})
	}
}

func TestIdentifyBySignature(t *testing.T) {
	for _, s := range signatures {
		d := make([]byte, 4<<20)
		copy(d[s.at:], s.magic)
		found, err := Identify(context.Background(), bytes.NewReader(d), int64(len(d)))
		if err != nil || len(found) != 1 || found[0].What != s.what || found[0].Offset != s.at {
			t.Errorf("%s: got %v, %v", s.what, found, err)
		}
	}
	// Only the second copy of a GPT is left.
	d := make([]byte, 4<<20)
	copy(d[len(d)-512:], "EFI PART")
	found, err := Identify(context.Background(), bytes.NewReader(d), int64(len(d)))
	if err != nil || len(found) != 1 || found[0].Offset != int64(len(d)-512) {
		t.Errorf("second GPT: got %v, %v", found, err)
	}
}

func FuzzIdentify(f *testing.F) {
	f.Add([]byte("\xebX\x90mkfs.fat"), int64(0))
	for _, s := range signatures {
		if s.at < 8192 {
			b := make([]byte, s.at+int64(len(s.magic)))
			copy(b[s.at:], s.magic)
			f.Add(b, int64(len(b)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, extra int64) {
		size := int64(len(b))
		if _, err := Identify(context.Background(), bytes.NewReader(b), size); err != nil {
			t.Fatal(err)
		}
		blank, found, err := Blank(context.Background(), bytes.NewReader(b), size)
		if size > 0 && err != nil {
			t.Fatal(err)
		}
		if zero := firstNonZero(b) < 0; size > 0 && blank != zero {
			t.Fatalf("blank %v, zero %v, %v", blank, zero, found)
		}
	})
}
