package provisioning

import "testing"

// FuzzPasswordHash: whatever stands there, it is looked at in bounds, never panics, and what is taken has bounds itself.
func FuzzPasswordHash(f *testing.F) {
	f.Add("$argon2id$v=19$m=65536,t=3,p=4$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Add("$argon2id$v=19$m=1,t=1,p=1$$")
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParsePasswordHash(s)
		if err == nil && (h.Memory > maxHashMemory || h.Passes > maxHashPasses || h.Lanes > maxHashLanes || h.Lanes == 0 || len(h.Salt) < 8 || len(h.Tag) < 16) {
			t.Errorf("%q was taken: %+v", s, h)
		}
	})
}
