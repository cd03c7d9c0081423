package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"strings"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
	"branchpoint/services/central/rootkey"

	"github.com/spf13/cobra"
)

// rootOptions are the flags of the commands of the root key.
type rootOptions struct{ file, passphraseFile string }

func (o *rootOptions) flags(cmd *cobra.Command, file, what string) *cobra.Command {
	cmd.Flags().StringVar(&o.file, file, "", what)
	cmd.Flags().StringVar(&o.passphraseFile, "passphrase-file", "", "read the passphrase from `FILE` rather than ask for it")
	return cmd
}

func (o *rootOptions) passphrase(a *app, twice bool) (string, error) {
	if o.passphraseFile == "" {
		return a.readSecret("passphrase", twice)
	}
	b, err := os.ReadFile(o.passphraseFile)
	if err != nil {
		return "", provisioning.Errorf(provisioning.CodeNotFound, "", "read the passphrase: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// open opens the root key's file, which is for a central with that CA.
func (o *rootOptions) open(a *app, ca provisioning.SHA256) (ed25519.PrivateKey, error) {
	sealed, err := rootkey.Read(o.file)
	if err != nil {
		return nil, err
	}
	passphrase, err := o.passphrase(a, false)
	if err != nil {
		return nil, err
	}
	return rootkey.Open(sealed, ca, passphrase)
}

// present signs the epoch that is in force.
func (a *app) present(now client.EpochState, key ed25519.PrivateKey) (*provisioning.SignedEpoch, error) {
	return provisioning.SignEpoch(provisioning.EpochStatement{
		Epoch: now.Epoch, SnapshotKey: now.SnapshotKey, CASHA256: now.CASHA256, IssuedAt: a.now().UTC(),
	}, key)
}

// rootCommand is below central. The root key's private half is only ever where these commands run: central gets what it has
// signed.
func (a *app) rootCommand() *cobra.Command {
	return group("root", "The root key, which is kept off line and says by which key snapshots are signed",
		a.rootCreateCommand(),
		a.rootRestoreCommand(),
		a.epochCommand("rotate-signing-key", "Sign snapshots with a new key from now on: the old one may be known to others", true),
		a.epochCommand("new-epoch", "Begin a new epoch: central was restored from a backup", false))
}

func (a *app) rootCreateCommand() *cobra.Command {
	var o rootOptions
	var anew bool
	cmd := a.asked("create --output FILE", "Make the root key, once, and write it to a file that its passphrase opens; keep copies in a safe", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Admin, _ []string) error {
			if o.file == "" {
				return usagef("central root create: say where the root key goes with --output FILE")
			}
			now, err := c.Epoch(cmd.Context())
			if err != nil {
				return err
			}
			if len(now.Root) > 0 {
				return provisioning.Errorf(provisioning.CodeConflict, "Use the file that was written then.", "there is a root key already")
			}
			if len(now.Pinned) > 0 && !anew {
				return provisioning.Errorf(provisioning.CodeConflict, "Bring that one back: branchpoint central root restore --root FILE. Only where its file is lost for good, make another one with --anew.",
					"sites have pinned a root key before central was restored from a backup, and take no other: %s", strings.Join(now.Pinned, ", "))
			}
			passphrase, err := o.passphrase(a, true)
			if err != nil {
				return err
			}
			pub, key, err := ed25519.GenerateKey(rand.Reader)
			if err != nil {
				return provisioning.Errorf(provisioning.CodeInternal, "", "make the root key: %w", err)
			}
			sealed, err := rootkey.Seal(key, now.CASHA256, passphrase)
			if err != nil {
				return err
			}
			signed, err := a.present(now, key)
			if err != nil {
				return err
			}
			// On the disk before it counts: branches that pin a key that nobody has can never get another.
			if err := rootkey.Create(o.file, sealed); err != nil {
				return err
			}
			if _, err := c.PutEpoch(cmd.Context(), client.EpochSigned{Root: pub, Statement: *signed}); err != nil {
				// The answer may have been lost, and the key in force: the file stays, whatever came of it.
				if now, e := c.Epoch(cmd.Context()); e != nil || !bytes.Equal(now.Root, pub) {
					return provisioning.Errorf(provisioning.CodeOf(err), "Keep "+o.file+" until branchpoint central root create says that there is a root key already, or makes another one.",
						"put the root key in force: %w", err)
				}
			}
			fmt.Fprintf(a.stdout, "wrote %s: the root key %s\nKeep copies of it in a safe, and its passphrase elsewhere; delete it here. Branches pin it from now on.\n",
				o.file, provisioning.Fingerprint(provisioning.SumSHA256(pub)))
			return nil
		})
	cmd.Flags().BoolVar(&anew, "anew", false, "though sites have pinned another one: each must be enrolled again with a blank data disk")
	return o.flags(cmd, "output", "`FILE` for the root key; it must not exist")
}

func (a *app) rootRestoreCommand() *cobra.Command {
	var o rootOptions
	cmd := a.asked("restore --root FILE", "Tell a central that was restored from a backup of before there was a root key which one it is", cobra.NoArgs,
		func(cmd *cobra.Command, c *client.Admin, _ []string) error {
			if o.file == "" {
				return usagef("central root restore: name the root key's file with --root FILE")
			}
			now, err := c.Epoch(cmd.Context())
			if err != nil {
				return err
			}
			if len(now.Root) > 0 {
				return provisioning.Errorf(provisioning.CodeConflict, "Begin a new epoch where sites are ahead of central: branchpoint central root new-epoch", "there is a root key already")
			}
			key, err := o.open(a, now.CASHA256)
			if err != nil {
				return err
			}
			signed, err := a.present(now, key)
			if err != nil {
				return err
			}
			pub := key.Public().(ed25519.PublicKey)
			if _, err := c.PutEpoch(cmd.Context(), client.EpochSigned{Root: pub, Statement: *signed}); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "central has the root key %s again\nSites that are ahead of it (branchpoint sites) need a new epoch: branchpoint central root new-epoch\n",
				provisioning.Fingerprint(provisioning.SumSHA256(pub)))
			return nil
		})
	return o.flags(cmd, "root", "`FILE` with the root key")
}

func (a *app) epochCommand(name, short string, rotate bool) *cobra.Command {
	var o rootOptions
	cmd := a.asked(name+" --root FILE", short, cobra.NoArgs, func(cmd *cobra.Command, c *client.Admin, _ []string) error {
		if o.file == "" {
			return usagef("central root %s: name the root key's file with --root FILE", name)
		}
		now, err := c.Epoch(cmd.Context())
		if err != nil {
			return err
		}
		if len(now.Root) == 0 {
			return provisioning.Errorf(provisioning.CodeConflict, "Make one: branchpoint central root create", "there is no root key yet")
		}
		key, err := o.open(a, now.CASHA256)
		if err != nil {
			return err
		}
		next, err := c.NextEpoch(cmd.Context(), client.EpochRequest{RotateKey: rotate})
		if err != nil {
			return err
		}
		if next.CASHA256 != now.CASHA256 || next.Epoch <= now.Epoch {
			return provisioning.Errorf(provisioning.CodeCorrupt, "", "central asks to sign epoch %d for another CA, or an old one", next.Epoch)
		}
		signed, err := provisioning.SignEpoch(next, key)
		if err != nil {
			return err
		}
		state, err := c.PutEpoch(cmd.Context(), client.EpochSigned{Statement: *signed})
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "epoch %d is in force, signed with the key %s\n", state.Epoch, provisioning.Fingerprint(provisioning.SumSHA256(state.SnapshotKey)))
		return nil
	})
	return o.flags(cmd, "root", "`FILE` with the root key")
}
