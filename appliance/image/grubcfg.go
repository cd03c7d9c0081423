package image

// espGRUB is /boot/grub/grub.cfg on the EFI system partition. GRUB's own build for CDs looks for its configuration on the
// partition it was started from, and goes on from there to the ISO 9660 file system of the same medium.
const espGRUB = `search --no-floppy --set=root --label ` + VolumeID + ` --hint $root
set prefix=($root)/boot/grub
configfile $prefix/grub.cfg
`

// isoGRUB is /boot/grub/grub.cfg in ISO 9660: the factory system. The menu shows only when Esc or Shift is held.
const isoGRUB = `serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
set default=0
set timeout_style=hidden
set timeout=1
search --no-floppy --set=root --label ` + VolumeID + ` --hint $root

menuentry 'Branchpoint' --id factory {
	echo 'Branchpoint: loading the kernel'
	linux /boot/vmlinuz console=ttyS0,115200 console=tty0 quiet
	echo 'Branchpoint: loading the system'
	initrd /boot/base.cpio.zst /boot/appliance.cpio.zst
}

menuentry 'Branchpoint with drivers for servers and rare hardware' --id extra {
	echo 'Branchpoint: loading the kernel'
	linux /boot/vmlinuz console=ttyS0,115200 console=tty0 quiet
	echo 'Branchpoint: loading the system'
	initrd /boot/base.cpio.zst /boot/extra.cpio.zst /boot/appliance.cpio.zst
}

menuentry 'Restart' --id restart {
	reboot
}
`
