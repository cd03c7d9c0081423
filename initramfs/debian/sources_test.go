package debian

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindMirrors(t *testing.T) {
	none := map[string]string{}
	for name, c := range map[string]struct {
		files map[string]string
		env   map[string]string
		want  Mirrors
		fails string
	}{
		"deb822 with other vendors": {
			files: map[string]string{
				"sources.list.d/a-vendor.sources": "Types: deb\nURIs: http://vendor.example/x\nSuites: bookworm\nComponents: main\nSigned-By: /usr/share/keyrings/vendor.gpg\n",
				"sources.list.d/debian.sources": "# comment\nTypes: deb deb-src\nURIs: http://mirror.example/debian/\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
					"Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\n",
			},
			want: Mirrors{Main: "http://mirror.example/debian", Security: "http://mirror.example/debian-security"},
		},
		"one line": {
			files: map[string]string{"sources.list": "deb cdrom:[Debian]/ trixie main\n#deb http://old.example/debian trixie main\n" +
				"deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://m.example/debian trixie main contrib\n" +
				"deb-src http://src.example/debian trixie main\ndeb http://s.example/debian-security trixie-security main\n"},
			want: Mirrors{Main: "http://m.example/debian", Security: "http://s.example/debian-security"},
		},
		"mirror list of cloud images": {
			files: map[string]string{"sources.list.d/debian.sources": "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: trixie trixie-updates\nComponents: main\n"},
			want:  Mirrors{Main: "mirror+file:///etc/apt/mirrors/debian.list"},
		},
		"disabled": {
			files: map[string]string{"sources.list.d/debian.sources": "Types: deb\nEnabled: no\nURIs: http://m.example/debian\nSuites: trixie\nComponents: main\n"},
			fails: "DEBIAN_MIRROR",
		},
		"environment wins": {
			files: map[string]string{"sources.list": "deb http://m.example/debian trixie main\n"},
			env:   map[string]string{"DEBIAN_MIRROR": "http://near.example/debian/"},
			want:  Mirrors{Main: "http://near.example/debian"},
		},
		"other distribution": {
			files: map[string]string{"sources.list": "deb http://archive.example/ubuntu noble main\n"},
			fails: "no Debian archive",
		},
		"docker uses Debian's suite names": {
			files: map[string]string{"sources.list": "deb [signed-by=/k.gpg] http://download.example/linux/debian bookworm stable\ndeb http://m.example/debian bookworm main\n"},
			want:  Mirrors{Main: "http://m.example/debian"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for path, text := range c.files {
				write(t, filepath.Join(dir, path), text)
			}
			env := c.env
			if env == nil {
				env = none
			}
			got, err := FindMirrors(dir, func(k string) string { return env[k] })
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Fatalf("got %+v, %v; want an error with %q", got, err, c.fails)
				}
				return
			}
			if err != nil || got != c.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, c.want)
			}
		})
	}
}

func TestFilterAcquire(t *testing.T) {
	got := filterAcquire("APT::Architecture \"arm64\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::AllowInsecureRepositories \"1\";\nAcquire::Retries \"3\";\nDPkg::Post-Invoke:: \"rm -rf /\";\n")
	want := "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::Retries \"3\";\n"
	if got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func FuzzParseSources(f *testing.F) {
	f.Add("deb [signed-by=x] http://m/debian trixie main\n")
	f.Add("Types: deb\nURIs: a b\nSuites: trixie\n continued\nComponents: main\n\n")
	f.Add("deb [")
	f.Fuzz(func(t *testing.T, text string) {
		for _, e := range append(parseOneLine(text), parseDeb822(text)...) {
			if e.uri == "" || e.suite == "" {
				t.Fatalf("half an entry: %+v", e)
			}
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
