package main

import (
	"fmt"
	"strings"

	"branchpoint/provisioning"

	"github.com/spf13/cobra"
)

func (a *app) getCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:     "get [KIND [NAME]] [-o yaml]",
		Short:   "Show configuration that is in force: what there is, or with KIND and NAME the document itself",
		Example: "  branchpoint get computers\n  branchpoint get Site LON\n  branchpoint get -o yaml > all.yaml",
		Args:    cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "yaml" {
				return usagef("get: -o is %q; write yaml", output)
			}
			k, err := parseKey(args)
			if err != nil {
				return err
			}
			c, err := a.admin()
			if err != nil {
				return err
			}
			docs, err := c.Documents(cmd.Context(), k.Kind, k.Name)
			if err != nil {
				return err
			}
			if k.Name != "" && len(docs) == 0 {
				return provisioning.Errorf(provisioning.CodeNotFound, fmt.Sprintf("See what there is: branchpoint get %s", k.Kind), "there is no %s %q", k.Kind, k.Name)
			}
			for i, d := range docs {
				switch {
				case k.Name == "" && output == "":
					fmt.Fprintf(a.stdout, "%s %s\n", d.Kind, d.Name)
				case i > 0:
					fmt.Fprintf(a.stdout, "---\n%s", d.Text)
				default:
					fmt.Fprint(a.stdout, d.Text)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FORMAT`: yaml shows the documents themselves, in a form that apply takes")
	return cmd
}

// parseKey reads what follows a command: a kind and a name, either of which may be missing.
func parseKey(args []string) (k provisioning.Key, err error) {
	if len(args) > 0 {
		k.Kind, err = parseKind(args[0])
	}
	if len(args) > 1 {
		k.Name = args[1]
	}
	return k, err
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
