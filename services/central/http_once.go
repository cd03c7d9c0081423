package central

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"branchpoint/provisioning"

	"github.com/danielgtaylor/huma/v2"
)

// onceKept is how long a request with an Idempotency-Key is remembered.
const onceKept = 24 * time.Hour

// OnceKey is the header of requests that have an effect.
type OnceKey struct {
	Key string `header:"Idempotency-Key" json:"-" maxLength:"256" example:"\"8e03978e-40d5-43dd-bc93-6894a57f9324\"" doc:"A name for the request, so that it can be sent again: random as a rule, 1 to 255 visible ASCII characters, in quotes or without."`
}

func (k *OnceKey) onceKey() string { return k.Key }

// effect is a request that has an effect, whose body says all about it.
type effect[T any] struct {
	OnceKey
	Body T
}

// addEffect adds an operation that has an effect: once for each Idempotency-Key. do must say by answering or making what is
// answered, before it has its effect on the store.
func addEffect[In, Out any, P interface {
	*In
	onceKey() string
}](a *api, who rights, op huma.Operation, do func(context.Context, *In) (Out, error),
) {
	add(a, who, op, func(ctx context.Context, in *In) (*answer[Out], error) {
		return answered(once(ctx, a.c, P(in).onceKey(), op.OperationID, in, func(ctx context.Context) (Out, error) { return do(ctx, in) }))
	})
}

// posts makes what addEffect takes of one of central's methods.
func posts[In, Out any](do func(context.Context, In) (Out, error)) func(context.Context, *effect[In]) (Out, error) {
	return func(ctx context.Context, in *effect[In]) (Out, error) { return do(ctx, in.Body) }
}

// once carries a request out, or returns what it was answered when it was carried out under the same key before. The request is
// known again by in, without its key.
func once[Out any](ctx context.Context, c *Central, key, operation string, in any, do func(context.Context) (Out, error)) (Out, error) {
	var none Out
	if key == "" {
		return do(ctx)
	}
	key, err := parseOnceKey(key)
	if err != nil {
		return none, err
	}
	text, err := json.Marshal(in)
	if err != nil {
		return none, provisioning.Errorf(provisioning.CodeInternal, "", "encode the request: %w", err)
	}
	sum, err := c.cfg.Key.sum("idempotency", append([]byte(operation+"\n"), text...))
	if err != nil {
		return none, err
	}
	now := c.cfg.Now()
	o := &provisioning.Once{Account: provisioning.ActorOf(ctx).Account, Key: key, Request: sum, At: now, Expires: now.Add(onceKept)}
	if out, found, err := repeated[Out](ctx, c, o); found || err != nil {
		return out, err
	}
	out, err := do(provisioning.WithOnce(ctx, o))
	if err == nil || ctx.Err() != nil {
		return out, err
	}
	// It may have failed because the same request was carried out at the same time.
	if out, found, again := repeated[Out](ctx, c, o); found || again != nil {
		return out, again
	}
	return none, err
}

// repeated returns the answer that the request was given before, and whether it was.
func repeated[Out any](ctx context.Context, c *Central, o *provisioning.Once) (out Out, found bool, err error) {
	before, err := c.cfg.Store.Once(ctx, o.Account, o.Key, o.At)
	switch {
	case provisioning.CodeOf(err) == provisioning.CodeNotFound:
		return out, false, nil
	case err != nil:
		return out, false, err
	case before.Request != o.Request:
		p := problem(http.StatusUnprocessableEntity, "the Idempotency-Key was used for another request, at %s", before.At.UTC().Format(time.RFC3339))
		p.Next = "Choose a new key for each request."
		return out, true, p
	case before.Made != "":
		return out, true, provisioning.Errorf(provisioning.CodeConflict, "If the answer was lost, revoke it, and make another with a new key.",
			"the request was carried out at %s and made %s; its secret is given once only", before.At.UTC().Format(time.RFC3339), before.Made)
	}
	if err := json.Unmarshal(before.Answer, &out); err != nil {
		return out, true, provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the answer that was given before: %w", err)
	}
	return out, true, nil
}

// parseOnceKey reads the header's value: a string of RFC 8941 section 3.3.3, or the same without quotes.
func parseOnceKey(s string) (string, error) {
	key := s
	if quoted, ok := strings.CutPrefix(key, `"`); ok {
		if key, ok = strings.CutSuffix(quoted, `"`); !ok {
			key = ""
		}
	}
	if key == "" || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
		return "", provisioning.Errorf(provisioning.CodeInvalid, "Write something random, such as a UUID, in quotes.",
			"the Idempotency-Key is not 1 to 255 visible ASCII characters without quotes and backslashes inside")
	}
	return key, nil
}

// answering says what the request of ctx is answered, by what the store has done.
func answering[Done any](ctx context.Context, answer func(Done) any) {
	o := provisioning.OnceOf(ctx)
	if o == nil {
		return
	}
	o.Done = func(v any) (err error) {
		d, ok := v.(Done)
		if !ok && v != nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "the store has done %T", v)
		}
		if o.Answer, err = json.Marshal(answer(d)); err != nil {
			return provisioning.Errorf(provisioning.CodeInternal, "", "encode answer: %w", err)
		}
		return nil
	}
}

// making says that the answer to the request of ctx holds the secret of what it makes, which is named by what.
func making(ctx context.Context, what string) {
	if o := provisioning.OnceOf(ctx); o != nil {
		o.Done = func(any) error {
			o.Made = what
			return nil
		}
	}
}
