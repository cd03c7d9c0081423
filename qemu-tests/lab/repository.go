package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// RepositoryRoot returns the directory that holds go.mod, from the working directory upwards.
func RepositoryRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the repository: no go.mod in %s or above", wd)
		}
	}
}

// Artifact returns the absolute path of a built file, named from the repository's root ("build/branchpoint.img"). The test
// fails with what to do if it is not there. Tests must not write to it: use [Lab.Overlay] or [Lab.CopyFile].
func Artifact(t testing.TB, name string) string {
	t.Helper()
	p, err := artifact(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func artifact(name string) (string, error) {
	root, err := RepositoryRoot()
	if err != nil {
		return "", err
	}
	p := filepath.Join(root, filepath.FromSlash(name))
	st, err := os.Stat(p)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("%s is not built: run `make image` first", name)
	case err != nil:
		return "", fmt.Errorf("look for %s: %w", name, err)
	case st.Mode().IsRegular() && st.Size() == 0:
		return "", fmt.Errorf("%s is empty, its build was cut off: run `make image` again", name)
	}
	return p, nil
}
