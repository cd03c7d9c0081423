package main

import (
	"crypto/rand"
	"fmt"

	"branchpoint/provisioning"
	"branchpoint/provisioning/password"

	"github.com/spf13/cobra"
)

func (a *app) passwordCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "password",
		Short: "Print the hash of a password, for spec.pxe.passwordHash of a Site document",
		Long: "Print the Argon2id hash of a password, for spec.pxe.passwordHash of a Site document.\n" +
			"The password is read from the terminal without being shown, or else from the first line of standard input.",
		Example: "  branchpoint password\n  branchpoint password < file",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			given, err := a.readSecret("password", true)
			if err != nil {
				return err
			}
			if err := typeable(given); err != nil {
				return err
			}
			hash, err := password.Hash(rand.Reader, given)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(a.stdout, hash)
			return err
		},
	}
}

// typeable refuses what cannot be typed at a client: its keyboard is taken for a US one before anything is installed.
func typeable(s string) error {
	for _, r := range s {
		if r < ' ' || r > '~' {
			return provisioning.Errorf(provisioning.CodeInvalid, "Choose one of letters, digits and the signs of a US keyboard.",
				"the password has a character that cannot be typed at every client")
		}
	}
	return nil
}
