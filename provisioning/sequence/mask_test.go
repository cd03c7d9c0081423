package sequence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"branchpoint/provisioning"
)

func TestMask(t *testing.T) {
	m := NewMask(map[string]string{"A": "hunter2", "B": "hunter2-longer", "C": "first line\nsecond line\nend"})
	for in, want := range map[string]string{
		"":                                   "",
		"nothing here":                       "nothing here",
		"the password is hunter2.":           "the password is (secret).",
		"hunter2-longer and hunter2":         "(secret) and (secret)",
		"first line\nsecond line\nend":       "(secret)",
		"it says second line, alone":         "it says (secret), alone",
		"ter2 was cut":                       "(secret) was cut",
		"-longer was cut, hunter2":           "(secret) was cut, (secret)",
		"er2 is too short to tell, as is en": "er2 is too short to tell, as is en",
		"in the middle -longer is its own":   "in the middle -longer is its own",
	} {
		if got := m.Text(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
	if got := (Mask{}).Text("hunter2"); got != "hunter2" {
		t.Errorf("without secrets: %q", got)
	}
	err := m.Err(provisioning.Errorf(provisioning.CodeForbidden, "Do not say hunter2.", "join with hunter2: %w", context.Canceled))
	if err.Error() != "join with (secret): context canceled" || provisioning.CodeOf(err) != provisioning.CodeForbidden || provisioning.NextOf(err) != "Do not say (secret)." {
		t.Errorf("error %v, %s", err, provisioning.NextOf(err))
	}
	err = m.Err(provisioning.Errorf(provisioning.CodeForbidden, "Do not say hunter2.", "join"))
	if err.Error() != "join" || provisioning.NextOf(err) != "Do not say (secret)." {
		t.Errorf("error %v, %s", err, provisioning.NextOf(err))
	}
	if plain := fmt.Errorf("wait: %w", context.Canceled); m.Err(plain) != plain || m.Err(nil) != nil {
		t.Error("an error without a secret was changed")
	}
}

// TestMaskOfQuotedSecrets: messages quote what they are about, and a secret may have what is escaped there.
func TestMaskOfQuotedSecrets(t *testing.T) {
	for _, secret := range []string{
		`pass"word"`, `back\slash\`, "two\nlines", "tab\tand\abell", "a<b>&c", "na\u00efve\u2028\u00a0x", `"quoted"`, "not\xff\xfeUTF-8", "plain-one",
	} {
		m := NewMask(map[string]string{"A": secret})
		asJSON, err := json.Marshal(secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range []string{secret, fmt.Sprintf("%q", secret), fmt.Sprintf("%+q", secret), string(asJSON)} {
			inside := strings.TrimSuffix(strings.TrimPrefix(in, `"`), `"`)
			if in == secret {
				inside = in
			}
			if got, want := m.Text("join with "+inside+" failed"), "join with "+masked+" failed"; got != want {
				t.Errorf("%q becomes %q", "join with "+inside+" failed", got)
			}
			// Its beginning was cut off.
			if got := m.Text(inside[len(inside)-4:] + " failed"); got != masked+" failed" {
				t.Errorf("the end of %q becomes %q", inside, got)
			}
		}
		if err := m.Err(fmt.Errorf("join with %q", secret)); err.Error() != `join with "`+masked+`"` {
			t.Errorf("an error becomes %v", err)
		}
	}
}

// TestSecretsAreNotReported: a command gets the secret, and nothing that is reported, shown or logged has it.
func TestSecretsAreNotReported(t *testing.T) {
	const secret = "hunter2-and-more"
	b := &fakeBranch{}
	var log strings.Builder
	var ran string
	for name, result := range map[string]func() Result{
		"success": func() Result {
			return Result{Text: "joined with " + secret, Output: secret[4:] + " was cut\n" + secret}
		},
		"failure": func() Result {
			return Result{ExitCode: 3, Output: secret, Err: provisioning.Errorf(provisioning.CodeInvalid, "Change "+secret, "join with %s failed", secret)}
		},
		"panic": func() Result { panic("with " + secret) },
	} {
		t.Run(name, func(t *testing.T) {
			e, ctx, seen := engine(t, b, closer{runnerFunc(func(_ context.Context, s provisioning.Step, progress func(Progress)) Result {
				progress(Progress{Text: "join with " + secret})
				ran = s.RunCommandLine.Command
				return result()
			}), func(context.Context) error { return errors.New("unmount " + secret) }}, command("join --password %joinpassword%"))
			e.Assignment.Secrets = map[string]string{"JOINPASSWORD": secret}
			e.Assignment.Computer.Spec.Variables = map[string]string{"JoinPassword": "public"}
			e.Variables = NewVariables(e.Assignment, nil)
			e.Log = slog.New(slog.NewTextHandler(&log, nil))
			out := e.Run(ctx)
			if err := e.Queue.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if ran != "join --password "+secret {
				t.Errorf("the command is %q", ran)
			}
			told := fmt.Sprintf("%+v %+v %v %s %v", b.stored, *seen, out, withNext(out.Err), log.String())
			for _, e := range *seen {
				told += fmt.Sprint(e.Err)
			}
			if strings.Contains(told, secret) || strings.Contains(told, secret[4:]) || !strings.Contains(told, masked) {
				t.Errorf("told is\n%s", told)
			}
		})
	}
}
