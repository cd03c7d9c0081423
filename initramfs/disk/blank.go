package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

// How much of a disk Blank reads: whatever writes a file system or a partition table writes at the beginning or the end,
// and files anywhere. 2,048 samples find data that fills a hundredth of a disk with a chance of missing it of 1 in 10⁹.
const (
	blankEdge    = 8 << 20
	blankSample  = 4 << 10
	blankSamples = 2048
)

// Blank reports whether a disk of size bytes holds nothing: its first and last 8 MiB, 2,048 samples of 4 KiB evenly spread
// over the rest, and the places of well-known spare copies of superblocks are all zero. If not, found tells where the first
// other byte is and what it looks like. A disk that cannot be read is an error and must not count as blank; neither does one
// of no size.
func Blank(ctx context.Context, r io.ReaderAt, size int64) (blank bool, found Content, err error) {
	if size <= 0 {
		return false, Content{}, fmt.Errorf("a disk of %d bytes cannot be judged", size)
	}
	known, err := Identify(ctx, r, size)
	if err != nil {
		return false, Content{}, err
	}
	if len(known) > 0 {
		found = known[0]
		if len(known) > 1 {
			found.What = join(known)
			found.Label = ""
		}
		return false, found, nil
	}
	buffer := make([]byte, 1<<20)
	for _, span := range spans(size) {
		for at := span[0]; at < span[1]; at += int64(len(buffer)) {
			if err := ctx.Err(); err != nil {
				return false, Content{}, err
			}
			b := buffer[:min(int64(len(buffer)), span[1]-at)]
			if err := readFull(r, b, at); err != nil {
				return false, Content{}, err
			}
			if i := firstNonZero(b); i >= 0 {
				return false, Content{Offset: at + int64(i), What: "data"}, nil
			}
		}
	}
	return true, Content{}, nil
}

// spans are the parts of a disk to be read, [from, to), sorted, not overlapping.
func spans(size int64) [][2]int64 {
	if size <= 2*blankEdge+blankSamples*blankSample {
		return [][2]int64{{0, size}}
	}
	list := [][2]int64{{0, blankEdge}, {size - blankEdge, size}}
	add := func(at int64) {
		at = at / blankSample * blankSample
		if at >= blankEdge && at+blankSample <= size-blankEdge {
			list = append(list, [2]int64{at, at + blankSample})
		}
	}
	middle := size - 2*blankEdge
	for i := range int64(blankSamples) {
		// Divided first, so that no disk is large enough to overflow.
		add(blankEdge + middle/blankSamples*i + middle%blankSamples*i/blankSamples)
	}
	// btrfs' second and third superblock, NTFS' usual place of its file table, ext4's spare superblocks in groups of 128 MiB
	// whose numbers are 1 and powers of 3, 5 and 7.
	add(64 << 20)
	add(256 << 30)
	add(3 << 30)
	add(128 << 20)
	for _, base := range []int64{3, 5, 7} {
		for n := base; n <= size/(128<<20); n *= base {
			add(n * (128 << 20))
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i][0] < list[j][0] })
	merged := list[:1]
	for _, s := range list[1:] {
		if last := &merged[len(merged)-1]; s[0] <= last[1] {
			last[1] = max(last[1], s[1])
		} else {
			merged = append(merged, s)
		}
	}
	return merged
}

func firstNonZero(b []byte) int {
	// Whole words first: every byte of some gigabytes is looked at, also on slow machines.
	i := 0
	for ; i+8 <= len(b) && binary.NativeEndian.Uint64(b[i:]) == 0; i += 8 {
	}
	for ; i < len(b); i++ {
		if b[i] != 0 {
			return i
		}
	}
	return -1
}
