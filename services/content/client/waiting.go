package client

import "sync"

// waiting counts the requests that are being repeated and whose trouble was told of: several are in flight, and one that is
// answered says nothing of the others.
type waiting struct {
	mu sync.Mutex
	n  int
}

// tell tells why a request is repeated; first says that it is for the first time.
func (w *waiting) tell(trouble func(error), err error, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if first {
		w.n++
	}
	trouble(err)
}

// end is the end of a request that tell was called for, and tells if no other is left and it was answered.
func (w *waiting) end(trouble func(error), answered bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n--
	if w.n == 0 && answered {
		trouble(nil)
	}
}
