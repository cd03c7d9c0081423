package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
	"branchpoint/services/store"
)

var kills = flag.Int("kills", 20, "how often TestKilledDuringApply kills central")

const (
	killSites     = 3
	killComputers = 120 // of each site, in an even generation; an odd one has some less
)

// generation is a whole configuration of some hundred documents, each of which says which generation it is of. Odd ones lack
// documents that even ones have.
func generation(g int) client.ApplyRequest {
	var b strings.Builder
	document := func(kind, name, spec string) {
		fmt.Fprintf(&b, "apiVersion: branchpoint/v1\nkind: %s\nmetadata: {name: %s}\nspec: {description: \"generation %d\"%s}\n---\n", kind, name, g, spec)
	}
	document("TaskSequence", "wipe", `, steps: [{partitionDisk: {partitions: [{mount: /, fileSystem: ext4}]}}]`)
	for s := range killSites {
		document("Site", fmt.Sprintf("S%d", s), `, pxe: {mode: proxy}`)
		for c := range killComputers - g%2*10 {
			document("Computer", fmt.Sprintf("s%d-%d", s, c), fmt.Sprintf(`, site: S%d, macAddresses: ["52:54:00:%02x:%02x:00"]`, s, s, c))
		}
	}
	b.WriteString("apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: all}\nspec: {taskSequence: wipe, collection: all-systems, purpose: available}\n")
	return client.ApplyRequest{Files: []provisioning.File{{Name: "all.yaml", Text: []byte(b.String())}}, Prune: true}
}

// killed is a central whose process is killed again and again.
type killed struct {
	t       *testing.T
	dir     string
	process *exec.Cmd
	admin   *client.Admin
}

// start starts central's process and waits until it answers.
func (k *killed) start() {
	k.t.Helper()
	k.process = exec.Command("branchpoint", "central", "--data", k.dir, "--listen", "127.0.0.1:0") // testscript.Main has put it there
	out, err := k.process.StdoutPipe()
	if err != nil {
		k.t.Fatal(err)
	}
	var log strings.Builder
	k.process.Stderr = &log
	if err := k.process.Start(); err != nil {
		k.t.Fatal(err)
	}
	hung := time.AfterFunc(2*time.Minute, func() { _ = k.process.Process.Kill() })
	defer hung.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "administer it with") {
			continue
		}
		f, err := client.ReadAdminFile(filepath.Join(k.dir, centralAdmin))
		if err != nil {
			k.t.Fatal(err)
		}
		if k.admin, err = client.NewAdmin(f, time.Now); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	k.t.Fatalf("central did not start: %v\n%s", errors.Join(lines.Err(), k.process.Wait()), log.String())
}

// kill ends the process as a power cut does.
func (k *killed) kill() {
	k.t.Helper()
	if err := k.process.Process.Kill(); err != nil {
		k.t.Fatal(err)
	}
	_ = k.process.Wait() // that it was killed
}

// found reads from the database which generation is in force, and which one is published; each must be whole.
func (k *killed) found() (inForce, published int) {
	k.t.Helper()
	db, err := store.Open(context.Background(), filepath.Join(k.dir, centralDatabase))
	if err != nil {
		k.t.Fatal(err)
	}
	defer db.Close()
	docs, err := db.Documents(context.Background())
	if err != nil {
		k.t.Fatal(err)
	}
	inForce = -1
	for _, d := range docs {
		if d.Kind == provisioning.KindAdvertisement {
			continue
		}
		o, err := d.Decode()
		if err != nil {
			k.t.Fatal(err)
		}
		description := map[provisioning.Kind]func() string{
			provisioning.KindSite:         func() string { return o.Site.Spec.Description },
			provisioning.KindComputer:     func() string { return o.Computer.Spec.Description },
			provisioning.KindTaskSequence: func() string { return o.TaskSequence.Spec.Description },
		}[d.Kind]()
		inForce = k.same(inForce, description, "document "+d.Name)
	}
	if want := 2 + killSites*(1+killComputers-inForce%2*10); len(docs) != want {
		k.t.Fatalf("%d documents of generation %d are in force, want %d", len(docs), inForce, want)
	}
	published = -1
	for s := range killSites {
		stored, err := db.SiteSnapshot(context.Background(), fmt.Sprintf("S%d", s))
		if err != nil {
			k.t.Fatal(err)
		}
		var snapshot provisioning.Snapshot
		if err := json.Unmarshal(stored.Signed.Payload, &snapshot); err != nil {
			k.t.Fatal(err)
		}
		published = k.same(published, snapshot.Site.Spec.Description, "snapshot of site "+snapshot.Site.Name)
		for _, c := range snapshot.Computers {
			published = k.same(published, c.Spec.Description, "computer "+c.Name+" of a snapshot")
		}
		if want := killComputers - published%2*10; len(snapshot.Computers) != want || len(snapshot.Advertisements) != 1 || stored.Problem != "" {
			k.t.Fatalf("the snapshot of site %s has %d computers, want %d, and %d advertisements; %s", snapshot.Site.Name, len(snapshot.Computers), want, len(snapshot.Advertisements), stored.Problem)
		}
	}
	return inForce, published
}

// same reads a generation from a description, and wants it to be g unless that is still -1.
func (k *killed) same(g int, description, what string) int {
	k.t.Helper()
	var n int
	if _, err := fmt.Sscanf(description, "generation %d", &n); err != nil || g >= 0 && n != g {
		k.t.Fatalf("%s says %q among what is of generation %d", what, description, g)
	}
	return n
}

// TestKilledDuringApply kills central's process at random moments of an apply of some hundred documents. What is in force
// and what is published afterwards is what was before or what was applied, never anything between, and never less than what
// was answered for.
func TestKilledDuringApply(t *testing.T) {
	k := &killed{t: t, dir: t.TempDir()}
	k.start()
	begin := time.Now()
	if _, err := k.admin.Apply(t.Context(), generation(0)); err != nil {
		t.Fatal(err)
	}
	span := time.Since(begin) // in which the moments are
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	var before, unpublished, after int
	g := 0
	for i := range *kills {
		answered := make(chan error, 1)
		go func() {
			_, err := k.admin.Apply(context.Background(), generation(g+1))
			answered <- err
		}()
		time.Sleep(time.Duration(r.Float64() * float64(span)))
		k.kill()
		err := <-answered
		inForce, published := k.found()
		switch {
		case inForce != g && inForce != g+1, err == nil && inForce != g+1:
			t.Fatalf("seed %d, kill %d: generation %d is in force, %d was and %d was applied (%v)", seed, i, inForce, g, g+1, err)
		case published != inForce && published != g:
			t.Fatalf("seed %d, kill %d: generation %d is published, %d is in force", seed, i, published, inForce)
		case inForce == g:
			before++
		case published == g:
			unpublished++
		default:
			after++
		}
		k.start()
		now, published := k.found()
		if now != inForce || published != inForce {
			t.Fatalf("seed %d, kill %d: after the restart generation %d is in force and %d published, want %d", seed, i, now, published, inForce)
		}
		// About half of the moments are to be after the change was stored, whatever else the machine does.
		if inForce == g {
			span = span * 6 / 5
		} else {
			span = span * 5 / 6
		}
		g = inForce
	}
	k.kill()
	t.Logf("seed %d: killed before %d times, before the publication %d times, after it %d times", seed, before, unpublished, after)
}
