package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"branchpoint/provisioning"
	"branchpoint/provisioning/sequence"
)

// accountTimeout bounds each of the installed system's account tools.
const accountTimeout = 5 * time.Minute

// applySettings gives the installed system its identity.
func (r *Runner) applySettings(ctx context.Context, s provisioning.ApplyOperatingSystemSettings) sequence.Result {
	if err := r.needInstalled(); err != nil {
		return failed(err)
	}
	target := r.system.Target()
	done := []string{"computer name " + s.ComputerName}
	if err := setHostName(target, s.ComputerName); err != nil {
		return failed(err)
	}
	if err := newMachineID(target); err != nil {
		return failed(err)
	}
	if s.TimeZone != "" {
		if err := setTimeZone(target, s.TimeZone); err != nil {
			return failed(err)
		}
		done = append(done, "time zone "+s.TimeZone)
	}
	if a := s.Administrator; a != nil {
		if err := r.setAdministrator(ctx, target, *a); err != nil {
			return failed(err)
		}
		done = append(done, fmt.Sprintf("administrator %s with %d SSH keys", administratorName(*a), len(a.SSHKeys)))
	}
	return sequence.Result{Text: "The operating system was given: " + strings.Join(done, ", ") + "."}
}

// setHostName writes the host name.
func setHostName(f Files, name string) error {
	if !provisioning.ValidHostName(name) {
		return provisioning.Errorf(provisioning.CodeInvalid, "Correct the step's computerName, or the variable in it.", "%q cannot be a host name: letters, digits and hyphens only", name)
	}
	if err := f.WriteFile("/etc/hostname", []byte(name+"\n"), 0o644); err != nil {
		return fmt.Errorf("write host name: %w", err)
	}
	hosts, err := f.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read hosts: %w", err)
	}
	if err := f.WriteFile("/etc/hosts", []byte(Hosts(string(hosts), name)), 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	// cloud-init, where the image has it, would set a name of its own.
	if anyFile(f, "/etc/cloud/cloud.cfg.d") {
		const cfg = "/etc/cloud/cloud.cfg.d/99-branchpoint-hostname.cfg"
		if err := f.WriteFile(cfg, []byte("preserve_hostname: true\n"), 0o644); err != nil {
			return fmt.Errorf("write %s: %w", cfg, err)
		}
	}
	return nil
}

// Hosts gives /etc/hosts with the host's own name at 127.0.1.1, as Debian writes it; everything else stays.
func Hosts(old, name string) string {
	own := "127.0.1.1\t" + name
	if strings.TrimSpace(old) == "" {
		old = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	}
	var out []string
	placed := false
	for line := range strings.Lines(old) {
		line = strings.TrimRight(line, "\r\n")
		if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.1.1" {
			if !placed {
				out = append(out, own)
				placed = true
			}
			continue
		}
		out = append(out, line)
	}
	if !placed {
		at := 0
		for i, line := range out {
			if f := strings.Fields(line); len(f) > 0 && f[0] == "127.0.0.1" {
				at = i + 1
			}
		}
		out = append(out[:at], append([]string{own}, out[at:]...)...)
	}
	return strings.Join(out, "\n") + "\n"
}

// newMachineID has the installed system make itself an id at its first start (machine-id(5)): two computers with the
// image's would get the same address by DHCP.
func newMachineID(f Files) error {
	if anyFile(f, "/etc/systemd", "/etc/machine-id") {
		if err := f.WriteFile("/etc/machine-id", nil, 0o444); err != nil {
			return fmt.Errorf("empty machine id: %w", err)
		}
	}
	const dbus = "/var/lib/dbus/machine-id"
	if fi, err := f.Lstat(dbus); err == nil && fi.Mode().IsRegular() {
		if err := f.Symlink("/etc/machine-id", dbus); err != nil {
			return fmt.Errorf("link D-Bus's machine id: %w", err)
		}
	}
	return nil
}

// setTimeZone makes a zone of the installed system's own database its local time.
func setTimeZone(f Files, zone string) error {
	const base = "/usr/share/zoneinfo"
	if _, err := f.Stat(base); err != nil {
		return provisioning.Errorf(provisioning.CodeInvalid, "Build the image with time zone data (on Debian: tzdata), or leave timeZone out.",
			"the installed system has no time zone data")
	}
	fi, err := f.Stat(base + "/" + zone)
	if err != nil || !fi.Mode().IsRegular() || strings.Contains(zone, "..") || path.IsAbs(zone) {
		return provisioning.Errorf(provisioning.CodeInvalid, "Write the zone as in Europe/Berlin; timedatectl list-timezones shows all.",
			"the installed system knows no time zone %q", zone)
	}
	if err := f.Symlink(base+"/"+zone, "/etc/localtime"); err != nil {
		return fmt.Errorf("set time zone: %w", err)
	}
	if anyFile(f, "/etc/timezone") {
		if err := f.WriteFile("/etc/timezone", []byte(zone+"\n"), 0o644); err != nil {
			return fmt.Errorf("set time zone: %w", err)
		}
	}
	return nil
}

func administratorName(a provisioning.AdministratorAccount) string {
	if a.Name == "" {
		return "root"
	}
	return a.Name
}

// setAdministrator sets the administrator's account up with the installed system's own tools.
func (r *Runner) setAdministrator(ctx context.Context, f Files, a provisioning.AdministratorAccount) error {
	name := administratorName(a)
	run := func(stdin string, args ...string) error {
		_, err := r.exec(ctx, Command{Args: args, Stdin: stdin, InTarget: true, Timeout: accountTimeout})
		return err
	}
	acc, ok, err := lookup(f, name)
	if err != nil {
		return err
	}
	if !ok {
		shell := "/bin/sh"
		if anyFile(f, "/bin/bash") {
			shell = "/bin/bash"
		}
		if err := run("", "useradd", "--create-home", "--shell", shell, name); err != nil {
			return fmt.Errorf("make account %s: %w", name, err)
		}
		if acc, ok, err = lookup(f, name); err != nil || !ok {
			return provisioning.Errorf(provisioning.CodeInternal, "", "account %s is not in /etc/passwd after it was made", name)
		}
	}
	if name != "root" {
		if group, err := administratorsGroup(f); err != nil {
			return err
		} else if group != "" {
			if err := run("", "usermod", "--append", "--groups", group, name); err != nil {
				return fmt.Errorf("add %s to group %s: %w", name, group, err)
			}
		}
	}
	if a.PasswordHash != "" {
		// On standard input: a command line can be read by every process.
		if strings.ContainsAny(a.PasswordHash, ":\n\r") {
			return provisioning.Errorf(provisioning.CodeInvalid, "Make the hash with: openssl passwd -6", "the administrator's password hash is malformed")
		}
		if err := run(name+":"+a.PasswordHash+"\n", "chpasswd", "--encrypted"); err != nil {
			return fmt.Errorf("set the password of %s: %w", name, err)
		}
	} else if err := run("", "usermod", "--password", "!", name); err != nil {
		return fmt.Errorf("lock the password of %s: %w", name, err)
	}
	if len(a.SSHKeys) == 0 {
		return nil
	}
	return authorize(f, acc, a.SSHKeys)
}

// account is a line of /etc/passwd.
type account struct {
	home     string
	uid, gid int
}

// lookup finds an account.
func lookup(f Files, name string) (account, bool, error) {
	b, err := f.ReadFile("/etc/passwd")
	if err != nil {
		return account{}, false, provisioning.Errorf(provisioning.CodeInvalid, "Use an image of a whole Linux system.", "read the installed system's accounts: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		p := strings.Split(strings.TrimRight(line, "\n"), ":")
		if len(p) < 7 || p[0] != name {
			continue
		}
		uid, err1 := strconv.Atoi(p[2])
		gid, err2 := strconv.Atoi(p[3])
		if err1 != nil || err2 != nil || !strings.HasPrefix(p[5], "/") {
			return account{}, false, provisioning.Errorf(provisioning.CodeCorrupt, "Correct /etc/passwd in the image.", "account %s in the installed system's /etc/passwd is malformed", name)
		}
		return account{home: p[5], uid: uid, gid: gid}, true, nil
	}
	return account{}, false, nil
}

// administratorsGroup is the group whose members may administer the system, "" if there is none.
func administratorsGroup(f Files) (string, error) {
	b, err := f.ReadFile("/etc/group")
	if err != nil {
		return "", fmt.Errorf("read the installed system's groups: %w", err)
	}
	for _, g := range []string{"sudo", "wheel"} {
		if strings.HasPrefix(string(b), g+":") || strings.Contains(string(b), "\n"+g+":") {
			return g, nil
		}
	}
	return "", nil
}

// authorize makes the keys the ones that may log in to the account; what the image brought along goes.
func authorize(f Files, a account, keys []string) error {
	dir := path.Join(a.home, ".ssh")
	file := path.Join(dir, "authorized_keys")
	if err := f.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	if err := f.WriteFile(file, []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	for name, mode := range map[string]fs.FileMode{dir: 0o700, file: 0o600} {
		if err := errors.Join(f.Chown(name, a.uid, a.gid), f.Chmod(name, mode)); err != nil {
			return fmt.Errorf("give %s to its owner: %w", name, err)
		}
	}
	return nil
}
