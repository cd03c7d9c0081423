package provisioning

import (
	"context"
	"time"
)

// Once is a request that has its effect once however often it is sent: whoever sends it again under the same key is given the
// first answer (draft-ietf-httpapi-idempotency-key-header). It travels in the context of the request, so that the store keeps
// it in the transaction of the effect.
type Once struct {
	// Account and Key name it: keys are an account's own.
	Account, Key string
	// Request is the sum of what is asked for, keyed so that it tells nothing of passwords in it.
	Request SHA256
	// At is when it was carried out, and Expires when it is forgotten.
	At, Expires time.Time
	// Answer is the answer's JSON. Where the answer holds a secret it is not kept, and Made names what was made.
	Answer []byte
	Made   string
	// Done sets Answer or Made by what the store has done, which each of the store's methods describes. It is called within the
	// effect's transaction, and nothing is stored where it fails.
	Done func(done any) error
}

type onceKey struct{}

// WithOnce returns a context whose next effect on the store is that of o.
func WithOnce(ctx context.Context, o *Once) context.Context {
	return context.WithValue(ctx, onceKey{}, o)
}

// OnceOf returns the request of ctx that shall have its effect once, nil where there is none.
func OnceOf(ctx context.Context) *Once {
	o, _ := ctx.Value(onceKey{}).(*Once)
	return o
}
