package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// QMPEvent is an asynchronous message of QEMU, such as RESET or SHUTDOWN (QEMU QMP reference, "Events").
type QMPEvent struct {
	Name string
	Data map[string]any
}

type qmpAnswer struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID    *uint64        `json:"id"`
	Event string         `json:"event"`
	Data  map[string]any `json:"data"`
	QMP   any            `json:"QMP"`
}

// qmpClient speaks the QEMU Machine Protocol over one connection.
type qmpClient struct {
	conn io.ReadWriteCloser
	on   func(QMPEvent)

	mu      sync.Mutex
	next    uint64
	pending map[uint64]chan qmpAnswer
	err     error
	done    chan struct{}
}

// newQMP reads the greeting and negotiates. Events go to on, in order, from the goroutine that reads.
func newQMP(ctx context.Context, conn io.ReadWriteCloser, on func(QMPEvent)) (*qmpClient, error) {
	q := &qmpClient{conn: conn, on: on, pending: map[uint64]chan qmpAnswer{}, done: make(chan struct{})}
	go q.read()
	if err := q.execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return q, nil
}

func (q *qmpClient) read() {
	dec := json.NewDecoder(bufio.NewReaderSize(q.conn, 64<<10))
	var err error
	for {
		var a qmpAnswer
		if err = dec.Decode(&a); err != nil {
			break
		}
		switch {
		case a.Event != "":
			q.on(QMPEvent{Name: a.Event, Data: a.Data})
		case a.ID != nil:
			q.mu.Lock()
			c := q.pending[*a.ID]
			delete(q.pending, *a.ID)
			q.mu.Unlock()
			if c != nil {
				c <- a
			}
		}
	}
	q.mu.Lock()
	q.err = fmt.Errorf("QMP connection ended: %w", err)
	q.mu.Unlock()
	close(q.done)
}

// execute runs a command and decodes what it returns into out, unless that is nil.
func (q *qmpClient) execute(ctx context.Context, command string, args, out any) error {
	q.mu.Lock()
	q.next++
	id := q.next
	c := make(chan qmpAnswer, 1)
	q.pending[id] = c
	msg := map[string]any{"execute": command, "id": id}
	if args != nil {
		msg["arguments"] = args
	}
	b, err := json.Marshal(msg)
	if err == nil {
		_, err = q.conn.Write(append(b, '\n'))
	}
	q.mu.Unlock()
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	select {
	case a := <-c:
		if a.Error != nil {
			return fmt.Errorf("QMP %s: %s: %s", command, a.Error.Class, a.Error.Desc)
		}
		if out == nil {
			return nil
		}
		if err := json.Unmarshal(a.Return, out); err != nil {
			return fmt.Errorf("QMP %s: decode answer: %w", command, err)
		}
		return nil
	case <-q.done:
		return fmt.Errorf("QMP %s: %w", command, q.failure())
	case <-ctx.Done():
		q.mu.Lock()
		delete(q.pending, id)
		q.mu.Unlock()
		return fmt.Errorf("QMP %s: %w", command, context.Cause(ctx))
	}
}

func (q *qmpClient) failure() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.err == nil {
		return errors.New("QMP connection ended")
	}
	return q.err
}
