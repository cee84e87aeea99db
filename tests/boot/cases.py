# SPDX-License-Identifier: Apache-2.0
"""The boots that the tests make, as data.

A case starts build/sosia with `args` (after the engine), expects each regular expression of `expect`
in the output, in this order, and the exit status `status`. `send` is a list of (pattern, text): when the
pattern appears on the terminal, text is typed. {cloud}, {stock}, ... name guests (see run.py).
"""

CLOUD = ["--kernel", "{cloud}/vmlinuz", "--initrd", "{cloud}/initrd.img"]
STOCK = ["--kernel", "{stock}/vmlinuz", "--initrd", "{stock}/initrd.img"]
RT = ["--kernel", "{rt}/vmlinuz", "--initrd", "{rt}/initrd.img"]
PAE = ["--kernel", "{pae}/vmlinuz", "--initrd", "{pae}/initrd.img"]


def linux(name, base, cpus=1, cmdline="console=ttyS0", run=None, expect=(), status=0, args=(),
          timeout=240, memory="512M", **more):
    if run:
        cmdline += ' sosia.run="%s"' % run
    case = dict(name=name, args=[*base, "--cpus", str(cpus), "--memory", memory, "--cmdline", cmdline, *args],
                expect=list(expect), status=status, timeout=timeout)
    case.update(more)
    return case


def shell(cpus, machine="x86_64"):
    """Commands that a person would try; each result is checked."""
    return dict(
        run="nproc; uname -m; echo sum $((6*7)); cat /proc/version; grep -c processor /proc/cpuinfo; "
            "md5sum /bin/busybox > /tmp/a; md5sum -c /tmp/a; ls /sys/bus/virtio/devices; free; true",
        expect=[r"init reached", r"(?m)^%d\r?$" % cpus, machine, r"sum 42", r"Linux version 6",
                r"(?m)^%d\r?$" % cpus, r"busybox: OK", r"virtio0", r"exit status 0"])


DISK_TEST = ("set -e; cd /tmp; dd if=/dev/urandom of=a bs=64k count=40 2>/dev/null; dd if=a of=/dev/vda "
             "bs=64k seek=3 conv=fsync 2>/dev/null; echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda of=b "
             "bs=64k skip=3 count=40 2>/dev/null; cmp a b; cat /sys/block/vda/size; echo same")

CASES = [
    linux("cloud, 1 vCPU", CLOUD, **shell(1)),
    linux("cloud, 4 vCPUs", CLOUD, 4, **shell(4)),
    linux("stock, 1 vCPU", STOCK, **shell(1)),
    linux("stock, 4 vCPUs", STOCK, 4, **shell(4)),
    linux("cloud, interpreted, 2 vCPUs", CLOUD, 2, args=["--translator", "off"], **shell(2)),
    linux("virtio over MMIO", CLOUD, 2, args=["--transport", "mmio"], **shell(2)),
    linux("no ACPI, MP table", STOCK, 2, cmdline="console=ttyS0 acpi=off sosia.halt=reboot", **shell(2)),
    linux("no IOAPIC", STOCK, cmdline="console=ttyS0 noapic", **shell(1)),
    linux("interpreted, no APIC", CLOUD, args=["--translator", "off"], cmdline="console=ttyS0 nolapic", **shell(1)),
    linux("no PCI", CLOUD, cmdline="console=ttyS0 pci=off", args=["--transport", "mmio"], **shell(1)),
    linux("memory above 4 GiB", CLOUD, memory="5G", run="free -m | grep Mem; grep -i 100000000- /proc/iomem",
          expect=[r"Mem: +(4[89]|50)\d\d", r"100000000-17fffffff : System RAM"]),
    linux("reboot ends the machine", CLOUD, cmdline="console=ttyS0 sosia.halt=reboot", run="echo bye",
          expect=[r"bye"]),
    linux("triple fault", CLOUD, cmdline="console=ttyS0 panic=-1 reboot=t sosia.halt=crash", run="echo bye",
          expect=[r"bye", r"sysrq", r"triple fault"], status=3),
    linux("disk", CLOUD, 2, args=["--disk", "{disk}"], run=DISK_TEST, expect=[r"(?m)^16384\r?$", r"same"]),
    linux("disk over MMIO", CLOUD, args=["--disk", "{disk}", "--transport", "mmio"], run=DISK_TEST,
          expect=[r"(?m)^16384\r?$", r"same"]),
    linux("qcow2 disk", CLOUD, 2, args=["--disk", "{qcow2},iops=5000,serial=abc"],
          run=DISK_TEST + "; cat /sys/block/vda/serial; echo; ls /sys/block/vda/mq",
          expect=[r"(?m)^16384\r?$", r"same", r"abc", r"(?m)^0 +1\r?$"], files={"{qcow2}": "QFI"}),
    linux("snapshot of a disk", CLOUD, args=["--disk", "{disk},snapshot,aio=threads"], run=DISK_TEST + "; "
          "blkdiscard /dev/vda; dd if=/dev/vda bs=64k 2>/dev/null | tr -d '\\0' | wc -c",
          expect=[r"(?m)^16384\r?$", r"same", r"(?m)^0\r?$"], unchanged="{disk}"),
    linux("read-only disk", CLOUD, args=["--disk", "{disk},readonly"],
          run="cat /sys/block/vda/ro; dd if=/dev/zero of=/dev/vda bs=512 count=1; echo done",
          expect=[r"(?m)^1\r?$", r"(?i)not permitted|read-only", r"done"]),
    linux("entropy", CLOUD, run="cat /sys/class/misc/hw_random/rng_current; "
          "dd if=/dev/hwrng bs=64 count=4 2>/dev/null | wc -c", expect=[r"virtio_rng", r"256"]),
    linux("virtio console", CLOUD, args=["--virtio-console", "file={tmp}/hvc"],
          run="echo over virtio > /dev/hvc0; sleep 1; echo sent", expect=["sent"],
          files={"{tmp}/hvc": "over virtio"}),
    linux("network card without a cable", CLOUD, args=["--net", "none"],
          run="cat /sys/class/net/eth0/address; ip link set eth0 up; cat /sys/class/net/eth0/carrier",
          expect=[r"52:54:", r"(?m)^0\r?$"]),
    linux("interactive shell", CLOUD, send=[
        (r"/root #", "echo typed $((40 + 2))\n"), (r"typed 42", "exit\n")], expect=[r"typed 42", r"Power down"]),
    linux("Ctrl-A x leaves", CLOUD, send=[(r"/root #", "\x01x")], expect=[r"/root #"]),
    linux("vmlinux through its PVH note", ["--kernel", "{cloud}/vmlinux", "--initrd", "{cloud}/initrd.img"],
          run="echo pvh works", expect=[r"Hypervisor detected|PVH|Linux version", r"pvh works"]),
    dict(name="memtest86+", args=["--kernel", "{memtest}", "--memory", "64M", "--cmdline", "console=ttyS0,115200"],
         expect=[r"Memtest86\+"], seen=r"(?i)pass.*%|test.*%|#\d", status=0, timeout=120),
    linux("PREEMPT_RT, 2 vCPUs", RT, 2, args=["--translator", "on"], **shell(2), engine="soft"),
    linux("32-bit PAE", PAE, **shell(1, "i686")),
    # ends where it asks for the first server of the Hurd
    dict(name="GNU Mach", args=["--kernel", "{others}/gnumach", "--memory", "128M", "--cmdline", "console=com0"],
         expect=[r"GNU Mach 1\.8", r"biosmem", r"Probing PCI", r"No bootstrap code loaded"],
         seen=r"No bootstrap code loaded", status=0, timeout=60),
    dict(name="Xen with a Linux dom0", args=[
        "--kernel", "{others}/xen", "--memory", "1G", "--translator", "on",
        "--cmdline", "com1=115200,8n1,0x3f8,4 console=com1 dom0_mem=512M",
        "--module", "{stock}/vmlinuz console=hvc0 sosia.run=uname", "--module", "{stock}/initrd.img"],
         expect=[r"Xen version 4\.17", r"Dom0 has maximum", r"Linux version 6", r"exit status 0", r"ACPI S5"],
         status=0, timeout=240, engine="soft"),
    # needs the BIOS's interrupts
    dict(name="iPXE is refused", args=["--kernel", "{others}/ipxe.lkrn"], expect=[r"real-mode entry"], status=2,
         timeout=20),
]
