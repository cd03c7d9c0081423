package central

import (
	"context"
	"fmt"
	"slices"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"

	"github.com/rogpeppe/go-internal/diff"
)

// changeRequest is a change of the configuration that somebody asks for.
type changeRequest struct {
	command provisioning.Command
	note    string
	// edit says what is wanted, by what is in force. It may be called more than once.
	edit func(stored []provisioning.Document) (edit, error)
	// refuse fails where the plan must not be carried out, for reasons of the command's own; nil refuses nothing.
	refuse func(*plan) error
	// answer makes what the command answers of the result; nil is the result itself.
	answer func(client.ChangeResult) any
	client.Caution
}

// change makes a change of the configuration, all of it or nothing, and publishes it; or says what it would do. Every
// command that changes documents goes through here.
func (c *Central) change(ctx context.Context, r changeRequest) (client.ChangeResult, error) {
	packages, err := c.cfg.Content.Packages(ctx)
	if err != nil {
		return client.ChangeResult{}, fmt.Errorf("list content packages: %w", err)
	}
	limit, err := c.wipesUnconfirmed(ctx)
	if err != nil {
		return client.ChangeResult{}, err
	}
	inventories, err := c.cfg.Store.Inventories(ctx)
	if err != nil {
		return client.ChangeResult{}, err
	}
	hosts, err := c.hosts(ctx)
	if err != nil {
		return client.ChangeResult{}, err
	}
	consider := func(stored []provisioning.Document) (*plan, client.ChangeResult, error) {
		e, err := r.edit(stored)
		if err != nil {
			return nil, client.ChangeResult{}, err
		}
		if err := c.seal(stored, e); err != nil { // before anything looks at a document, tells of it or stores it
			return nil, client.ChangeResult{}, err
		}
		p, err := decide(&c.decoded, stored, e, packages)
		if err != nil {
			return nil, client.ChangeResult{}, err
		}
		if err := c.mayChange(ctx, p); err != nil {
			return nil, client.ChangeResult{}, err
		}
		if r.refuse != nil {
			if err := r.refuse(p); err != nil {
				return nil, client.ChangeResult{}, err
			}
		}
		result := p.result(r.Diff)
		result.Danger = p.danger(c.cfg.Now(), inventories, hosts, limit)
		return p, result, nil
	}
	// Decided once before the store is held up: faults end here, and what takes long is remembered.
	stored, err := c.cfg.Store.Documents(ctx)
	if err != nil {
		return client.ChangeResult{}, err
	}
	basis := stored
	p, result, err := consider(basis)
	if err != nil || r.DryRun {
		return result, err
	}
	by := provisioning.ActorOf(ctx).Account
	change := provisioning.Change{At: c.cfg.Now(), By: by, Command: r.command, Note: r.note}
	answering(ctx, func(number uint64) any {
		result.Change = number
		if r.answer == nil {
			return result
		}
		return r.answer(result)
	})
	number, err := c.cfg.Store.UpdateDocuments(ctx, change, func(stored []provisioning.Document) ([]provisioning.Document, error) {
		if !slices.EqualFunc(stored, basis, sameRevision) {
			if p, result, err = consider(stored); err != nil {
				return nil, err
			}
		}
		if r.command == provisioning.CommandDiscover {
			return p.documents(), nil // nobody to ask: the disk of a machine that is discovered was erased already
		}
		return p.documents(), confirmed(result.Danger, r.Confirm)
	})
	if err != nil {
		return client.ChangeResult{}, err
	}
	result.Change = number
	c.log(p, number, r.command, by)
	c.publishSoon(ctx) // where nothing was changed, too: an earlier publication may have failed
	return result, nil
}

func sameRevision(a, b provisioning.Document) bool {
	return a.Revision == b.Revision && a.Key() == b.Key()
}

// log tells of a change; of a large one only how many documents it touched: history and audit log have the rest.
func (c *Central) log(p *plan, number uint64, command provisioning.Command, by string) {
	changed := 0
	for _, t := range p.touched {
		if t.effect == client.Unchanged {
			continue
		}
		if changed++; changed <= maxNamed {
			c.cfg.Log.Info("configuration changed", "kind", t.key.Kind, "name", t.key.Name, "effect", t.effect, "change", number, "command", command, "by", by)
		}
	}
	if changed > maxNamed {
		c.cfg.Log.Info("configuration changed", "documents", changed, "change", number, "command", command, "by", by)
	}
}

// publishSoon publishes what is stored already: where that fails the next publication takes it along.
func (c *Central) publishSoon(ctx context.Context) {
	// What was asked for is done even if who asked has gone.
	if err := c.Publish(context.WithoutCancel(ctx)); err != nil {
		c.cfg.Log.Error("cannot publish snapshots", "error", err)
	}
}

// result tells what a plan does, with the difference of the texts where that is wanted.
func (p *plan) result(differences bool) client.ChangeResult {
	r := client.ChangeResult{Documents: []client.ChangedDocument{}}
	for _, t := range p.touched {
		d := client.ChangedDocument{Kind: t.key.Kind, Name: t.key.Name, Effect: t.effect}
		if differences && t.effect != client.Unchanged {
			d.Diff = t.diff()
		}
		r.Documents = append(r.Documents, d)
	}
	return r
}

// diff is the unified difference of the canonical texts.
func (t *touched) diff() string {
	old, next := "/dev/null", "/dev/null"
	name := fmt.Sprintf("%s/%s", t.key.Kind, t.key.Name)
	if t.before != nil {
		old = "a/" + name
	}
	if t.after != nil {
		next = "b/" + name
	}
	return string(diff.Diff(old, []byte(t.old), next, []byte(t.text)))
}
