package content_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"branchpoint/benchmark"
	"branchpoint/provisioning"
	"branchpoint/services/content"
	"branchpoint/services/content/client"
)

// The image of the benchmarks, in bytes: how large the disk is and how much of it is files.
const (
	benchDisk = 3 << 30
	benchUsed = 1200 << 20
)

// BenchmarkPeers_DeployImage writes an image onto an empty disk: from a store that is served as a branch serves it, and
// as people do it by hand, with the same verification and the same guarantee that it is on the medium.
func BenchmarkPeers_DeployImage(b *testing.B) {
	dir := b.TempDir()
	img := benchImage(b, dir, benchTree(b, dir), "v1.img")
	w := newBench(b, dir, img)
	benchmark.Report(b, w.contest("deploy-image", func() error { return emptyTarget(w.target) }))
}

// BenchmarkPeers_RedeployImage writes an image onto a disk that holds the version before, which was made in the same way
// of files of which 40 MB have changed and 10 MB are new.
func BenchmarkPeers_RedeployImage(b *testing.B) {
	dir := b.TempDir()
	tree := benchTree(b, dir)
	old := benchImage(b, dir, tree, "v1.img")
	changeTree(b, tree)
	w := newBench(b, dir, old, benchImage(b, dir, tree, "v2.img"))
	benchmark.Report(b, w.contest("redeploy-image", func() error {
		if err := os.Remove(w.target); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if out, err := exec.Command("cp", "--sparse=always", old, w.target).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}))
}

// bench is an image, served in both ways, and what it is written to.
type bench struct {
	c      *client.Client
	ref    provisioning.ContentRef
	sum    provisioning.SHA256
	url    string // of the compressed image, for curl
	target string
}

// newBench serves the last of the versions of an image.
func newBench(b *testing.B, dir string, versions ...string) *bench {
	w := &bench{target: filepath.Join(dir, "target")}
	s, _ := newStore(b)
	for _, img := range versions {
		w.ref = add(b, s, "bench", img).Ref
	}
	m, err := s.Manifest(w.ref.Manifest)
	if err != nil {
		b.Fatal(err)
	}
	w.sum = m.Files[0].SHA256
	w.c = serveTLS(b, content.NewReadHandler(s, everybody, nil))
	www := filepath.Join(dir, "www")
	if err := os.Mkdir(www, 0o755); err != nil {
		b.Fatal(err)
	}
	run(b, "", "zstd", "-q", "-T0", versions[len(versions)-1], "-o", filepath.Join(www, "image.zst"))
	w.url = serveNginx(b, dir, www) + "/image.zst"
	return w
}

// contest measures both, each on a target that prepare makes.
func (w *bench) contest(name string, prepare func() error) benchmark.Contest {
	timed := func(what func(context.Context) error) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			if err := errors.Join(prepare(), settle(w.target)); err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := what(ctx); err != nil {
				return 0, err
			}
			took := time.Since(begin).Seconds()
			if got, err := sumFile(w.target); err != nil || got != w.sum {
				return 0, fmt.Errorf("the target has the sum %s, the image %s (%w)", got, w.sum, err)
			}
			return took, nil
		}
	}
	return benchmark.Contest{
		Name: name, Unit: "s", Runs: 5,
		Ours:  benchmark.Contender{Name: "branchpoint", Run: timed(w.ours)},
		Peers: []benchmark.Contender{{Name: "curl | zstd | sha256sum | dd", Run: timed(w.pipeline)}},
	}
}

// ours is what the agent does.
func (w *bench) ours(ctx context.Context) error {
	m, err := w.c.Manifest(ctx, w.ref.Manifest)
	if err != nil {
		return err
	}
	x, err := w.c.Index(ctx, m.Files[0])
	if err != nil {
		return err
	}
	d, err := client.OpenDisk(w.target)
	if err != nil {
		return err
	}
	_, err = w.c.WriteDisk(ctx, d, x, client.DiskOptions{})
	return errors.Join(err, d.Close())
}

// pipeline is what people do by hand.
func (w *bench) pipeline(ctx context.Context) error {
	const script = `set -o pipefail; curl -fsS "$0" | zstd -dc | tee >(sha256sum >"$1.sum") | dd of="$1" bs=4M conv=fsync status=none; wait; grep -q "$2" "$1.sum"`
	out, err := exec.CommandContext(ctx, "bash", "-c", script, w.url, w.target, string(w.sum)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// emptyTarget makes a disk with nothing on it.
func emptyTarget(path string) error {
	return errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o600), os.Truncate(path, benchDisk))
}

// settle brings a file onto the medium and makes the kernel forget it, as after a restart.
func settle(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	unix.Sync()
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

func sumFile(path string) (provisioning.SHA256, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return provisioning.SHA256(hex.EncodeToString(h.Sum(nil))), nil
}

// benchTree makes a tree of about benchUsed bytes of this computer's own programs, libraries and data.
func benchTree(b *testing.B, dir string) string {
	tree := filepath.Join(dir, "tree")
	left := int64(benchUsed)
	for share := range uint32(4) { // a quarter from everywhere first, so that it is a bit of everything
		err := filepath.WalkDir("/usr", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || left <= 0 || draw(path, 4) != share {
				return err
			}
			info, err := d.Info()
			if err != nil || info.Size() > left {
				return err
			}
			left -= info.Size()
			to := filepath.Join(tree, path)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return copyFile(path, to)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if left > benchUsed/10 {
		b.Fatalf("/usr has not enough files for an image of %d bytes: %d are missing", benchUsed, left)
	}
	return tree
}

// draw gives each name a number below n, the same each time.
func draw(name string, n uint32) uint32 {
	sum := sha256.Sum256([]byte(name))
	return binary.LittleEndian.Uint32(sum[:]) % n
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// changeTree does to a tree what updates do: files become others of nearly the same content and size, and some are new.
func changeTree(b *testing.B, tree string) {
	changed := int64(0)
	for share := range uint32(40) {
		err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || changed >= 40<<20 || draw("changed"+strings.TrimPrefix(path, tree), 40) != share {
				return err
			}
			info, err := d.Info()
			if err != nil || info.Size() > 8<<20 {
				return err
			}
			old, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			changed += int64(len(old))
			for at := 0; at < len(old); at += 4096 { // an address here, a date there
				old[at] ^= 0x55
			}
			return os.WriteFile(path, append(old, random(uint64(len(old)), 700)...), 0o644)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for n := range uint64(20) {
		write(b, filepath.Join(tree, "usr", "lib", "new", fmt.Sprint(n)), append(random(n, 256<<10), text(n, 256<<10)...))
	}
	if changed < 30<<20 {
		b.Fatalf("only %d bytes were changed", changed)
	}
}

// benchImage makes a disk image of a tree: the same bytes each time for the same tree.
func benchImage(b *testing.B, dir, tree, name string) string {
	path := write(b, filepath.Join(dir, name), nil)
	if err := os.Truncate(path, benchDisk); err != nil {
		b.Fatal(err)
	}
	b.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	run(b, "label: gpt\nlabel-id: 6f0a4cf0-7a0c-4f6e-9d5c-0c9e5b6f1a2b\nstart=2048, type=linux, uuid=0f0a4cf0-7a0c-4f6e-9d5c-0c9e5b6f1a2b\n", "sfdisk", "-q", path)
	run(b, "", "mkfs.ext4", "-q", "-F", "-U", "5c9e5b6f-1a2b-4f6e-9d5c-0c9e5b6f1a2b", "-E", "offset=1048576,hash_seed=5c9e5b6f-1a2b-4f6e-9d5c-0c9e5b6f1a2b", "-d", tree, path, fmt.Sprint(benchDisk>>10-2048)+"k")
	return path
}

// serveTLS serves as a branch serves its agents, and returns a client as an agent has it: TLS 1.3 with certificates on
// both sides.
func serveTLS(b *testing.B, handler http.Handler) *client.Client {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: handler, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert}}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	b.Cleanup(func() { _ = srv.Close() })
	pinned := func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) == 0 || string(raw[0]) != string(der) {
			return errors.New("another server")
		}
		return nil
	}
	return client.New("https://"+l.Addr().String(), &http.Client{Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, VerifyPeerCertificate: pinned},
		MaxIdleConnsPerHost: 16, DisableCompression: true,
	}})
}

// serveNginx serves a directory and returns its address.
func serveNginx(b *testing.B, dir, www string) string {
	nginx, err := exec.LookPath("/usr/sbin/nginx")
	if err != nil {
		b.Fatalf("nginx is not installed; run setup.sh: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	conf := write(b, filepath.Join(dir, "nginx", "nginx.conf"), fmt.Appendf(nil, `daemon off; master_process off; pid %[1]s/nginx/pid; error_log %[1]s/nginx/error.log;
events {}
http { access_log off; sendfile on; tcp_nopush on; client_body_temp_path %[1]s/nginx/body; server { listen %[2]s; root %[3]s; } }
`, dir, addr, www))
	cmd := exec.Command(nginx, "-p", filepath.Join(dir, "nginx"), "-c", conf)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		res, err := http.Head("http://" + addr + "/image.zst")
		if err == nil {
			_ = res.Body.Close()
			return "http://" + addr
		}
		if time.Now().After(deadline) {
			b.Fatalf("nginx does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
