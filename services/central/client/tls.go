package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"branchpoint/provisioning"
)

// pinnedTLS trusts exactly the CA whose certificate has that sum, whatever else the machine trusts.
//
// The server's name is not checked: an appliance reaches central by an address, through port forwarding or a name that
// central was never told, and the CA signs server certificates for nobody but central. A site's certificate, which the
// same CA signs, is for client authentication only and is refused here.
func pinnedTLS(ca provisioning.SHA256, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it instead
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the server sent no certificate")
			}
			roots, others := x509.NewCertPool(), x509.NewCertPool()
			found := false
			for _, c := range cs.PeerCertificates {
				if sum := sha256.Sum256(c.Raw); c.IsCA && hex.EncodeToString(sum[:]) == string(ca) {
					roots.AddCert(c)
					found = true
				} else {
					others.AddCert(c)
				}
			}
			if !found {
				return &pinError{errors.New("the server's certificate is not by the expected CA")}
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: others, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return &pinError{err}
			}
			return nil
		},
	}
}

// pinError is a failure to recognise the server.
type pinError struct{ err error }

func (e *pinError) Error() string { return e.err.Error() }
func (e *pinError) Unwrap() error { return e.err }

// newHTTP makes an HTTP client; long polls and content are why there is no total time limit: the context has it.
func newHTTP(config *tls.Config) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:     config,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout: 30 * time.Second,
			// Central answers within a long poll's wait, or never.
			ResponseHeaderTimeout: MaxWait + 30*time.Second,
			MaxIdleConnsPerHost:   16,
			IdleConnTimeout:       90 * time.Second,
			DisableCompression:    true,
		},
		// Nothing of central's redirects; following one would carry a token elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// maxAnswer bounds an answer's size in bytes: a snapshot of a very large site stays below.
const maxAnswer = 192 << 20

// call sends in as JSON and decodes the answer into out; nil leaves either out. It reports whether there was content.
func call(ctx context.Context, c *http.Client, method, url string, in, out any) (bool, error) {
	return exchange(ctx, c, method, url, http.Header{}, in, out)
}

// exchange is call with a header.
func exchange(ctx context.Context, c *http.Client, method, url string, header http.Header, in, out any) (bool, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return false, provisioning.Errorf(provisioning.CodeInternal, "", "encode request: %w", err)
		}
		body = bytes.NewReader(b)
		header.Set("Content-Type", "application/json")
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return false, provisioning.Errorf(provisioning.CodeInvalid, "Check central's address; it is host:port.", "make request: %w", err)
	}
	req.Header = header
	resp, err := c.Do(req)
	if err != nil {
		return false, transportError(ctx, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return false, provisioning.Errorf(provisioning.CodeUnavailable, "Try again.", "read central's answer: %w", err)
	}
	if len(b) > maxAnswer {
		return false, provisioning.Errorf(provisioning.CodeInvalid, "", "central's answer is larger than any real one")
	}
	if resp.StatusCode/100 != 2 {
		return false, provisioning.DecodeProblem(resp.StatusCode, b)
	}
	if resp.StatusCode == http.StatusNoContent {
		return false, nil
	}
	if out == nil {
		return true, nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return false, provisioning.Errorf(provisioning.CodeCorrupt, "Check that the address is central's.", "decode central's answer: %w", err)
	}
	return true, nil
}

// transportError says why there was no answer.
func transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if p, ok := errors.AsType[*pinError](err); ok {
		if c, ok := errors.AsType[x509.CertificateInvalidError](p.err); ok && c.Reason == x509.Expired {
			return provisioning.Errorf(provisioning.CodeUnavailable, "Set this machine's clock, or correct central's.",
				"central's certificate is not valid at this machine's time: %w", err)
		}
		return provisioning.Errorf(provisioning.CodeForbidden,
			"Check the address and the CA's sum (caSHA256): this is another server, or central was set up anew.",
			"what answers is not the central site that is expected: %w", err)
	}
	return provisioning.Errorf(provisioning.CodeUnavailable, "Check that central is running and can be reached at this address.", "reach central: %w", err)
}
