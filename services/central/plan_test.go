package central

import (
	"strings"
	"testing"

	"branchpoint/provisioning"
)

// TestChecksWhatRefers: what is stored and refers to what is given is checked too, and nothing else.
func TestChecksWhatRefers(t *testing.T) {
	const computer = "apiVersion: branchpoint/v1\nkind: Computer\nmetadata: {name: desk-1}\nspec: {macAddresses: [\"52:54:00:00:00:01\"]}\n"
	advertisement := func(name, computer string) provisioning.Document {
		return provisioning.Document{Kind: provisioning.KindAdvertisement, Name: name, Text: "apiVersion: branchpoint/v1\nkind: Advertisement\nmetadata: {name: " + name +
			"}\nspec: {taskSequence: gone, computers: [" + computer + "], purpose: required}\n"}
	}
	given, err := decodeAll([]provisioning.File{{Name: "a.yaml", Text: []byte(computer)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = decide(&decodedDocuments{}, []provisioning.Document{advertisement("mine", "desk-1"), advertisement("other", "desk-2")}, want(given), nil)
	ps, ok := err.(provisioning.Problems)
	if !ok || len(ps) != 1 || !strings.Contains(ps[0].String(), `stored Advertisement mine:4:22: there is no TaskSequence "gone"`) {
		t.Error(err)
	}
	if p, err := decide(&decodedDocuments{}, []provisioning.Document{advertisement("other", "desk-2")}, want(given), nil); err != nil || len(p.documents()) != 1 {
		t.Error(p, err)
	}
}
