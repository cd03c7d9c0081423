package central

import (
	"context"
	"encoding/json"
	"fmt"

	"branchpoint/provisioning"
	"branchpoint/services/central/client"
)

// settingsName is the setting that holds client.Settings.
const settingsName = "settings"

// DefaultWipesUnconfirmed is how many computers one change may make erase their disks without being confirmed, unless the
// settings say otherwise.
const DefaultWipesUnconfirmed = 10

// Settings returns central's settings.
func (c *Central) Settings(ctx context.Context) (client.Settings, error) {
	out := client.Settings{WipesUnconfirmed: DefaultWipesUnconfirmed}
	b, err := c.cfg.Store.Setting(ctx, settingsName)
	if provisioning.CodeOf(err) == provisioning.CodeNotFound {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, provisioning.Errorf(provisioning.CodeCorrupt, "", "decode the stored settings: %w", err)
	}
	return out, nil
}

// PutSettings replaces central's settings. It fails with CodeConflict where more computers would be erased without anybody being
// asked, and that is not confirmed.
func (c *Central) PutSettings(ctx context.Context, r client.SettingsRequest) (client.Settings, error) {
	in := r.Settings
	if err := c.allow(ctx, provisioning.ActionAdminister, provisioning.Everywhere("settings")); err != nil {
		return in, err
	}
	if in.WipesUnconfirmed < 0 || in.WipesUnconfirmed > maxWipes {
		return in, provisioning.Errorf(provisioning.CodeInvalid, "", "wipes-unconfirmed is %d; 0 to %d is possible", in.WipesUnconfirmed, maxWipes)
	}
	before, err := c.Settings(ctx)
	if err != nil {
		return in, err
	}
	if err := confirmed(settingsDanger(before, in), r.Confirm); err != nil {
		return in, err
	}
	b, err := json.Marshal(in)
	if err != nil {
		return in, provisioning.Errorf(provisioning.CodeInternal, "", "encode the settings: %w", err)
	}
	e := c.entry(ctx, "change", auditSettings, settingsName, "")
	e.After = settingsText(in)
	e.Before = settingsText(before)
	if err := c.cfg.Store.PutSetting(ctx, settingsName, b, e); err != nil {
		return in, err
	}
	c.cfg.Log.Info("settings changed", "wipesUnconfirmed", in.WipesUnconfirmed, "by", provisioning.ActorOf(ctx).Account)
	return in, nil
}

// settingsDanger is what is dangerous about new settings, nil where they are as careful as the ones before.
func settingsDanger(before, after client.Settings) *client.Danger {
	if after.WipesUnconfirmed <= before.WipesUnconfirmed {
		return nil
	}
	return &client.Danger{
		Text:    fmt.Sprintf("this would let one change erase the disks of %d computers without anybody being asked, not of %d", after.WipesUnconfirmed, before.WipesUnconfirmed),
		Confirm: fmt.Sprint(after.WipesUnconfirmed),
	}
}

// settingsText is what the audit log says of settings.
func settingsText(s client.Settings) string {
	return fmt.Sprintf("wipes-unconfirmed: %d\n", s.WipesUnconfirmed)
}

func (c *Central) wipesUnconfirmed(ctx context.Context) (int, error) {
	s, err := c.Settings(ctx)
	return s.WipesUnconfirmed, err
}
