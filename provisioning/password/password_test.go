package password

import (
	"crypto/rand"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

func TestHashAndVerify(t *testing.T) {
	const secret = "correct horse ü"
	h, err := Hash(rand.Reader, secret)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(h, "$argon2id$v=19$m=65536,t=3,p=4$") || strings.Contains(h, secret) {
		t.Errorf("the hash is %q", h)
	}
	for given, want := range map[string]bool{secret: true, secret + " ": false, "": false, strings.Repeat("x", MaxLength+1): false} {
		if ok, err := Verify(h, given); err != nil || ok != want {
			t.Errorf("%.20q: %v, %v", given, ok, err)
		}
	}
	other, err := Hash(rand.Reader, secret)
	if err != nil || other == h {
		t.Errorf("the same password gave the same hash (%v)", err)
	}
}

// TestVerifyOthers: a hash that the reference implementation made (argon2 -id -t 2 -k 1024 -p 1 -l 32).
func TestVerifyOthers(t *testing.T) {
	const reference = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if ok, err := Verify(reference, "password"); err != nil || !ok {
		t.Error(ok, err)
	}
	if ok, err := Verify(reference, "passwore"); err != nil || ok {
		t.Error(ok, err)
	}
}

func TestRefused(t *testing.T) {
	for _, p := range []string{"", "short", strings.Repeat("x", MaxLength+1), "not UTF-8 \xff\xfe"} {
		if _, err := Hash(rand.Reader, p); provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("%.20q: %v", p, err)
		}
	}
	good := "$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if err := Check(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"no Argon2id":       {"argon2id", "argon2i"},
		"another version":   {"v=19", "v=16"},
		"too much memory":   {"m=65536", "m=4294967295"},
		"too many passes":   {"t=3", "t=1000"},
		"no pass":           {"t=3", "t=0"},
		"too many lanes":    {"p=4", "p=200"},
		"too many to count": {"p=4", "p=260"},
		"no lane":           {"p=4", "p=0"},
		"other spelling":    {"m=65536", "m=065536"},
		"more parameters":   {"p=4", "p=4,data=AAAA"},
		"no base 64":        {"$AAAAAAAAAAAAAAAAAAAAAA$", "$!$"},
		"no salt":           {"$AAAAAAAAAAAAAAAAAAAAAA$", "$$"},
		"crypt":             {good, "$6$salt$hash"},
		"empty":             {good, ""},
		"a long one":        {good, strings.Repeat("$argon2id", 1000)},
	} {
		h := strings.Replace(good, edit[0], edit[1], 1)
		if h == good {
			t.Fatal(name)
		}
		if _, err := Verify(h, "password"); provisioning.CodeOf(err) != provisioning.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
