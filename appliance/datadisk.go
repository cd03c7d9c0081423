package appliance

import (
	"fmt"
	"slices"
	"strings"
)

// DataLabel is the ext4 label by which the data disk is found.
const DataLabel = "branchpoint-data"

// minDataDisk is the smallest disk that is claimed, in bytes: below it, no operating system image fits.
const minDataDisk = 2 << 30

// Candidate is a disk as it was found, for the decision which one becomes the data disk.
type Candidate struct {
	// Path is its device, Size in bytes; Model and Serial as the disk says.
	Path, Model, Serial string
	Size                int64
	ReadOnly, Removable bool
	// Medium is set for the disk the appliance was started from, and any other that holds branchpoint.img.
	Medium bool
	// Ours is set for a whole-disk ext4 with DataLabel. Refused says why it is not this site's; empty if it may be.
	Ours    bool
	Refused string
	// InUse is set where the disk or a part of it is mounted or the base of another device; Err is set then, too.
	InUse bool
	// Unfinished is set where claiming the disk was interrupted.
	Unfinished bool
	// Blank is set if every place that was looked at holds zeros; else Holds says what was seen.
	Blank bool
	Holds string
	// Err says why the disk could not be looked at; empty if it could.
	Err string
}

// name is the disk as people see it.
func (c *Candidate) name() string {
	s := fmt.Sprintf("%s (%s", c.Path, sizeText(c.Size))
	if c.Model != "" {
		s += ", " + c.Model
	}
	if c.Serial != "" {
		s += ", serial " + c.Serial
	}
	return s + ")"
}

// DataDiskDecision says what to do about the data disk.
type DataDiskDecision struct {
	// Use is the path of the data disk to mount; Claim that of a blank disk to format first. At most one is set.
	Use, Claim string
	// Notes say, for each disk that is not used, why not.
	Notes []string
	// State says how the data disk stands where none is used or claimed, and Next what a person can do.
	State diskState
	Next  string
}

// DecideDataDisk chooses the data disk. lost is the name of the one that was in use since the start and is no more; empty if
// there was none. A disk that holds anything is never claimed; two data disks are never guessed between; a blank disk is
// claimed only where there is no data disk, none was lost, and every disk could be looked at, the largest first.
func DecideDataDisk(disks []Candidate, lost string) DataDiskDecision {
	d := DataDiskDecision{State: diskMissing}
	var ours, blank, refused []Candidate
	unreadable, claimable := false, false
	for _, c := range disks {
		switch {
		case c.Medium:
		case c.Err != "":
			unreadable = true
			if c.name() == lost {
				d.State = diskFailing
			}
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: %s", c.name(), c.Err))
		case c.Ours && c.Refused != "":
			refused = append(refused, c)
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: %s; nothing on it is touched", c.name(), c.Refused))
		case c.Ours && c.ReadOnly:
			d.State = diskReadOnly
			d.Notes = append(d.Notes, fmt.Sprintf("%s is the data disk but read-only", c.name()))
		case c.Ours:
			ours = append(ours, c)
		case c.ReadOnly:
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: it is read-only", c.name()))
		case c.Unfinished:
			claimable = claimable || c.Serial != ""
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: claiming it was interrupted", c.name()))
		case !c.Blank:
			claimable = claimable || c.Serial != ""
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: it is not blank, it holds %s; nothing on it is touched", c.name(), c.Holds))
		case c.Removable:
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: it is removable", c.name()))
		case c.Size < minDataDisk:
			d.Notes = append(d.Notes, fmt.Sprintf("%s is not used: a data disk has at least %s", c.name(), sizeText(minDataDisk)))
		default:
			blank = append(blank, c)
		}
	}
	switch {
	case len(ours) == 1:
		d.Use = ours[0].Path
		for _, c := range blank {
			d.Notes = append(d.Notes, fmt.Sprintf("%s is blank and left alone: there is a data disk already", c.name()))
		}
	case len(ours) > 1:
		names := make([]string, len(ours))
		for i := range ours {
			names[i] = ours[i].name()
		}
		d.Notes = append(d.Notes, "several data disks are attached: "+strings.Join(names, ", "))
		d.Next = "Detach all but the one of this site."
	case len(refused) > 0:
		d.Next = "Attach this site's data disk, or put its own site and central into site.yaml. To give up what is on it, type: claim SERIAL"
	case d.State == diskReadOnly:
		d.Next = "Switch off its write protection; it is found without a restart."
	case d.State == diskFailing:
		d.Next = "Look at the cables of " + lost + ", and save it if you can; it is tried again by itself. To begin with another disk, type: claim SERIAL"
	case lost != "":
		// A new one would forget what was deployed, and every advertisement in force would run again: no guess to make.
		d.Next = "Attach " + lost + " again; it is found without a restart. To begin with another disk, type: claim SERIAL"
	case len(blank) > 0 && unreadable:
		// It may be the data disk, with the history of what was deployed: a new one would forget it.
		d.Next = "Repair or detach the disk that cannot be looked at; then a blank one is claimed."
	case len(blank) > 0:
		slices.SortStableFunc(blank, func(a, b Candidate) int { return int(min(max(b.Size-a.Size, -1), 1)) })
		d.Claim = blank[0].Path
		for _, c := range blank[1:] {
			d.Notes = append(d.Notes, fmt.Sprintf("%s is blank and left alone: one data disk is enough", c.name()))
		}
	default:
		d.Next = "Attach a blank disk of at least " + sizeText(minDataDisk) + "; it is found without a restart."
		if claimable {
			d.Next += " To use one that is not blank, type: claim SERIAL"
		}
	}
	return d
}

// sizeText is a size in bytes as disks are labelled: decimal units.
func sizeText(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f /= 1000
		i++
	}
	if f < 10 && i > 0 {
		return fmt.Sprintf("%.1f %s", f, units[i])
	}
	return fmt.Sprintf("%.0f %s", f, units[i])
}
