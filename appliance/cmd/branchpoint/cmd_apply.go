package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

func (a *app) applyCommand() *cobra.Command {
	var paths []string
	cmd := &cobra.Command{
		Use:     "apply -f DIR|FILE|- [-f …]",
		Short:   "Put configuration in force at central: all of it, or nothing if something in it is wrong",
		Example: "  branchpoint apply -f site/\n  cat all.yaml | branchpoint apply -f -",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(paths) == 0 {
				return usagef("apply: say what with -f DIR, -f FILE or -f -")
			}
			files, err := readFiles(paths, a.stdin)
			if err != nil {
				return err
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			r, err := c.Apply(cmd.Context(), client.ApplyRequest{Files: files})
			if err != nil {
				return err
			}
			for _, d := range r.Documents {
				fmt.Fprintf(a.stdout, "%-9s  %s %s\n", d.Effect, d.Kind, d.Name)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&paths, "filename", "f", nil, "`FILE`, folder of .yaml and .yml files (with those below it), or - for standard input")
	return cmd
}

func (a *app) getCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get [KIND [NAME]]",
		Short:   "Show configuration that is in force: what there is, or with KIND and NAME the document itself",
		Example: "  branchpoint get computers\n  branchpoint get Site LON",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var kind provisioning.Kind
			var name string
			if len(args) > 0 {
				var err error
				if kind, err = parseKind(args[0]); err != nil {
					return err
				}
			}
			if len(args) > 1 {
				name = args[1]
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			docs, err := c.Documents(cmd.Context(), kind, name)
			if err != nil {
				return err
			}
			if name == "" {
				for _, d := range docs {
					fmt.Fprintf(a.stdout, "%s %s\n", d.Kind, d.Name)
				}
				return nil
			}
			if len(docs) == 0 {
				return provisioning.Errorf(provisioning.CodeNotFound, fmt.Sprintf("See what there is: branchpoint get %s", kind), "there is no %s %q", kind, name)
			}
			fmt.Fprint(a.stdout, docs[0].Text)
			return nil
		},
	}
}

// parseKind reads a kind as people write it: any case, and the plural.
func parseKind(s string) (provisioning.Kind, error) {
	for _, k := range provisioning.Kinds {
		if strings.EqualFold(s, string(k)) || strings.EqualFold(s, string(k)+"s") {
			return k, nil
		}
	}
	names := make([]string, len(provisioning.Kinds))
	for i, k := range provisioning.Kinds {
		names[i] = string(k)
	}
	return "", usagef("kind %q is unknown; write one of %s", s, strings.Join(names, ", "))
}

// maxFiles bounds how many files one apply reads.
const maxFiles = 10000

// readFiles reads configuration files: paths are files, folders, or - for stdin.
func readFiles(paths []string, stdin io.Reader) ([]provisioning.File, error) {
	var files []provisioning.File
	total := 0 // bytes
	add := func(name string, r io.Reader) error {
		b, err := io.ReadAll(io.LimitReader(r, int64(client.MaxApply-total)+1))
		if err != nil {
			return unreadable(name, err)
		}
		total += len(b)
		if total > client.MaxApply || len(files) == maxFiles {
			return provisioning.Errorf(provisioning.CodeInvalid, "Apply it in parts, each by itself.",
				"at %s the configuration is more than %d MiB or %d files", name, client.MaxApply>>20, maxFiles)
		}
		files = append(files, provisioning.File{Name: name, Text: b})
		return nil
	}
	for _, p := range paths {
		if p == "-" {
			if err := add("standard input", stdin); err != nil {
				return nil, err
			}
			continue
		}
		names, err := configurationFiles(p)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			f, err := os.Open(n)
			if err != nil {
				return nil, unreadable(n, err)
			}
			err = add(n, f)
			_ = f.Close() // it was only read
			if err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// configurationFiles lists the files that path names: itself, or what is below it and ends in .yaml or .yml. Hidden
// files are left out: editors keep their own there.
func configurationFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var names []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return unreadable(p, err)
		}
		if p != path && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if ext := strings.ToLower(filepath.Ext(p)); !d.IsDir() && (ext == ".yaml" || ext == ".yml") {
			names = append(names, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, provisioning.Errorf(provisioning.CodeNotFound, "Name the folder that holds the configuration.", "there is no .yaml or .yml file in folder %s", path)
	}
	slices.Sort(names)
	return names, nil
}

func unreadable(name string, err error) error {
	code := provisioning.CodeForbidden
	if os.IsNotExist(err) {
		code = provisioning.CodeNotFound
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		err = pe.Err // it names the path and the system call again
	}
	return provisioning.Errorf(code, "Check the path and the file's rights; nothing was applied.", "cannot read %s: %w", name, err)
}
