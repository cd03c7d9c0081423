package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
)

// group is a command that only has others below it.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(commands...)
	return cmd
}

// asked makes a command of an administrator that says something to central.
func (a *app) asked(use, short string, args cobra.PositionalArgs, do func(cmd *cobra.Command, c *client.Admin, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
		c, err := a.admin()
		if err != nil {
			return err
		}
		return do(cmd, c, args)
	}}
}

func (a *app) accountCommand() *cobra.Command {
	var output, confirm string
	var withPassword bool
	create := a.asked("create NAME [--password] [--output FILE] [--confirm ROLES]", "Make an account; documents of kind Role give it rights", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Admin, args []string) error {
			r := client.AccountRequest{Name: args[0], Confirm: confirm}
			if withPassword {
				p, err := a.readSecret("password", true)
				if err != nil {
					return err
				}
				r.Password = &p
			}
			if err := c.CreateAccount(cmd.Context(), r); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "account %s was made\n", r.Name)
			if output == "" {
				return nil
			}
			f, err := client.ReadAdminFile(a.adminPath())
			if err != nil {
				return err
			}
			f.Token = ""
			if err := writeConnection(output, f); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "wrote %s, without a secret; log in with: branchpoint login %s --admin %s\n", output, r.Name, output)
			return nil
		})
	create.Flags().BoolVar(&withPassword, "password", false, "ask for a password; without one it has API tokens only")
	create.Flags().StringVarP(&output, "output", "o", "", "`FILE` for the person, with which branchpoint login reaches central")
	create.Flags().StringVar(&confirm, "confirm", "", "the `ROLES` that name it already, as the refusal lists them")
	list := a.asked("list", "List the accounts", cobra.NoArgs, func(cmd *cobra.Command, c *client.Admin, _ []string) error {
		all, err := c.Accounts(cmd.Context())
		if err != nil {
			return err
		}
		t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ACCOUNT\tROLES\tPASSWORD\tLAST LOGIN\tSTATE")
		for _, x := range all {
			state := "enabled"
			if x.Disabled {
				state = "disabled"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", x.Name, orDash(join(x.Roles)), map[bool]string{true: "yes", false: "no"}[x.HasPassword], when(x.LastLogin), state)
		}
		return t.Flush()
	})
	return group("account", "Accounts, which people and programs administer with",
		create, list,
		a.asked("password NAME", "Set an account's password, or one's own", cobra.ExactArgs(1), a.setPassword),
		a.asked("disable NAME", "Refuse an account, with whatever token", cobra.ExactArgs(1), a.setDisabled(true)),
		a.asked("enable NAME", "Let a disabled account in again", cobra.ExactArgs(1), a.setDisabled(false)),
		a.asked("delete NAME", "Delete an account with its tokens", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Admin, args []string) error {
			return c.DeleteAccount(cmd.Context(), args[0])
		}))
}

func (a *app) setPassword(cmd *cobra.Command, c *client.Admin, args []string) error {
	who, err := c.WhoAmI(cmd.Context())
	if err != nil {
		return err
	}
	r := client.AccountRequest{Name: args[0]}
	if who.Name == r.Name && who.HasPassword {
		if r.Present, err = a.readSecret("present password", false); err != nil {
			return err
		}
	}
	p, err := a.readSecret("new password", true)
	if err != nil {
		return err
	}
	r.Password = &p
	return c.ChangeAccount(cmd.Context(), r)
}

func (a *app) setDisabled(disabled bool) func(*cobra.Command, *client.Admin, []string) error {
	return func(cmd *cobra.Command, c *client.Admin, args []string) error {
		return c.ChangeAccount(cmd.Context(), client.AccountRequest{Name: args[0], Disabled: &disabled})
	}
}

func (a *app) loginCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "login NAME",
		Short: "Log in with a password: the administrator's file gets a token that is good for 12 hours",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := client.ReadConnection(a.adminPath())
			if err != nil {
				return err
			}
			c, err := client.NewAdmin(f, a.now)
			if err != nil {
				return err
			}
			// Central's own file is the last way in: a login must not take its place.
			if who, err := c.WhoAmI(cmd.Context()); err == nil && who.Name == provisioning.AccountAdmin {
				return provisioning.Errorf(provisioning.CodeConflict, "Name another file with --admin, such as one that branchpoint account create --output has written.",
					"%s is the file of account %s, which logs in with nothing else", a.adminPath(), provisioning.AccountAdmin)
			}
			p, err := a.readSecret("password", false)
			if err != nil {
				return err
			}
			t, err := c.Login(cmd.Context(), args[0], p)
			if err != nil {
				return err
			}
			f.Token = t.Token
			if err := writeConnection(a.adminPath(), f); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "logged in as %s until %s\n", t.Account, t.ExpiresAt.Local().Format(time.DateTime))
			return nil
		},
	}
}

// writeConnection writes an administrator's file, which its owner alone can read.
func writeConnection(path string, f client.AdminFile) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the administrator's file: %w", err)
	}
	if err := renameio.WriteFile(path, append(b, '\n'), 0o600, renameio.WithStaticPermissions(0o600)); err != nil {
		return provisioning.Errorf(provisioning.CodeUnavailable, "Choose another file.", "write %s: %w", path, err)
	}
	return nil
}

func (a *app) apiTokenCommand() *cobra.Command {
	var account string
	var valid time.Duration
	create := a.asked("create NAME [--account ACCOUNT] [--valid 2160h]", "Make a token for a program, and print it once", cobra.ExactArgs(1),
		func(cmd *cobra.Command, c *client.Admin, args []string) error {
			t, err := c.CreateAPIToken(cmd.Context(), client.APITokenRequest{Account: account, Name: args[0], ValidSeconds: int64(valid / time.Second)})
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, t.Token)
			fmt.Fprintf(a.stderr, "token %s of account %s, good until %s\n", t.ID, t.Account, t.ExpiresAt.Local().Format(time.DateTime))
			return nil
		})
	create.Flags().StringVar(&account, "account", "", "whose token it is (default: one's own)")
	create.Flags().DurationVar(&valid, "valid", 90*24*time.Hour, "how long it is good for, 1m to 9600h")
	list := a.asked("list", "List the tokens that one may see", cobra.NoArgs, func(cmd *cobra.Command, c *client.Admin, _ []string) error {
		all, err := c.APITokens(cmd.Context(), "")
		if err != nil {
			return err
		}
		t := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tACCOUNT\tNAME\tEXPIRES\tLAST USED")
		for _, x := range all {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", x.ID, x.Account, clean(x.Name), when(x.ExpiresAt), when(x.LastUsed))
		}
		return t.Flush()
	})
	return group("api-token", "API tokens, with which programs speak with central", create, list,
		a.asked("revoke ID", "Revoke a token", cobra.ExactArgs(1), func(cmd *cobra.Command, c *client.Admin, args []string) error {
			return c.RevokeAPIToken(cmd.Context(), args[0])
		}))
}

func (a *app) auditCommand() *cobra.Command {
	var f provisioning.AuditFilter
	var asJSON, verbose bool
	cmd := a.asked("audit [--account A] [--kind K] [--name N] [--site S] [-v]", "Show who changed what, when and from where, newest first", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Admin, _ []string) error {
			page, err := c.Audit(cmd.Context(), f)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(a.stdout)
				e.SetIndent("", "  ")
				return e.Encode(page)
			}
			for _, e := range page.Entries {
				fmt.Fprintf(a.stdout, "%d  %s  %s  %s  %s %s %s\n", e.Number, e.At.Local().Format(time.DateTime), orDash(clean(e.Account)), orDash(clean(e.From)), e.Action, e.Kind, clean(e.Name))
				if verbose {
					a.showSides(e)
				}
			}
			if page.Before > 0 {
				fmt.Fprintf(a.stderr, "more with: branchpoint audit --before %d\n", page.Before)
			}
			return nil
		})
	cmd.Flags().StringVar(&f.Account, "account", "", "only what that account did")
	cmd.Flags().StringVar(&f.Kind, "kind", "", "only that kind of documents or other things")
	cmd.Flags().StringVar(&f.Name, "name", "", "only what has that name")
	cmd.Flags().StringVar(&f.Site, "site", "", "only what concerns that site's document, enrolment and orders")
	cmd.Flags().Uint64Var(&f.Before, "before", 0, "begin below that `NUMBER`")
	cmd.Flags().IntVar(&f.Limit, "limit", 100, "at most so many, up to 1000")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the texts before and after")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// showSides shows what an entry changed: lines that went, then lines that came.
func (a *app) showSides(e provisioning.AuditEntry) {
	for _, side := range []struct{ mark, text string }{{"-", e.Before}, {"+", e.After}} {
		for line := range linesOf(side.text) {
			fmt.Fprintf(a.stdout, "    %s %s\n", side.mark, clean(line))
		}
	}
}

// when is a time as tables show it.
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.DateTime)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
