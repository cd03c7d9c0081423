package central

import (
	"sync"

	"branchpoint/provisioning"
)

// decodedDocuments remembers what stored documents decode to: 20,000 of them take seconds to decode (measured), and an
// apply changes few. Objects are never changed once decoded. The zero value is ready.
type decodedDocuments struct {
	mu    sync.Mutex
	known map[provisioning.Key]decodedDocument
}

type decodedDocument struct {
	text   string
	object provisioning.Object
}

// catalog decodes documents.
func (d *decodedDocuments) catalog(docs []provisioning.Document) (provisioning.Catalog, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make(provisioning.Catalog, len(docs))
	known := make(map[provisioning.Key]decodedDocument, len(docs))
	for i := range docs {
		k := docs[i].Key()
		x, ok := d.known[k]
		if !ok || x.text != docs[i].Text {
			o, err := docs[i].Decode()
			if err != nil {
				return nil, err
			}
			x = decodedDocument{docs[i].Text, o}
		}
		known[k], out[k] = x, x.object
	}
	d.known = known
	return out, nil
}

// learn remembers what a document decodes to that is about to be stored.
func (d *decodedDocuments) learn(doc provisioning.Document, o provisioning.Object) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil {
		d.known = map[provisioning.Key]decodedDocument{}
	}
	d.known[doc.Key()] = decodedDocument{doc.Text, o}
}
