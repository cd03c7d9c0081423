package provisioning

import "time"

// Account is somebody who may speak with central, within the rights of the roles that name it.
type Account struct {
	Name string
	// Password is the Argon2id hash of the password (PHC string), empty where there is none to log in with.
	Password string
	// Disabled accounts are refused, with whatever token.
	Disabled  bool
	CreatedAt time.Time
	// LastLogin is when the password was last used, zero if never.
	LastLogin time.Time
}

// APIToken is a token of an account as central keeps it: never the token itself.
type APIToken struct {
	// Hash is the sum of the token; its first TokenIDLength digits name it to people.
	Hash    SHA256
	Account string
	// Name is unique within the account. That of a login's begins with LoginToken.
	Name      string
	CreatedAt time.Time
	ExpiresAt time.Time
	// LastUsed is when it was last used, to the minute; zero if never.
	LastUsed time.Time
}

// LoginToken is what the names of API tokens begin with that a password was exchanged for: a new password ends them.
const LoginToken = "login "

// TokenIDLength is how many digits of a token's sum name it.
const TokenIDLength = 16

// TokenID names a token that is kept by its sum.
func TokenID(sum SHA256) string { return string(sum[:min(len(sum), TokenIDLength)]) }

// SiteCertificate is a certificate that central issued to a site.
type SiteCertificate struct {
	// Sum is that of the certificate's DER form.
	Sum  SHA256
	Site string
	// Key is the sum of its public key (PKIX, DER).
	Key       SHA256
	IssuedAt  time.Time
	ExpiresAt time.Time
	// RevokedAt is zero as long as it is good; Why says why it is not.
	RevokedAt time.Time
	Why       string
	// Recipient is to whom the secrets of the appliance that has it are encrypted, an age X25519 recipient; empty as long as it
	// has not said.
	Recipient string
}

// EnrolmentChange is what the use of an enrolment token changes beside the token.
type EnrolmentChange struct {
	// Issued is a new certificate, nil if there is none. The site's certificates of other keys are revoked by it, and Replaced
	// says why.
	Issued   *SiteCertificate
	Replaced string
	Audit    []AuditEntry
}

// SiteContact is when a site last spoke with central.
type SiteContact struct {
	Site string
	// At is when, zero if never.
	At time.Time
	// Epoch and Number are those of the newest snapshot that the site ever said it had.
	Epoch, Number uint64
	// RootPinned says whether it has pinned the root key.
	RootPinned bool
	// RevokedAt is when the site was last revoked, zero if never. Certificates from before are refused.
	RevokedAt time.Time
}

// Fingerprint is a sum as people compare it: eight groups of four digits, its first 128 bits.
func Fingerprint(sum SHA256) string {
	out := make([]byte, 0, 39)
	for i := 0; i < 32 && i < len(sum); i++ {
		if i > 0 && i%4 == 0 {
			out = append(out, '-')
		}
		out = append(out, sum[i])
	}
	return string(out)
}
