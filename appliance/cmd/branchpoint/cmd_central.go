package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/services/central"
	"branchpoint/services/central/client"
	"branchpoint/services/content"
	"branchpoint/services/store"

	"github.com/google/renameio/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// centralOptions are the flags of the command central.
type centralOptions struct {
	data   string
	listen string
	names  []string
}

func (a *app) centralCommand() *cobra.Command {
	var o centralOptions
	cmd := &cobra.Command{
		Use:     "central --data DIR [--listen :8443] [--name HOST …]",
		Short:   "Run the central site",
		Long:    "Run the central site. The first start makes its keys in the data folder; keep a backup of all of it, central.key included.",
		Example: "  branchpoint central --data /var/lib/branchpoint --name central.example",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.data == "" {
				return usagef("central: say where its data is with --data DIR")
			}
			return a.serveCentral(cmd.Context(), o)
		},
	}
	cmd.Flags().StringVar(&o.data, "data", "", "data `DIR`; made where there is none")
	cmd.Flags().StringVar(&o.listen, "listen", ":8443", "`ADDRESS:PORT` to listen on (TCP, HTTPS)")
	cmd.Flags().StringArrayVar(&o.names, "name", nil, "host `NAME` or address for central's certificate, beside this host's name")
	cmd.AddCommand(a.rootCommand())
	return cmd
}

// Files in central's data folder.
const (
	centralDatabase = "central.db"
	centralKey      = "central.key"
	centralAdmin    = "admin.json"
	centralLock     = "central.lock"

	centralContentDir = "content" // the chunk store
)

// lockFolder keeps a second central out of the same folder; the lock ends with the process, however it ends.
func lockFolder(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, provisioning.Errorf(provisioning.CodeUnavailable, "Check that the data folder can be written to and is not full.", "lock data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		return nil, provisioning.Errorf(provisioning.CodeConflict, "End the other one, or choose another data folder.", "another central uses the data folder %s", filepath.Dir(path))
	}
	return func() { _ = f.Close() }, nil
}

func (a *app) serveCentral(ctx context.Context, o centralOptions) (err error) {
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "Choose a folder that can be written to.", "make data folder: %w", err)
	}
	unlock, err := lockFolder(filepath.Join(o.data, centralLock))
	if err != nil {
		return err
	}
	defer unlock()
	database := filepath.Join(o.data, centralDatabase)
	_, err = os.Stat(database)
	// A database without its key file must not be given a new one: what the old key encrypted would be lost quietly.
	key, err := central.LoadKey(filepath.Join(o.data, centralKey), errors.Is(err, os.ErrNotExist), rand.Reader)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	db, err := store.Open(ctx, database, store.Metrics(registry))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if host, err := os.Hostname(); err == nil {
		o.names = append(o.names, host)
	}
	chunks, err := content.Open(filepath.Join(o.data, centralContentDir), log, content.Metrics(registry))
	if err != nil {
		return err
	}
	defer chunks.Close()
	own, ownErr := network.Hardware("/sys")
	var c *central.Central
	c, err = central.Open(ctx, central.Config{
		Store: db, Key: key, Names: o.names, Own: own, Log: log, Now: a.now, Rand: rand.Reader, Content: centralContent{chunks},
		Metrics: registry, MetricsHandler: promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}),
		// Central itself has recognised the caller before it asks.
		ContentRead:  content.NewReadHandler(chunks, func(*http.Request) error { return nil }, nil),
		ContentAdmin: content.NewAdminHandler(chunks, publishes(ctx, &c, log)),
	})
	if err != nil {
		return err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "Choose another address with --listen, or end the program that uses this one.", "listen: %w", err)
	}
	defer l.Close()
	if ownErr != nil {
		log.Warn("what this machine is recognised by is not known in full; describe it in a Computer document with infrastructure: true", "macs", own.MACAddresses, "guid", own.SMBIOSGUID, "error", ownErr)
	}
	adminFile, err := filepath.Abs(filepath.Join(o.data, centralAdmin))
	if err != nil {
		return fmt.Errorf("find the administrator's file: %w", err)
	}
	if err := writeAdminFile(ctx, c, adminFile, localAddress(l.Addr())); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "central is ready on %s\nCA SHA-256: %s\nadminister it with: export BRANCHPOINT_ADMIN=%s\n", l.Addr(), c.CASHA256(), adminFile)
	return c.Serve(ctx, l)
}

// localAddress is how a listener is reached from this machine.
func localAddress(addr net.Addr) string {
	t, ok := addr.(*net.TCPAddr)
	if !ok || !t.IP.IsUnspecified() {
		return addr.String()
	}
	return net.JoinHostPort("127.0.0.1", fmt.Sprint(t.Port))
}

// writeAdminFile brings admin.json up to date. Its token stays as long as the file has the right one; where it is lost a
// new one is made, and the old one is refused from then on.
func writeAdminFile(ctx context.Context, c *central.Central, path, address string) error {
	f, err := client.ReadAdminFile(path)
	if err != nil || !c.AdminToken(f.Token) {
		if f.Token, err = c.NewAdminToken(ctx); err != nil {
			return fmt.Errorf("make the administrator's token: %w", err)
		}
	}
	f.Address, f.CA = address, string(c.CA())
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the administrator's file: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o600, renameio.WithStaticPermissions(0o600)); err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "Check that the data folder can be written to and is not full.", "write the administrator's file: %w", err)
	}
	return nil
}
