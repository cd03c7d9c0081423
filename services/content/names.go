package content

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/content/caibx"
	"branchpoint/services/content/client"
)

// names are what the package versions in a store are made of.
type names struct {
	manifests map[provisioning.SHA256]bool
	chunks    map[caibx.ID]struct{}
	// whole is whether that is all: there are versions, and what describes them is here and could be read.
	whole bool
}

// standing is whether something belongs to a store.
type standing int

// The standings. What is perhaps named may belong to a version that is not here, or not in full.
const (
	notNamed standing = iota
	perhapsNamed
	named
)

// chunkNamed says whether a version in the store has the chunk.
func (s *Store) chunkNamed(id caibx.ID) standing {
	n, sure := s.names()
	_, ok := n.chunks[id]
	return standingOf(ok, sure)
}

// manifestNamed says whether a version in the store has the manifest.
func (s *Store) manifestNamed(sum provisioning.SHA256) standing {
	n, sure := s.names()
	return standingOf(n.manifests[sum], sure)
}

func standingOf(ok, sure bool) standing {
	switch {
	case ok:
		return named
	case sure:
		return notNamed
	}
	return perhapsNamed
}

// names returns what is named here, and whether nothing else belongs here. It is read from the disk when something is asked
// for that is not here, which is seldom, and kept until a version is added: 50 bytes for each chunk.
func (s *Store) names() (n *names, sure bool) {
	s.namesMu.Lock()
	defer s.namesMu.Unlock()
	n = s.known
	if n == nil {
		var lasting bool
		if n, lasting = s.readNames(); lasting {
			s.known = n
		}
	}
	return n, n.whole && len(s.awaited) == 0
}

// forgetNames is called when what is named has changed.
func (s *Store) forgetNames() {
	s.namesMu.Lock()
	defer s.namesMu.Unlock()
	s.known = nil
}

// await notes whether a version is on its way: until it is here, the store does not know all that belongs to it.
func (s *Store) await(manifest provisioning.SHA256, coming bool) {
	s.namesMu.Lock()
	defer s.namesMu.Unlock()
	if coming {
		s.awaited[manifest] = true
	} else {
		delete(s.awaited, manifest)
	}
}

// readNames reads what all versions here are made of; lasting is whether to read it again would not change it.
func (s *Store) readNames() (n *names, lasting bool) {
	n = &names{manifests: map[provisioning.SHA256]bool{}, chunks: map[caibx.ID]struct{}{}}
	packages, err := os.ReadDir(s.path("packages"))
	lasting = err == nil
	missing := false
	for _, p := range packages {
		versions, err := s.versions(p.Name())
		lasting = lasting && err == nil
		for _, v := range versions {
			if err := s.addNames(n, p.Name(), v); err != nil {
				missing = true
				lasting = lasting && (damaged(err) || provisioning.CodeOf(err) == provisioning.CodeNotFound)
			}
		}
	}
	n.whole = lasting && !missing && len(n.manifests) > 0
	return n, lasting
}

// addNames adds what one version is made of.
func (s *Store) addNames(n *names, name string, version int) error {
	b, err := os.ReadFile(s.path("packages", name, strconv.Itoa(version)))
	if err != nil && !unreadable(err) {
		return err
	}
	sum := provisioning.SHA256(strings.TrimSpace(string(b)))
	if !sum.Valid() {
		return provisioning.Errorf(provisioning.CodeCorrupt, "", "the name of %s version %d is damaged", name, version)
	}
	n.manifests[sum] = true
	chunks, err := s.chunksOf(sum)
	for _, k := range chunks {
		n.chunks[k.ID] = struct{}{}
	}
	return err
}

// manifests calls yield with every manifest in the store that is whole, until it returns false.
func (s *Store) manifests(yield func(*provisioning.Manifest) bool) {
	entries, err := os.ReadDir(s.path("manifests"))
	if err != nil {
		s.log.Error("list the manifests", "error", err)
	}
	for _, e := range entries {
		if m, err := s.Manifest(provisioning.SHA256(strings.TrimSuffix(e.Name(), ".json"))); err == nil && !yield(m) {
			return
		}
	}
}

// indexed returns the file whose chunk index has the given sum, and the package it belongs to.
func (s *Store) indexed(sum provisioning.SHA256) (f provisioning.ManifestFile, name string, ok bool) {
	for m := range s.manifests {
		for _, f := range m.Files {
			if f.Index == sum {
				return f, m.Package, true
			}
		}
	}
	return f, "", false
}

// similar returns the files of other versions of the package that has a file with the given index, the newest first.
func (s *Store) similar(sum provisioning.SHA256) ([]provisioning.ManifestFile, error) {
	_, name, ok := s.indexed(sum)
	if !ok {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "", "there is no index %.64s", sum)
	}
	var others []*provisioning.Manifest
	for m := range s.manifests {
		if m.Package == name {
			others = append(others, m)
		}
	}
	slices.SortFunc(others, func(a, b *provisioning.Manifest) int { return b.Version - a.Version })
	var files []provisioning.ManifestFile
	for _, m := range others {
		for _, f := range m.Files {
			if f.Index != sum && len(files) < client.MaxSimilar {
				files = append(files, f)
			}
		}
	}
	return files, nil
}
