// Package provisioning holds the nouns of operating system deployment — sites, computers, images, task sequences,
// advertisements, snapshots, status messages, content manifests — with their validation. It decides nothing about time
// or networks and does no input or output: every other part of Branchpoint speaks in these types.
package provisioning
