package appliance

import (
	"context"
	"fmt"
	"time"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/content"
	contentclient "branchpoint/services/content/client"
)

// syncPackage brings one package here, whole and verified, and shows how far it is.
func (s *site) syncPackage(ctx context.Context, upstream *contentclient.Client, ref provisioning.ContentRef, name string) error {
	if s.content.Installed(ref) {
		return nil
	}
	// What is missing of it is known when it is here only, as content is kept compressed and each piece once. So it begins
	// while there is any room, and stops where the database's begins.
	fits := func(left int64) error {
		if s.room(1) == nil {
			return nil
		}
		return s.room(max(left, 1))
	}
	if err := fits(ref.Size); err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	shown := time.Time{}
	began := s.Now()
	return content.Sync(ctx, s.content, upstream, []provisioning.ContentRef{ref}, content.SyncOptions{
		Log: s.Log,
		Report: func(st content.Status) {
			if err := fits(st.Total - st.Done); err != nil && st.State == content.StateFetching {
				stop(err)
			}
			if now := s.Now(); now.Sub(shown) >= 2*time.Second && st.State == content.StateFetching {
				shown = now
				s.screen.Set(topicContent, screen.Item{State: screen.Busy, Text: "copying " + name + ": " + rate(st.Done, st.Total, now.Sub(began))})
			}
		},
	})
}

// rate says how far something is: share, speed and time left.
func rate(done, total int64, took time.Duration) string {
	text := fmt.Sprintf("%s of %s", sizeText(done), sizeText(total))
	if total > 0 {
		text = fmt.Sprintf("%d %%, %s", done*100/total, text)
	}
	if seconds := took.Seconds(); seconds >= 1 && done > 0 {
		perSecond := float64(done) / seconds
		left := time.Duration(float64(total-done) / perSecond * float64(time.Second)).Round(time.Second)
		text += fmt.Sprintf(", %s/s, %v left", sizeText(int64(perSecond)), left)
	}
	return text
}
