package pxe

import (
	"net/netip"
	"time"
)

// clientLineBurst and clientLineInterval bound the log lines about what one address loads; a boot has about six. Lines go
// to a serial console too, which takes less than a hundred in a second, and DHCP waits for the log as everybody does.
const clientLineBurst, clientLineInterval = 30, 10 * time.Second

// bootLine logs what a client has loaded, unless that client, or all together, fill the log with it.
func (s *Service) bootLine(client netip.Addr, msg string, args ...any) {
	now := s.deps.Now()
	s.mu.Lock()
	ok := s.clientLines.allow(client, now) && s.bootLines.allow("", now)
	s.mu.Unlock()
	if ok {
		s.deps.Log.Info(msg, args...)
	}
}

// warn logs what hostile or broken clients do by HTTP, without letting them fill the log.
func (h *handler) warn(msg string, args ...any) { h.complain(h.iface, msg, h.deps.Now(), args...) }
