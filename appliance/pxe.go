package appliance

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/pxe"
)

// otherServerTime is how long the screen shows another DHCP server after it was last seen, by us or by clients that use it.
const otherServerTime = 10 * time.Minute

// otherServer is a DHCP server that clients of an interface use beside this one.
type otherServer struct {
	iface string
	addr  netip.Addr
}

// pxeDeps are what the service point needs of the site. Other DHCP servers that it notices go to others, which nobody
// waits for: one that is left out there is noticed again.
func (s *site) pxeDeps(others chan<- otherServer) pxe.Deps {
	return pxe.Deps{
		Policy: s.branch, Known: s.branch.Known, Boots: s.branch, Texts: s.branch.Texts, Waker: s.branch,
		Files: os.DirFS(bootDir), Leases: s.db.Leases(),
		Log: s.Log, Now: s.Now, Rand: rand.Reader, Metrics: s.metrics,
		OtherServer: func(iface string, addr netip.Addr) {
			select {
			case others <- otherServer{iface, addr}:
			default:
			}
		},
	}
}

// runPXE runs the service point on the given interfaces until ctx ends or it fails.
func (s *site) runPXE(ctx context.Context, role *provisioning.PXERole, serving []pxe.Interface) error {
	others := make(chan otherServer, 1)
	service, err := pxe.New(pxe.Config{
		Interfaces: serving, Mode: role.Mode, Pool: role.DHCP, ResponseDelay: time.Duration(role.ResponseDelaySeconds) * time.Second,
	}, s.pxeDeps(others))
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(ctx)
	shown := make(chan struct{})
	go func() {
		defer close(shown)
		select {
		case <-service.Ready():
			s.setPXEReady(true)
			s.tellServing()
			s.showPXE(work, pxeText(role.Mode, serving), others)
		case <-work.Done():
		}
	}()
	err = service.Run(work)
	stop()
	<-shown // so that it does not say "ready" after the end
	s.setPXEReady(false)
	return err
}

func (s *site) setPXEReady(ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pxeReady = ready
}

// showPXE shows until ctx ends that the service point serves, as text says it, and which other DHCP server was noticed
// lately.
func (s *site) showPXE(ctx context.Context, text string, others <-chan otherServer) {
	s.screen.Set(topicPXE, screen.Item{State: screen.OK, Text: text})
	var gone <-chan time.Time // when the other server has not been seen for long enough
	for {
		select {
		case o := <-others:
			s.screen.Set(topicPXE, besideItem(text, o))
			gone = time.After(otherServerTime)
		case <-gone:
			s.screen.Set(topicPXE, screen.Item{State: screen.OK, Text: text})
		case <-ctx.Done():
			return
		}
	}
}

func pxeText(mode provisioning.PXEMode, serving []pxe.Interface) string {
	names := make([]string, len(serving))
	for i, in := range serving {
		names[i] = in.Name + " " + in.Prefix.String()
	}
	return fmt.Sprintf("mode %s on %s", mode, strings.Join(names, ", "))
}

// besideItem says that another DHCP server answers. The service point goes on, as machines in the middle of their boot
// depend on it, so it is no failure of the role.
func besideItem(text string, o otherServer) screen.Item {
	return screen.Item{
		State: screen.OK,
		Text:  fmt.Sprintf("%s; another DHCP server, %s, gives out addresses on %s, and machines may get contradicting ones", text, o.addr, o.iface),
		Next:  "Set spec.pxe.mode of the site to proxy at central, or turn the other DHCP server off.",
	}
}
