package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"branchpoint/benchmark"
)

// store puts rows where benchmarks put them.
func store(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	tftp = `{"name":"tftp-throughput","unit":"MB/s","ours":40,"peers":{"tftpd-hpa":20,"atftpd":8},"ratio":2}`
	boot = `{"name":"boot-to-agent","unit":"s","ours":30,"peers":{"dnsmasq":33},"ratio":1.1}`
	lone = `{"name":"import-and-resolve","unit":"s","ours":4,"peers":{},"goal":5,"ratio":1.25}`
)

func TestRun(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(t.TempDir(), "bench.json")
	store(t, dir, map[string]string{"tftp-throughput.json": tftp, "boot-to-agent.json": boot, "import-and-resolve.json": lone, "notes.txt": "not a row"})
	var w bytes.Buffer
	if err := run(&w, dir, out, []string{"boot-to-agent", "import-and-resolve", "tftp-throughput"}); err != nil {
		t.Fatal(err)
	}
	const want = `benchmark           unit  ours  ratio  goal          peers
boot-to-agent       s     30    1.10   1.25  missed  dnsmasq 33
import-and-resolve  s     4     1.25   1.00  met     wanted: 5
tftp-throughput     MB/s  40    2.00   1.00  met     atftpd 8, tftpd-hpa 20
`
	if w.String() != want {
		t.Errorf("table:\n%s", w.String())
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var rows []benchmark.Result
	if err := json.Unmarshal(b, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 || rows[0].Name != "boot-to-agent" || rows[1].Goal != 5 || rows[2].Peers["atftpd"] != 8 || rows[2].Ratio != 2 {
		t.Errorf("list: %s", b)
	}
	const first = "[\n  {\n    \"name\": \"boot-to-agent\",\n    \"unit\": \"s\",\n    \"ours\": 30,\n    \"peers\": {\n      \"dnsmasq\": 33\n    },\n    \"ratio\": 1.1\n  },\n"
	if !strings.HasPrefix(string(b), first) {
		t.Errorf("list: %s", b)
	}
}

// TestRunFails expects a clear message, and the other rows all the same.
func TestRunFails(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a row is missing":     {map[string]string{"tftp-throughput.json": tftp}, "no row for boot-to-agent"},
		"a row is cut off":     {map[string]string{"tftp-throughput.json": tftp, "boot-to-agent.json": boot[:40]}, "boot-to-agent.json: unexpected EOF"},
		"another row's name":   {map[string]string{"tftp-throughput.json": tftp, "boot-to-agent.json": tftp}, `its name is "tftp-throughput"`},
		"no peers":             {map[string]string{"tftp-throughput.json": tftp, "boot-to-agent.json": `{"name":"boot-to-agent","unit":"s","ours":1,"ratio":1}`}, "lacks unit"},
		"a field too many":     {map[string]string{"tftp-throughput.json": tftp, "boot-to-agent.json": `{"name":"boot-to-agent","x":1}`}, "unknown field"},
		"a row without a goal": {map[string]string{"tftp-throughput.json": tftp, "boot-to-agent.json": boot, "new.json": strings.ReplaceAll(boot, "boot-to-agent", "new")}, "without a goal: new"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(t.TempDir(), "bench.json")
			store(t, dir, c.files)
			var w bytes.Buffer
			err := run(&w, dir, out, []string{"boot-to-agent", "tftp-throughput"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if !strings.Contains(w.String(), "tftp-throughput  MB/s  40") {
				t.Errorf("table: %s", w.String())
			}
			if b, err := os.ReadFile(out); err != nil || !strings.Contains(string(b), "tftp-throughput") {
				t.Errorf("list: %v: %s", err, b)
			}
		})
	}
}

func TestRunNothing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "bench.json")
	var w bytes.Buffer
	err := run(&w, filepath.Join(t.TempDir(), "none"), out, []string{"dhcp-offers"})
	if err == nil || !strings.Contains(err.Error(), "no row for dhcp-offers") || w.Len() != 0 {
		t.Errorf("error %v, table %q", err, w.String())
	}
	if b, err := os.ReadFile(out); err != nil || string(b) != "[]\n" {
		t.Errorf("list: %v: %q", err, b)
	}
}
