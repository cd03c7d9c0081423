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
	var in client.ApplyRequest
	var paths []string
	cmd := &cobra.Command{
		Use:   "apply -f DIR|FILE|- [-f …] [--prune] [--dry-run] [--confirm N]",
		Short: "Put configuration in force at central: all of it, or nothing if something in it is wrong",
		Example: "  branchpoint apply -f site/\n  cat all.yaml | branchpoint apply -f -\n" +
			"  branchpoint apply -f everything/ --prune --dry-run",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.apply(cmd, paths, in)
			if err != nil {
				return err
			}
			return a.showChange(r)
		},
	}
	fileFlags(cmd, &paths, &in.Prune)
	cautionFlags(cmd, &in.Caution)
	return cmd
}

func (a *app) diffCommand() *cobra.Command {
	in := client.ApplyRequest{Caution: client.Caution{DryRun: true, Diff: true}}
	var paths []string
	cmd := &cobra.Command{
		Use:     "diff -f DIR|FILE|- [-f …] [--prune]",
		Short:   "Show what apply would change, as a difference of texts; nothing is stored",
		Example: "  branchpoint diff -f site/",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.apply(cmd, paths, in)
			if err != nil {
				return err
			}
			for _, d := range r.Documents {
				fmt.Fprint(a.stdout, d.Diff)
			}
			a.warn(r)
			return nil
		},
	}
	fileFlags(cmd, &paths, &in.Prune)
	return cmd
}

func (a *app) apply(cmd *cobra.Command, paths []string, in client.ApplyRequest) (client.ChangeResult, error) {
	if len(paths) == 0 {
		return client.ChangeResult{}, usagef("%s: say what with -f DIR, -f FILE or -f -", cmd.Name())
	}
	var err error
	if in.Files, err = readFiles(paths, a.stdin); err != nil {
		return client.ChangeResult{}, err
	}
	c, err := a.admin()
	if err != nil {
		return client.ChangeResult{}, err
	}
	return c.Apply(cmd.Context(), in)
}

func fileFlags(cmd *cobra.Command, paths *[]string, prune *bool) {
	cmd.Flags().StringArrayVarP(paths, "filename", "f", nil, "`FILE`, folder of .yaml and .yml files (with those below it), or - for standard input")
	cmd.Flags().BoolVar(prune, "prune", false, "delete every document that is not in what is given")
}

func cautionFlags(cmd *cobra.Command, c *client.Caution) {
	cmd.Flags().BoolVar(&c.DryRun, "dry-run", false, "only show what it would do")
	confirmFlag(cmd, &c.Confirm)
}

func confirmFlag(cmd *cobra.Command, confirm *string) {
	cmd.Flags().StringVar(confirm, "confirm", "", "the `NUMBER` of computers whose disks may be erased because of this, or what else the refusal names")
}

// showChange lists what a change did to which document.
func (a *app) showChange(r client.ChangeResult) error {
	for _, d := range r.Documents {
		fmt.Fprintf(a.stdout, "%-9s  %s %s\n", d.Effect, d.Kind, d.Name)
	}
	if r.Change == 0 {
		a.warn(r)
	}
	return nil
}

// warn says what a dry run would be refused for.
func (a *app) warn(r client.ChangeResult) {
	if r.Danger != nil {
		fmt.Fprintf(a.stderr, "branchpoint: %s\n→ It is refused without --confirm %s.\n", clean(r.Danger.Text), r.Danger.Confirm)
	}
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
