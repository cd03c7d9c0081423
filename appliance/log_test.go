package appliance

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lines counts what reaches the kernel's log, and the longest write.
type lines struct {
	bytes.Buffer
	longest int
}

func (l *lines) Write(b []byte) (int, error) {
	l.longest = max(l.longest, len(b))
	return l.Buffer.Write(b)
}

func TestLogIsBounded(t *testing.T) {
	kernel := &lines{}
	l := &Log{path: filepath.Join(t.TempDir(), "log"), kmsg: kernel}
	record := []byte(strings.Repeat("x", 64<<10) + "\n")
	for range 200 { // three times what one file holds
		if _, err := l.Write(record); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Write([]byte("the last\n")); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{l.path, l.path + ".1"} {
		if st, err := os.Stat(p); err != nil || st.Size() > maxLog || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", p, st, err)
		}
	}
	b, err := os.ReadFile(l.path)
	if err != nil || !bytes.HasSuffix(b, []byte("the last\n")) {
		t.Error("the newest record is not in the log", err)
	}
	if kernel.longest > maxKmsg+len("branchpoint: ") {
		t.Errorf("a write of %d bytes went to the kernel", kernel.longest)
	}
}
