package appliance

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestAllowOpenFiles(t *testing.T) {
	limit := func() (l unix.Rlimit) {
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	before := limit()
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	})
	low := before
	low.Cur = before.Max - 10
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	if err := allowOpenFiles(before.Max - 5); err != nil || limit().Cur != before.Max-5 || limit().Max != before.Max {
		t.Errorf("%+v, %v", limit(), err)
	}
	if err := allowOpenFiles(100); err != nil || limit().Cur != before.Max-5 {
		t.Errorf("a higher limit is taken away: %+v, %v", limit(), err)
	}
}
