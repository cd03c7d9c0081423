package target

import (
	"testing"

	"branchpoint/provisioning/sequence/steps"
	"branchpoint/provisioning/sequence/steps/filestest"
)

func TestFiles(t *testing.T) {
	filestest.Run(t, func(t *testing.T) steps.Files { return NewTree(t.TempDir()) })
}
