package appliance

import (
	"fmt"

	"branchpoint/appliance/screen"
	"branchpoint/provisioning"
	"branchpoint/services/branch"
)

// keysItem says how the site's private keys are kept.
func keysItem(settings provisioning.Appliance, k branch.Keys) screen.Item {
	again := fmt.Sprintf("enrol again: make a token at central (branchpoint enrol-token create --site %s --central %s -o site.yaml), "+
		"put it into site.yaml on this appliance's medium, and start the appliance anew.", settings.Site, settings.Central.Address)
	switch code := provisioning.CodeOf(k.Locked); {
	case code == provisioning.CodeNotFound || code == provisioning.CodeForbidden || code == provisioning.CodeCorrupt:
		return screen.Item{
			State: screen.Problem,
			Text: fmt.Sprintf("cannot be opened: %v\nThe site goes on with what is here, without central, and hands out no secrets; what is to be reported is kept. "+
				"As another appliance may have served the site meanwhile, nothing that is required begins.",
				k.Locked),
			Next: "Put the data disk back into the computer that it was in. If that is gone, or its TPM was cleared, " + again +
				" Where central cannot be reached, and nothing has run at the site without this data disk, type: approve history yes",
		}
	case k.Locked != nil:
		return screen.Item{
			State: screen.Problem,
			Text: fmt.Sprintf("cannot be opened at the moment: %v\nThe site goes on with what is here, without central, and hands out no secrets. It is tried again. "+
				"As another appliance may have served the site meanwhile, nothing that is required begins until then.", k.Locked),
			Next: provisioning.NextOf(k.Locked) + " Then " + again + " Where nothing has run at the site without this data disk, type: approve history yes",
		}
	case provisioning.CodeOf(k.Plain) == provisioning.CodeNotFound:
		return screen.Item{State: screen.OK, Text: "not protected by a TPM, as this computer has none that is switched on: whoever takes the data disk has it"}
	case k.Plain != nil:
		return screen.Item{
			State: screen.OK, Text: fmt.Sprintf("not protected by a TPM: whoever takes the data disk has it. %v", k.Plain),
			Next: "See to the TPM in the computer's firmware set-up; it is tried again at the next start.",
		}
	}
	return screen.Item{State: screen.OK, Text: "sealed to this computer's TPM"}
}

// showKeys shows how the site's private keys are kept, and notes it in the log where that is news.
func (a *appliance) showKeys(settings provisioning.Appliance, k branch.Keys) {
	item := keysItem(settings, k)
	if a.screen.Items()[topicKeys] == item {
		return
	}
	switch {
	case k.Locked != nil:
		a.Log.Error("the site's private keys cannot be opened", "code", provisioning.CodeOf(k.Locked), "error", k.Locked)
	case k.Plain != nil:
		a.Log.Warn("the site's private keys are not protected by a TPM", "code", provisioning.CodeOf(k.Plain), "why", k.Plain)
	default:
		a.Log.Info("the site's private keys are sealed to this computer's TPM")
	}
	a.screen.Set(topicKeys, item)
}
