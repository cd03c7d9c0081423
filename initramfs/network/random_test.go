package network

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWaitRandomWaitsInTheKernel(t *testing.T) {
	calls := 0
	err := waitRandom(t.Context(), func(b []byte, flags int) (int, error) {
		if len(b) == 0 || flags != 0 {
			t.Errorf("read %d bytes with flags %d; only a read that blocks makes the kernel gather randomness", len(b), flags)
		}
		if calls++; calls < 3 {
			return 0, unix.EINTR
		}
		return len(b), nil
	})
	if err != nil || calls != 3 {
		t.Errorf("error %v after %d calls, want none after 3", err, calls)
	}
	if err := waitRandom(t.Context(), func([]byte, int) (int, error) { return 0, unix.ENOSYS }); !errors.Is(err, unix.ENOSYS) {
		t.Errorf("error %v, want ENOSYS", err)
	}
}

func TestWaitRandomEndsWithItsContext(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	ctx, cancel := context.WithCancel(t.Context())
	started := make(chan struct{})
	go func() { <-started; cancel() }()
	err := waitRandom(ctx, func([]byte, int) (int, error) { close(started); <-never; return 1, nil })
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "randomness") {
		t.Errorf("error %v, want that waiting for randomness was cancelled", err)
	}
}
