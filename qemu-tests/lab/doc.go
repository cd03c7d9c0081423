// Package lab runs real machines for tests: QEMU with SeaBIOS, OVMF, or OVMF with Secure Boot enforced, joined by
// virtual switches that are part of the test process and need no root, with a WAN that the test can cut, a foreign DHCP
// server, and structured events from the guests.
//
// A test makes one [Lab], adds switches and machines to it, and waits for what the machines report. Nothing that the lab
// starts outlives the test, nor the test process, however that ends. Artifacts (serial log, captured frames, screenshot,
// events, the command line as run.sh) stay in build/e2e/<test>/ when the test failed, and are removed when it passed.
//
// The package imports nothing of the product: it sees built artifacts and public protocols only.
package lab
