package central_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

func collectionText(spec string) string {
	return "apiVersion: branchpoint/v1\nkind: Collection\nmetadata: {name: next}\nspec:\n  " + spec + "\n"
}

// shown says "members of computers: names, those without an answer with a question mark".
func shown(p client.MemberPage) string {
	var names []string
	for _, m := range p.Items {
		n := m.Computer
		if m.Failed {
			n += "?"
		}
		names = append(names, n)
	}
	return fmt.Sprintf("%d of %d: %s", p.Members, p.Computers, strings.Join(names, " "))
}

func TestMembers(t *testing.T) {
	s := start(t, t.TempDir())
	ctx := t.Context()
	eye := s.account("eye")
	s.mustApply(fleet() + role("eyes", "viewer", "eye", ", sites: [PAR]"))
	lon := s.branchAt("LON")
	lon.ran("pc-0", 0, provisioning.RunSucceeded)
	lon.ran("pc-7", 7, provisioning.RunSucceeded) // which PAR's branch is told
	if err := s.store.SaveInventories(ctx, s.clock.Now(), map[string]provisioning.Inventory{"pc-2": {MemoryMiB: 8192}, "pc-3": {MemoryMiB: 1024}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"listed":                "6 of 10: pc-0 pc-1 pc-2 pc-3 pc-4 pc-7",
		"fresh":                 "8 of 10: pc-1 pc-2 pc-3 pc-4 pc-5 pc-6 pc-8 pc-9",
		"all-systems":           "10 of 10: pc-0 pc-1 pc-2 pc-3 pc-4 pc-5 pc-6 pc-7 pc-8 pc-9",
		"all-unknown-computers": "0 of 10: ",
	} {
		p, err := s.admin.Members(ctx, name, client.Page{})
		if err != nil || shown(p) != want {
			t.Errorf("%s: %s, %v, want %s", name, shown(p), err, want)
		}
	}
	if p, err := s.admin.Members(ctx, "listed", client.Page{After: "pc-1", Limit: 2}); err != nil || shown(p) != "6 of 10: pc-2 pc-3" || p.Next != "pc-3" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := eye.Members(ctx, "all-systems", client.Page{}); err != nil || p.Computers != 4 {
		t.Errorf("%+v, %v", p, err)
	}
	_, err := s.admin.Members(ctx, "nothing", client.Page{})
	wantCode(t, err, provisioning.CodeNotFound, "nothing")

	preview := func(a *client.Admin, text string, p client.Page) (client.MemberPage, error) {
		return a.Preview(ctx, client.PreviewRequest{File: provisioning.File{Name: "next.yaml", Text: []byte(text)}, After: p.After, Limit: p.Limit})
	}
	p, err := preview(s.admin, collectionText(`query: 'inventory.memoryMiB > 4096 || computer.name == "pc-5"'`), client.Page{})
	if err != nil || shown(p) != "2 of 10: pc-0? pc-1? pc-2 pc-4? pc-5 pc-6? pc-7? pc-8? pc-9?" || p.Failed != 7 || p.Collection != "next" {
		t.Errorf("%s, %+v, %v", shown(p), p, err)
	}
	if p, err := preview(eye, collectionText(`query: 'computer.name > "pc-7"'`), client.Page{Limit: 1}); err != nil || shown(p) != "2 of 4: pc-8" || p.Next != "pc-8" {
		t.Errorf("%+v, %v", p, err)
	}
	// Nothing was stored.
	if docs, err := s.admin.Documents(ctx, provisioning.KindCollection, ""); err != nil || len(docs) != 2 {
		t.Errorf("%+v, %v", docs, err)
	}
	_, err = preview(s.admin, collectionText("computers: [pc-0]")+"---\n"+strings.ReplaceAll(collectionText("computers: [pc-0]"), "next", "other"), client.Page{})
	wantCode(t, err, provisioning.CodeInvalid, "2 documents")
}

// TestQueryFaults: what is wrong with a query is said where it stands in the file, by a preview and by apply.
func TestQueryFaults(t *testing.T) {
	s := start(t, t.TempDir())
	s.mustApply(fleet())
	long := strings.Repeat(`deployments.exists(d, deployments.exists(e, deployments.exists(f, f.spent && e.spent && d.spent))) && `, 3) + "true"
	for text, want := range map[string]string{
		`query: computer.nam == "x"`:                       "next.yaml:5:18: ",
		`query: 'computer.nam == "x"'`:                     "next.yaml:5:19: ",
		`query: "computer.nam == 'x'"`:                     "next.yaml:5:19: ",
		"query: |\n    true &&\n      computer.nam == 'x'": "next.yaml:7:15: ",
		"query: |-\n\n    computer.nam == 'x'":             "next.yaml:7:13: ",
		"query: >-\n    computer.nam\n    == 'x'":          "next.yaml:5:", // folded: at the query
		`query: computer.name`:                             "write a condition",
		"query: '" + long + "'":                            "too long",
		`computers: [nobody]`:                              "next.yaml:5:15: there is no Computer",
	} {
		text = collectionText(text)
		_, err := s.admin.Preview(t.Context(), client.PreviewRequest{File: provisioning.File{Name: "next.yaml", Text: []byte(text)}})
		ps, ok := errors.AsType[provisioning.Problems](err)
		if !ok || !strings.Contains(ps.Error(), want) {
			t.Errorf("%s\n%v, want %s", text, err, want)
		}
		_, applied := s.admin.Apply(t.Context(), client.ApplyRequest{Files: []provisioning.File{{Name: "next.yaml", Text: []byte(text)}}})
		if applied == nil || applied.Error() != err.Error() {
			t.Errorf("apply says %v, and a preview %v", applied, err)
		}
	}
	_, err := s.admin.Preview(t.Context(), client.PreviewRequest{File: provisioning.File{Name: "site.yaml", Text: []byte("apiVersion: branchpoint/v1\nkind: Site\nmetadata: {name: ROM}\nspec: {}\n")}})
	if ps, ok := errors.AsType[provisioning.Problems](err); !ok || !strings.Contains(ps.Error(), "a Collection is wanted") {
		t.Error(err)
	}
}
