package lab

import "encoding/binary"

// UnsignedEFI makes an EFI application for x64 without a signature that writes the text on the first serial port, again and
// again so that nobody misses it, and never returns. Where it runs under Secure Boot, nothing is enforced; and as it runs
// without, a refusal says that enforcement is why.
func UnsignedEFI(text string) []byte {
	// PE32+ as the UEFI specification (2.1.1) wants it: one section that is code and text at once.
	const (
		peAt      = 0x40
		optional  = 0xf0
		headers   = 0x200
		codeAt    = 0x1000 // in memory
		alignment = 0x200  // in the file
	)
	code := []byte{
		0x48, 0x8d, 0x35, 0, 0, 0, 0, // again: lea rsi, [rip+text]
		0xb9, 0, 0, 0, 0, // mov ecx, length
		0x66, 0xba, 0xfd, 0x03, // next: mov dx, 0x3fd
		0xec,       // busy: in al, dx
		0xa8, 0x20, // test al, 0x20 (transmitter is empty)
		0x74, 0xfb, // jz busy
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xac,       // lodsb
		0xee,       // out dx, al
		0xe2, 0xef, // loop next
		0xb9, 0x00, 0x00, 0x00, 0x04, // mov ecx, 0x4000000
		0xe2, 0xfe, // loop here
		0xeb, 0, // jmp again
	}
	code[len(code)-1] = byte(-len(code))
	binary.LittleEndian.PutUint32(code[3:], uint32(len(code)-7))
	binary.LittleEndian.PutUint32(code[8:], uint32(len(text)))
	body := append(code, text...)
	raw := (len(body) + alignment - 1) / alignment * alignment

	b := make([]byte, headers+raw)
	le16 := func(at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
	le32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(b[at:], v) }
	le64 := func(at int, v uint64) { binary.LittleEndian.PutUint64(b[at:], v) }
	copy(b, "MZ")
	le32(0x3c, peAt)
	copy(b[peAt:], "PE\x00\x00")
	coff := peAt + 4
	le16(coff, 0x8664)       // x64
	le16(coff+2, 1)          // sections
	le16(coff+16, optional)  // size of the optional header
	le16(coff+18, 0x22|0x04) // executable, large addresses, no line numbers
	opt := coff + 20
	le16(opt, 0x20b) // PE32+
	le32(opt+4, uint32(raw))
	le32(opt+16, codeAt) // entry
	le32(opt+20, codeAt) // base of code
	le64(opt+24, 0x10000000)
	le32(opt+32, 0x1000) // alignment in memory
	le32(opt+36, alignment)
	le32(opt+56, codeAt+uint32((raw+0xfff)&^0xfff)) // size in memory
	le32(opt+60, headers)
	le16(opt+68, 10)      // subsystem: EFI application
	le16(opt+70, 0x100)   // NX compatible
	le64(opt+72, 0x10000) // stack
	le64(opt+80, 0x1000)
	le64(opt+88, 0x10000) // heap
	le32(opt+108, 16)     // data directories, all empty: no relocations, no certificates
	sec := opt + optional
	copy(b[sec:], ".text")
	le32(sec+8, uint32(len(body)))
	le32(sec+12, codeAt)
	le32(sec+16, uint32(raw))
	le32(sec+20, headers)
	le32(sec+36, 0x60000020) // code, executable, readable
	copy(b[headers:], body)
	return b
}
