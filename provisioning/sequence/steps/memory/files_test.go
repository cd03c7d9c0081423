package memory_test

import (
	"testing"

	"branchpoint/provisioning/sequence/steps"
	"branchpoint/provisioning/sequence/steps/filestest"
	"branchpoint/provisioning/sequence/steps/memory"
)

func TestFiles(t *testing.T) {
	filestest.Run(t, func(*testing.T) steps.Files { return memory.NewFiles() })
}
