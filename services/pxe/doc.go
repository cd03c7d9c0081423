// Package pxe is the PXE service point: it answers the firmware of clients by DHCP (beside the site's DHCP server, or as
// it), hands out boot loaders by TFTP, and kernel, layers and the configuration of one boot by HTTP.
//
// What a packet is answered with is decided by pure functions of the packet, the policy's decision, the leases and the
// time (answer.go, dhcp.go, lease.go, loader.go, menu.go); sockets, clocks and timers stand in service.go, listen.go,
// http.go and tftp.go. A machine for which the policy is silent gets no packet whatsoever.
package pxe
