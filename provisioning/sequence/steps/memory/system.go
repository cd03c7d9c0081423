package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence/steps"
)

// Mount is a mounted file system.
type Mount struct{ Device, FileSystem, At string }

// System is a computer in memory. Its fields are set before it is used.
type System struct {
	DiskList []steps.Disk
	Boot     steps.Firmware
	// Devices are what ReadDevice reads.
	Devices map[string][]byte
	// Trees are the file trees on devices; a mounted root is the tree of its device. A device without one is empty.
	Trees map[string]*Files
	// OnExec answers Exec; nil answers success to everything. It may change the target.
	OnExec func(c steps.Command, target *Files) (steps.Exit, error)
	// OnExtract is what Extract puts into the target; nil is an error.
	OnExtract func(archive []byte, target *Files) error
	// OnUnmount says what comes of unmounting a root; nil is success.
	OnUnmount func() error

	mu       sync.Mutex
	commands []steps.Command
	mounts   []Mount
	reread   []string
	root     *Files
}

var _ steps.System = (*System)(nil)

// Commands are the programs that were run.
func (s *System) Commands() []steps.Command {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Mounts are what is mounted.
func (s *System) Mounts() []Mount {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mounts)
}

// Disks lists the computer's disks.
func (s *System) Disks(context.Context) ([]steps.Disk, error) { return s.DiskList, nil }

// Firmware says how the computer was started.
func (s *System) Firmware() steps.Firmware { return s.Boot }

// Exec notes the program and asks OnExec.
func (s *System) Exec(ctx context.Context, c steps.Command) (steps.Exit, error) {
	if err := ctx.Err(); err != nil {
		return steps.Exit{}, err
	}
	s.mu.Lock()
	s.commands = append(s.commands, c)
	root := s.root
	s.mu.Unlock()
	if c.InTarget && root == nil {
		return steps.Exit{}, errors.New("nothing is mounted")
	}
	if s.OnExec == nil {
		return steps.Exit{}, nil
	}
	return s.OnExec(c, root)
}

// RereadPartitions fails if anything of the disk is mounted, as the kernel does.
func (s *System) RereadPartitions(_ context.Context, disk string, _ steps.Table) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.mounts {
		if strings.HasPrefix(m.Device, disk) {
			return provisioning.Errorf(provisioning.CodeConflict, "", "%s is in use", m.Device)
		}
	}
	s.reread = append(s.reread, disk)
	return nil
}

// ReadDevice reads one of Devices.
func (s *System) ReadDevice(path string) (io.ReaderAt, io.Closer, error) {
	b, ok := s.Devices[path]
	if !ok {
		return nil, nil, fmt.Errorf("there is no device %s", path)
	}
	return bytes.NewReader(b), io.NopCloser(nil), nil
}

// Mount mounts a device; the root must come first.
func (s *System) Mount(_ context.Context, device, fileSystem, at string, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case at == "/" && s.root != nil:
		return errors.New("a root is mounted already")
	case at != "/" && s.root == nil:
		return fmt.Errorf("mount %s: no root is mounted", at)
	case at == "/":
		if s.root = s.Trees[device]; s.root == nil {
			s.root = NewFiles()
		}
	default:
		if err := s.root.Mkdir(at, 0o755); err != nil {
			return err
		}
	}
	s.mounts = append(s.mounts, Mount{device, fileSystem, at})
	return nil
}

// Unmount unmounts everything.
func (s *System) Unmount(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := s.root != nil
	s.mounts, s.root = nil, nil
	if had && s.OnUnmount != nil {
		return s.OnUnmount()
	}
	return nil
}

// Target is the mounted root, an empty tree if there is none.
func (s *System) Target() steps.Files {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.root == nil {
		return NewFiles()
	}
	return s.root
}

// Extract reads the archive and asks OnExtract.
func (s *System) Extract(_ context.Context, archive io.Reader, read func(int64)) error {
	b, err := io.ReadAll(archive)
	if err != nil {
		return err
	}
	read(int64(len(b)))
	s.mu.Lock()
	root := s.root
	s.mu.Unlock()
	if root == nil || s.OnExtract == nil {
		return errors.New("there is nothing to unpack to")
	}
	return s.OnExtract(b, root)
}
