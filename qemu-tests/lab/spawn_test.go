package lab

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A child goes on when the thread that asked for its start ends. It is one that ends with its input, so that the test knows
// that it was alive until then.
func TestAChildOutlivesTheThreadThatStartedIt(t *testing.T) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	thread, started := make(chan int, 1), make(chan error, 1)
	onOwnThread(func() {
		thread <- unix.Gettid()
		started <- Start(cmd)
	})
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	task := filepath.Join("/proc/self/task", strconv.Itoa(<-thread))
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		if _, err := os.Stat(task); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the thread does not end")
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it was ended with the thread: %v", err)
	}
}
