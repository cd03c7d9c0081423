package initramfs

// The lists below choose kernel modules by path.Match patterns of their paths below lib/modules/RELEASE/kernel, without
// suffix; "/**" at the end takes a whole directory. What they need (dependencies, soft dependencies) comes by itself.

// baseModules are those of ordinary PCs and virtual machines. Built into Debian's kernel and so not here: AT keyboards, VGA
// text, EFI and VESA frame buffers, serial ports, virtio-pci, virtio-console, TPM, IPv6, tmpfs.
var baseModules = []string{
	// Network, PCI.
	"drivers/net/virtio_net", "drivers/net/hyperv/*", "drivers/net/vmxnet3/*", "drivers/net/xen-netfront", "drivers/net/bonding/*",
	"drivers/net/ethernet/amd/pcnet32", "drivers/net/ethernet/aquantia/**", "drivers/net/ethernet/atheros/**",
	"drivers/net/ethernet/broadcom/tg3", "drivers/net/ethernet/broadcom/b44", "drivers/net/ethernet/dec/tulip/tulip",
	"drivers/net/ethernet/intel/e100", "drivers/net/ethernet/intel/e1000/*", "drivers/net/ethernet/intel/e1000e/*",
	"drivers/net/ethernet/intel/igb/*", "drivers/net/ethernet/intel/igc/*", "drivers/net/ethernet/intel/ixgbe/*",
	"drivers/net/ethernet/jme", "drivers/net/ethernet/marvell/sky2", "drivers/net/ethernet/marvell/skge",
	"drivers/net/ethernet/nvidia/*", "drivers/net/ethernet/realtek/*", "drivers/net/ethernet/sis/*", "drivers/net/ethernet/via/*",
	"drivers/net/phy/realtek", "drivers/net/phy/marvell", "drivers/net/phy/broadcom", "drivers/net/phy/smsc", "drivers/net/phy/ax88796b",
	"drivers/net/phy/microchip", "drivers/net/phy/micrel", "drivers/net/phy/qcom/*", "drivers/net/phy/fixed_phy",
	"net/8021q/*",
	// Network, USB.
	"drivers/net/usb/aqc111", "drivers/net/usb/asix", "drivers/net/usb/ax88179_178a", "drivers/net/usb/cdc_ether",
	"drivers/net/usb/cdc_ncm", "drivers/net/usb/ch9200", "drivers/net/usb/dm9601", "drivers/net/usb/lan78xx",
	"drivers/net/usb/mcs7830", "drivers/net/usb/pegasus", "drivers/net/usb/r8152", "drivers/net/usb/r8153_ecm",
	"drivers/net/usb/rndis_host", "drivers/net/usb/rtl8150", "drivers/net/usb/smsc75xx", "drivers/net/usb/smsc95xx",
	"drivers/net/usb/sr9700", "drivers/net/usb/sr9800",
	// Disks.
	"drivers/ata/ahci", "drivers/ata/acard-ahci", "drivers/ata/ata_generic", "drivers/ata/ata_piix", "drivers/ata/sata_*",
	"drivers/ata/pata_amd", "drivers/ata/pata_atiixp", "drivers/ata/pata_jmicron", "drivers/ata/pata_marvell", "drivers/ata/pata_via",
	"drivers/ata/pata_sis", "drivers/ata/pata_sch",
	"drivers/nvme/host/nvme", "drivers/pci/controller/vmd",
	"drivers/scsi/sd_mod", "drivers/scsi/sr_mod", "drivers/scsi/sg", "drivers/scsi/virtio_scsi", "drivers/scsi/vmw_pvscsi",
	"drivers/scsi/hv_storvsc", "drivers/message/fusion/mptspi", "drivers/message/fusion/mptsas",
	"drivers/block/virtio_blk", "drivers/block/xen-blkfront", "drivers/block/loop", "drivers/block/nbd", "drivers/block/brd",
	"drivers/mmc/core/mmc_block", "drivers/mmc/host/sdhci-pci", "drivers/mmc/host/sdhci-acpi", "drivers/mmc/host/rtsx_pci_sdmmc",
	"drivers/misc/cardreader/rtsx_pci",
	"drivers/md/dm-mod", "drivers/md/dm-crypt", "drivers/md/dm-snapshot", "drivers/md/raid*", "drivers/md/md-mod",
	// USB and keyboards.
	"drivers/usb/host/ehci-pci", "drivers/usb/host/ohci-pci", "drivers/usb/host/uhci-hcd", "drivers/usb/host/xhci-pci",
	"drivers/usb/host/xhci-pci-renesas", "drivers/usb/storage/usb-storage", "drivers/usb/storage/uas",
	"drivers/hid/hid-generic", "drivers/hid/usbhid/usbhid", "drivers/hid/hid-hyperv", "drivers/hid/hid-apple", "drivers/hid/hid-cherry",
	"drivers/hid/hid-chicony", "drivers/hid/hid-cypress", "drivers/hid/hid-holtek-kbd", "drivers/hid/hid-ite", "drivers/hid/hid-lenovo",
	"drivers/hid/hid-logitech", "drivers/hid/hid-logitech-dj", "drivers/hid/hid-microsoft", "drivers/hid/hid-monterey",
	"drivers/hid/hid-multitouch", "drivers/hid/hid-primax", "drivers/hid/hid-redragon", "drivers/hid/hid-semitek",
	"drivers/input/serio/hyperv-keyboard", "drivers/input/evdev", "drivers/acpi/button",
	// Virtual machines.
	"drivers/hv/hv_vmbus", "drivers/hv/hv_utils", "drivers/char/hw_random/virtio-rng", "drivers/firmware/qemu_fw_cfg",
	// File systems.
	"fs/ext4/*", "fs/xfs/*", "fs/btrfs/*", "fs/fat/*", "fs/exfat/*", "fs/isofs/*", "fs/udf/*", "fs/ntfs3/*", "fs/squashfs/*",
	"fs/overlayfs/*", "fs/efivarfs/*",
	"fs/nls/nls_ascii", "fs/nls/nls_utf8", "fs/nls/nls_ucs2_utils", "fs/nls/nls_cp437", "fs/nls/nls_cp850", "fs/nls/nls_cp852",
	"fs/nls/nls_cp125*", "fs/nls/nls_iso8859-1", "fs/nls/nls_iso8859-15",
	"crypto/crc32c_generic", "crypto/crc32_generic", "crypto/xxhash_generic", "crypto/blake2b_generic", "crypto/xts", "crypto/cryptd",
	"arch/x86/crypto/crc32c-intel", "arch/x86/crypto/crc32-pclmul", "arch/x86/crypto/crct10dif-pclmul", "arch/x86/crypto/aesni-intel",
	"arch/x86/crypto/sha256-ssse3",
}

// extraModules are those of servers, old and rare hardware, and those that only tests want.
var extraModules = []string{
	"drivers/net/ethernet/**", "drivers/net/phy/**", "drivers/net/usb/*", "drivers/net/macvlan", "drivers/net/veth", "drivers/net/dummy",
	"drivers/net/ifb", "drivers/net/thunderbolt/*", "drivers/thunderbolt/*", "drivers/ata/*", "drivers/scsi/**", "drivers/message/fusion/*",
	"drivers/nvme/host/*", "drivers/mmc/host/*", "drivers/md/*", "drivers/usb/storage/*", "drivers/hid/hid-*", "drivers/block/zram/*",
	"net/bridge/bridge", "net/sched/sch_netem", "net/sched/sch_tbf",
	"fs/f2fs/*", "fs/jfs/*", "fs/hfsplus/*", "fs/nls/*",
	"arch/x86/crypto/*", "crypto/*",
}

// unwantedModules are in no layer: they probe ports blindly, stand for hardware that is not there, test the kernel, or need
// PC Card sockets, for which there is no driver here.
var unwantedModules = []string{
	"drivers/ata/pata_legacy", "drivers/ata/pata_pcmcia", "drivers/scsi/scsi_debug", "drivers/scsi/pcmcia/*", "drivers/scsi/xen-scsifront",
	"drivers/net/ethernet/*/*_cs", "crypto/tcrypt", "drivers/hid/hid-sensor-*", "drivers/scsi/bnx2fc/*", "drivers/scsi/fcoe/*",
	"drivers/scsi/qla2xxx/tcm_qla2xxx", "drivers/nvme/host/nvme-rdma", "drivers/net/usb/cdc-phonet",
}

// baseFirmware are the packages whose files the base layer's drivers may ask for; only files named in a chosen module are
// taken. extraFirmware likewise.
var (
	baseFirmware  = []string{"firmware-realtek", "firmware-misc-nonfree"}
	extraFirmware = []string{"firmware-bnx2", "firmware-bnx2x", "firmware-qlogic", "firmware-netronome", "firmware-cavium", "firmware-myricom", "firmware-netxen", "firmware-intel-misc"}
)

// baseFirmwareFiles are path.Match patterns below lib/firmware of what the base layer takes of what its modules name:
// Realtek 8125/8168, Broadcom 57xx and Intel 8255x. The rest (RAID adapters and the like) goes to the extra layer.
var baseFirmwareFiles = []string{"rtl_nic/*", "tigon/*", "e100/*"}
