package content

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestBar(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	b := NewBar(&out, "add debian")
	b.now = func() time.Time { return now }
	for n := range 11 {
		b.Update(Progress{Done: int64(n) << 30, Total: 16 << 30, New: int64(n) << 29})
		now = now.Add(time.Second)
	}
	b.Finish(nil)
	want := "add debian  31% of 16 GiB, 1.0 GiB/s, 11s left, 2.5 GiB new\n" +
		"add debian  62% of 16 GiB, 1.0 GiB/s, 6s left, 5.0 GiB new\n" +
		"add debian 100% of 16 GiB, 1.5 GiB/s, 5.0 GiB new\n"
	if out.String() != want {
		t.Errorf("lines:\n%swant:\n%s", out.String(), want)
	}
	out.Reset()
	b = NewBar(&out, "add debian")
	b.now, b.terminal = func() time.Time { return now }, true
	b.Update(Progress{Done: 1 << 20, Total: 2 << 20})
	now = now.Add(time.Second)
	b.Update(Progress{Done: 1 << 20, Total: 2 << 20})
	b.Finish(errors.New("cut off"))
	if s := out.String(); strings.Count(s, "\r") != 2 || !strings.HasSuffix(s, "\n") || !strings.Contains(s, "[###############---------------]  50% of 2 MiB, 1 MiB/s, 1s left") {
		t.Errorf("bar: %q", s)
	}
}
