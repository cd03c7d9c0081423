package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"branchpoint/initramfs/disk"
	"branchpoint/initramfs/network"
	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence/steps"
	"branchpoint/services/branch/client"
	content "branchpoint/services/content/client"
)

// branch is a Branch over the network.
type branch struct {
	*client.Client
	// trouble is told why content does not come, again and again, and nil when it does.
	trouble func(error)
}

// contentPatience is how long content is waited for. A disk that is half written is worth nothing, and a branch that was
// off, or is without its data disk or its way to central, goes on where it was; so it is as long as the branch's token is
// good for (services/branch, tokenLife).
const contentPatience = 12 * time.Hour

// Content reads from the branch's distribution point.
func (b branch) Content() steps.Content {
	c := content.New(b.URL(), b.HTTP())
	c.Patience, c.Trouble = contentPatience, b.trouble
	return distributionPoint{c}
}

// distributionPoint is a distribution point as the steps use it.
type distributionPoint struct{ c *content.Client }

// file gives the one file of an operating system image and its chunk index.
func (d distributionPoint) manifest(ctx context.Context, ref provisioning.ContentRef) (provisioning.ManifestFile, error) {
	m, err := d.c.Manifest(ctx, ref.Manifest)
	if err != nil {
		return provisioning.ManifestFile{}, fmt.Errorf("read the description of package %s: %w", ref.Package, err)
	}
	if m.Package != ref.Package || m.Version != ref.Version || m.Format != ref.Format || len(m.Files) != 1 {
		return provisioning.ManifestFile{}, provisioning.Errorf(provisioning.CodeCorrupt, "", "manifest %s does not describe package %s, version %d", ref.Manifest, ref.Package, ref.Version)
	}
	return m.Files[0], nil
}

// WriteDisk writes a disk image.
func (d distributionPoint) WriteDisk(ctx context.Context, ref provisioning.ContentRef, path string, progress func(done, total int64)) (err error) {
	file, err := d.manifest(ctx, ref)
	if err != nil {
		return err
	}
	index, err := d.c.Index(ctx, file)
	if err != nil {
		return fmt.Errorf("read the chunk index of package %s: %w", ref.Package, err)
	}
	target, err := content.OpenDisk(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	_, err = d.c.WriteDisk(ctx, target, index, content.DiskOptions{Report: func(p content.Progress) { progress(p.Done, p.Total) }})
	return err
}

// Archive reads a root file system archive.
func (d distributionPoint) Archive(ctx context.Context, ref provisioning.ContentRef) (io.ReadCloser, int64, error) {
	file, err := d.manifest(ctx, ref)
	if err != nil {
		return nil, 0, err
	}
	index, err := d.c.Index(ctx, file)
	if err != nil {
		return nil, 0, fmt.Errorf("read the chunk index of package %s: %w", ref.Package, err)
	}
	return d.c.Reader(ctx, index, 0), file.Size, nil
}

// bringUp brings an interface up by DHCP.
func bringUp(ctx context.Context, mac provisioning.MAC, log *slog.Logger) (Interface, error) {
	s, err := network.Configure(ctx, network.Config{Interface: string(mac), DHCP: true}, log)
	if err != nil {
		return Interface{}, provisioning.Errorf(provisioning.CodeUnavailable, "Check the cable, the switch, and that the site's DHCP server answers.", "%w", err)
	}
	nic := Interface{Name: s.Interface, Address: s.Address.String()}
	if nic.MAC, err = provisioning.MACFromBytes(s.MAC); err != nil {
		return Interface{}, fmt.Errorf("interface %s: %w", s.Interface, err)
	}
	return nic, nil
}

// listDisks lists the disks that the kernel knows now.
func listDisks() ([]steps.Disk, error) {
	list, err := disk.List("/sys", "/proc")
	if err != nil {
		return nil, err
	}
	var out []steps.Disk
	for _, d := range list {
		out = append(out, steps.Disk{
			Path: d.Path, Size: d.Size, SectorSize: int64(d.BlockSize), Model: d.Model, Serial: d.Serial, Bus: string(d.Bus),
			Removable: d.Removable, ReadOnly: d.ReadOnly, CD: d.CD, InUse: d.InUse(),
		})
	}
	return out, nil
}

// How long disks are waited for: controllers and spinning disks take seconds to show theirs.
const (
	diskPoll     = 500 * time.Millisecond
	diskSettle   = 6  // polls without a change
	diskPatience = 60 // polls altogether
)

// settledDisks lists the disks once the list has not changed for a while and has one in it. A disk that comes late must
// not make another one look like the only one.
func settledDisks(ctx context.Context, list func() ([]steps.Disk, error), wait func(context.Context, time.Duration) error) ([]steps.Disk, error) {
	var last []steps.Disk
	same := 0
	for range diskPatience {
		now, err := list()
		if err != nil {
			return nil, err
		}
		if same++; !slices.Equal(now, last) {
			same = 0
		}
		last = now
		if same >= diskSettle && slices.ContainsFunc(now, func(d steps.Disk) bool { return !d.CD && !d.Removable && d.Size > 0 }) {
			break
		}
		if err := wait(ctx, diskPoll); err != nil {
			return nil, err
		}
	}
	return last, nil
}
