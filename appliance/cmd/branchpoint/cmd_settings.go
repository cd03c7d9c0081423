package main

import (
	"fmt"
	"strconv"

	"branchpoint/services/central/client"

	"github.com/spf13/cobra"
)

// settings are central's settings as people name them.
var settings = []struct {
	name, about string
	value       func(*client.Settings) *int
}{
	{
		"wipes-unconfirmed", "computers whose disks one change may let be erased without --confirm",
		func(s *client.Settings) *int { return &s.WipesUnconfirmed },
	},
}

func (a *app) settingsCommand() *cobra.Command {
	var confirm string
	cmd := &cobra.Command{
		Use:     "settings [NAME VALUE] [--confirm N]",
		Short:   "Show central's own settings, or set one",
		Example: "  branchpoint settings\n  branchpoint settings wipes-unconfirmed 25 --confirm 25",
		Args: cobra.MatchAll(cobra.MaximumNArgs(2), func(_ *cobra.Command, args []string) error {
			if len(args) == 1 {
				return fmt.Errorf("settings: write a value after %s", args[0])
			}
			return nil
		}),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.admin()
			if err != nil {
				return err
			}
			now, err := c.Settings(cmd.Context())
			if err != nil {
				return err
			}
			if len(args) == 2 {
				if err := set(&now, args[0], args[1]); err != nil {
					return err
				}
				if now, err = c.PutSettings(cmd.Context(), client.SettingsRequest{Settings: now, Confirm: confirm}); err != nil {
					return err
				}
			}
			for _, s := range settings {
				fmt.Fprintf(a.stdout, "%s  %d  (%s)\n", s.name, *s.value(&now), s.about)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&confirm, "confirm", "", "the new `NUMBER` again, where it lets more computers be erased without anybody being asked")
	return cmd
}

// set sets a setting by its name.
func set(s *client.Settings, name, value string) error {
	for _, x := range settings {
		if x.name != name {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return usagef("settings: %s is %q; a number is wanted", name, value)
		}
		*x.value(s) = n
		return nil
	}
	return usagef("settings: there is no setting %q; settings without a name lists them", name)
}
