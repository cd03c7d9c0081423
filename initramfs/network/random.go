package network

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// waitRandom waits until the kernel has randomness to give, or ctx ends. The DHCP client polls for it without waiting, and
// only a reader that waits makes the kernel gather some where neither the processor nor a device gives any (Linux'
// drivers/char/random.c, try_to_generate_entropy; measured: polling alone never ends). getrandom is unix.Getrandom.
func waitRandom(ctx context.Context, getrandom func(b []byte, flags int) (int, error)) error {
	done := make(chan error, 1) // buffered: a reader that nobody waits for any more ends when the kernel lets it
	go func() {
		for {
			_, err := getrandom(make([]byte, 1), 0)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("wait for randomness: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for randomness: %w", ctx.Err())
	}
}
