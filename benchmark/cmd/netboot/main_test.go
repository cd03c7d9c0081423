package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUpToDate(t *testing.T) {
	out := t.TempDir()
	record := []byte(`{"version":"1"}`)
	if upToDate(out, record) {
		t.Error("an empty directory is up to date")
	}
	for _, n := range append([]string{"package.json"}, files...) {
		if err := os.WriteFile(filepath.Join(out, n), record, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !upToDate(out, record) {
		t.Error("what is there is not taken")
	}
	if upToDate(out, []byte(`{"version":"2"}`)) {
		t.Error("another version is taken")
	}
	if err := os.Remove(filepath.Join(out, files[1])); err != nil {
		t.Fatal(err)
	}
	if upToDate(out, record) {
		t.Error("a missing file is not noticed")
	}
}
