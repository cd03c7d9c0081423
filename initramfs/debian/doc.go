// Package debian fetches binary packages of one Debian release through a private apt root: own sources, lists, cache and
// dpkg status, so that nothing of the build host's package management is read for versions or written at all. Only three
// things come from the host: where its mirror is, how it is reached (proxies, credentials), and Debian's archive keys.
//
// Signatures are always verified by apt, and every file handed out is checked against the SHA-256 of the signed index.
package debian
