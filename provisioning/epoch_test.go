package provisioning

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"reflect"
	"slices"
	"testing"
	"time"
)

// keyFrom is a key that is the same at each run, so that what the tests flip is too.
func keyFrom(b byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{b}, ed25519.SeedSize))
}

func public(k ed25519.PrivateKey) ed25519.PublicKey { return k.Public().(ed25519.PublicKey) }

var (
	rootKey, otherRoot = keyFrom(1), keyFrom(2)
	firstKey, nextKey  = keyFrom(3), keyFrom(4)
	ourCA, otherCA     = SumSHA256([]byte("our CA")), SumSHA256([]byte("another CA"))
)

func statement(t testing.TB, root ed25519.PrivateKey, epoch uint64, key ed25519.PrivateKey, ca SHA256) SignedEpoch {
	t.Helper()
	s, err := SignEpoch(EpochStatement{Epoch: epoch, SnapshotKey: public(key), CASHA256: ca, IssuedAt: time.Unix(1e9, 0).UTC()}, root)
	if err != nil {
		t.Fatal(err)
	}
	return *s
}

func snapshotBy(t testing.TB, key ed25519.PrivateKey, epoch, number uint64) *SignedSnapshot {
	t.Helper()
	s, err := SignSnapshot(&Snapshot{Epoch: epoch, Number: number, Site: Site{Name: "LON"}, IssuedAt: time.Unix(1e9, 0).UTC()}, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestTamperedByte: no byte of a statement or a snapshot, nor of their signatures, can be changed, cut or added.
func TestTamperedByte(t *testing.T) {
	e, s := statement(t, rootKey, 2, nextKey, ourCA), snapshotBy(t, firstKey, 1, 1)
	trust := Trust{SnapshotKey: public(firstKey)}
	for name, x := range map[string]struct {
		payload, signature []byte
		open               func(payload, signature []byte) error
	}{
		"statement": {e.Payload, e.Signature, func(p, sig []byte) error {
			_, err := (&SignedEpoch{p, sig}).Open(public(rootKey))
			return err
		}},
		"snapshot": {s.Payload, s.Signature, func(p, sig []byte) error {
			_, err := trust.Open(&SignedSnapshot{p, sig})
			return err
		}},
	} {
		if err := x.open(x.payload, x.signature); err != nil {
			t.Fatal(name, err)
		}
		refused := func(what string, p, sig []byte) {
			t.Helper()
			if err := x.open(p, sig); CodeOf(err) != CodeCorrupt {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		for i := range x.payload {
			for bit := range 8 {
				p := bytes.Clone(x.payload)
				p[i] ^= 1 << bit
				refused("a bit of the payload", p, x.signature)
			}
			refused("cut", x.payload[:i], x.signature)
		}
		for i := range x.signature {
			for bit := range 8 {
				sig := bytes.Clone(x.signature)
				sig[i] ^= 1 << bit
				refused("a bit of the signature", x.payload, sig)
			}
			refused("signature cut", x.payload, x.signature[:i])
		}
		refused("more", append(bytes.Clone(x.payload), ' '), x.signature)
		refused("a longer signature", x.payload, append(bytes.Clone(x.signature), 0))
	}
	// What is signed as one must not pass for the other.
	if _, err := (&SignedSnapshot{e.Payload, e.Signature}).Open(public(rootKey)); CodeOf(err) != CodeCorrupt {
		t.Error(err)
	}
}

func TestTrustFollow(t *testing.T) {
	sign := func(epoch uint64, key ed25519.PrivateKey) SignedEpoch {
		return statement(t, rootKey, epoch, key, ourCA)
	}
	said := func(s ...SignedEpoch) Epochs { return Epochs{Root: public(rootKey), Statements: s} }
	old := Trust{SnapshotKey: public(firstKey)}
	one := Trust{Root: public(rootKey), Epoch: 1, SnapshotKey: public(firstKey)}
	two := Trust{Root: public(rootKey), Epoch: 2, SnapshotKey: public(nextKey)}
	twoSame := Trust{Root: public(rootKey), Epoch: 2, SnapshotKey: public(firstKey)}
	broken := sign(2, nextKey)
	broken.Payload = append(bytes.Clone(broken.Payload), ' ')
	for name, c := range map[string]struct {
		before Trust
		says   Epochs
		after  Trust
		code   Code
	}{
		"central has no root key":              {old, Epochs{}, old, ""},
		"a root key for the key that is known": {old, said(sign(1, firstKey)), one, ""},
		"a root key, and a new key since":      {old, said(sign(1, firstKey), sign(2, nextKey)), two, ""},
		"in any order":                         {old, said(sign(2, nextKey), sign(1, firstKey)), two, ""},
		"a root key for another key":           {old, said(sign(1, nextKey)), old, CodeForbidden},
		"a root key for another CA":            {old, said(statement(t, rootKey, 1, firstKey, otherCA)), old, CodeForbidden},
		"a root key that has signed nothing":   {old, said(), old, CodeForbidden},
		"statements without a root key":        {old, Epochs{Statements: []SignedEpoch{sign(1, firstKey)}}, old, CodeCorrupt},
		"a root key of the wrong length":       {old, Epochs{Root: []byte("short"), Statements: []SignedEpoch{sign(1, firstKey)}}, old, CodeCorrupt},
		"the same again":                       {one, said(sign(1, firstKey)), one, ""},
		"a new epoch with the same key":        {one, said(sign(1, firstKey), sign(2, firstKey)), twoSame, ""},
		"a new epoch alone":                    {one, said(sign(2, nextKey)), two, ""},
		"another root key":                     {one, Epochs{Root: public(otherRoot), Statements: []SignedEpoch{statement(t, otherRoot, 2, firstKey, ourCA)}}, one, CodeForbidden},
		"no root key any more":                 {one, Epochs{}, one, CodeForbidden},
		"a statement by another root key":      {one, said(statement(t, otherRoot, 2, nextKey, ourCA)), one, CodeCorrupt},
		"a statement by the signing key":       {one, said(statement(t, firstKey, 2, nextKey, ourCA)), one, CodeCorrupt},
		"a tampered statement":                 {one, said(sign(1, firstKey), broken), one, CodeCorrupt},
		"a new epoch for another CA":           {one, said(sign(1, firstKey), statement(t, rootKey, 2, nextKey, otherCA)), one, ""},
		"another key for the same epoch":       {one, said(sign(1, nextKey)), one, CodeForbidden},
		"two keys for one epoch":               {one, said(sign(2, nextKey), sign(2, firstKey)), one, CodeForbidden},
		"an older epoch":                       {two, said(sign(1, firstKey)), two, CodeConflict},
		"more epochs than there are":           {one, said(slices.Repeat([]SignedEpoch{sign(1, firstKey)}, MaxEpochs+1)...), one, CodeInvalid},
	} {
		got, err := c.before.Follow(ourCA, c.says)
		if CodeOf(err) != c.code || !reflect.DeepEqual(got, c.after) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestTrustOpen(t *testing.T) {
	old := Trust{SnapshotKey: public(firstKey)}
	two := Trust{Root: public(rootKey), Epoch: 2, SnapshotKey: public(nextKey)}
	for name, c := range map[string]struct {
		trust    Trust
		snapshot *SignedSnapshot
		code     Code
	}{
		"without a root key":          {old, snapshotBy(t, firstKey, 1, 1), ""},
		"of the epoch":                {two, snapshotBy(t, nextKey, 2, 7), ""},
		"of an older epoch":           {two, snapshotBy(t, nextKey, 1, 7), CodeConflict},
		"of an epoch nobody signed":   {two, snapshotBy(t, nextKey, 3, 1), CodeConflict},
		"by the key of before":        {two, snapshotBy(t, firstKey, 2, 1), CodeCorrupt},
		"by the root key":             {two, snapshotBy(t, rootKey, 2, 1), CodeCorrupt},
		"by a key that is not pinned": {old, snapshotBy(t, nextKey, 1, 1), CodeCorrupt},
	} {
		if _, err := c.trust.Open(c.snapshot); CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzVerify: nothing that was not signed is ever taken, and no bytes make the verifier panic. The payload is signed by a key
// that the branch does not trust, and offered under one that it does.
func FuzzVerify(f *testing.F) {
	e, s := statement(f, rootKey, 2, nextKey, ourCA), snapshotBy(f, firstKey, 1, 1)
	chain, err := json.Marshal(Epochs{Root: public(rootKey), Statements: []SignedEpoch{e}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Payload, e.Signature, chain)
	f.Add(s.Payload, s.Signature, []byte(`{"root":"","statements":[{}]}`))
	f.Add([]byte(`{"epoch":18446744073709551615,"snapshotKey":"AA==","caSHA256":""}`), []byte{}, []byte(`null`))
	f.Add([]byte(`{"epoch":1,"number":1,"site":{"name":"LON"},"computers":[{"name":"x"}]}`), make([]byte, 64), []byte(`{"statements":[null]}`))
	trust := Trust{Root: public(rootKey), Epoch: 1, SnapshotKey: public(firstKey)}
	f.Fuzz(func(t *testing.T, payload, signature, chain []byte) {
		if _, err := (&SignedEpoch{payload, signature}).Open(public(rootKey)); err == nil && !(bytes.Equal(payload, e.Payload) && bytes.Equal(signature, e.Signature)) {
			t.Error("a statement was taken")
		}
		if _, err := trust.Open(&SignedSnapshot{payload, signature}); err == nil && !(bytes.Equal(payload, s.Payload) && bytes.Equal(signature, s.Signature)) {
			t.Error("a snapshot was taken")
		}
		var says Epochs
		if json.Unmarshal(chain, &says) != nil {
			return
		}
		got, err := trust.Follow(ourCA, says)
		if err == nil && got.Epoch != 1 && !bytes.Equal(got.SnapshotKey, public(nextKey)) {
			t.Errorf("%+v is trusted", got)
		}
		// What is well signed but nonsense is refused, or is a snapshot.
		if x, err := signBytes(payload, firstKey).Open(public(firstKey)); err == nil && (x.Epoch == 0 || x.Site.Name == "") {
			t.Error("a snapshot without epoch or site was taken")
		}
	})
}

// signBytes signs any bytes as a snapshot.
func signBytes(payload []byte, key ed25519.PrivateKey) *SignedSnapshot {
	return &SignedSnapshot{payload, ed25519.Sign(key, append([]byte(signatureContext), payload...))}
}
