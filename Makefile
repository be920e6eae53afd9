# The image, and the commands of everyday work. `make help` lists the targets.
#
# Variables:
#   BASE               root file system under the agent: tar or cpio, gzipped or not
#                      (default: built from Debian's packages)
#   ARCH               machine the image is for: amd64 or arm64 (default: this machine's); what is made
#                      for another machine than this one goes to out/ARCH and build/ARCH
#   COMPRESSION        of initrd.img: gzip (default), zstd, lz4 or none; docs/image.md compares them
#   LOCKED             1: packages of exactly the versions in scripts/image/packages.lock, or no image
#   RUNTIME            container runtime of the default base: runc (default) or crun
#   DEV_BUILD          1: the image gets delta-dev.tar.gz (snp-report) instead of delta.tar.gz
#   SNP_BUILD          1: it gets delta-snp.tar.gz, with /startup_*.sh; wins over DEV_BUILD
#   USR_MERGED_ROOTFS  1: /bin of the delta is a link to /usr/bin, for bases where it is, too
#   KMOD               1: modules of Debian's kernel are in the image itself, not only in that for QEMU
#   ROOTFS_DEVICE, HASH_DEVICE  how the kernel of a verified root finds it (/dev/sda, /dev/sdb)
#   VM_JOBS            how many files of tests/vm run at once (default: 2)
#   SOURCE_DATE_EPOCH  time of every file in the image (default: time of the last commit)

VENV := .venv
PYTHON := $(VENV)/bin/python3
IMAGE := scripts/build_initrd.sh
BASE ?=
ARCH ?= $(NATIVE)
NATIVE := $(shell dpkg --print-architecture)
FOREIGN := $(filter-out $(NATIVE),$(ARCH))
OUT := out$(addprefix /,$(FOREIGN))
BUILD := build$(addprefix /,$(FOREIGN))
RUNTIME ?= runc
DEV_BUILD ?= 0
SNP_BUILD ?= 0
USR_MERGED_ROOTFS ?= 0
KMOD ?= 0
ROOTFS_DEVICE ?= /dev/sda
HASH_DEVICE ?= /dev/sdb
export BASE ARCH OUT BUILD LOCKED COMPRESSION RUNTIME DEV_BUILD SNP_BUILD USR_MERGED_ROOTFS KMOD ROOTFS_DEVICE HASH_DEVICE
SETTINGS = $(RUNTIME) $(USR_MERGED_ROOTFS) $(KMOD) $(DEV_BUILD) $(SNP_BUILD)
DELTA := $(OUT)/delta$(if $(filter 1,$(SNP_BUILD)),-snp,$(if $(filter 1,$(DEV_BUILD)),-dev)).tar.gz

# Everything the set-up installs: what the build runs, what the virtual environment compiles
# against, and what the tests and `uvm` run on the host.
SYSTEM_PACKAGES := binutils busybox-static cpio crun cryptsetup-bin dpkg e2fsprogs erofs-utils faketime gcc git \
	gzip iproute2 kmod libc6-dev libcap-dev lz4 make musl musl-tools patchelf python3 python3-dev \
	python3-venv qemu-system-x86 runc squashfs-tools xfsprogs xz-utils zstd

# What builds for, and boots, a machine of another kind.
CROSS_PACKAGES_arm64 := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm qemu-user-static

SOURCES := $(shell find gcs -name '*.py' -o -name '*.c') $(shell find rootfs -type f)
BUILDER := $(IMAGE) $(shell find scripts/image -name '*.py' -o -name '*.lock' -o -path '*/files/*')
PRODUCTS := $(OUT)/delta.tar.gz $(OUT)/initrd.img $(OUT)/rootfs.tar.gz $(OUT)/sbom.cdx.json
BOOT := $(OUT)/vmlinux $(OUT)/initrd-qemu.img $(OUT)/initrd-root.img $(OUT)/busybox.tar
VERITY := $(OUT)/rootfs-verity.vhd $(OUT)/rootfs.hash $(OUT)/rootfs.hash.vhd

.DELETE_ON_ERROR:
.PHONY: all help setup delta delta-dev delta-snp initrd rootfs verity snp kernel vm lock test-crun image-crun check-reproducible run test test-arm64 bench lint clean distclean FORCE

all: $(PRODUCTS) $(BOOT)

help:
	@echo 'make run      set up, build, boot a VM and run a container in it'
	@echo 'make test     set up, build, and run every test'
	@echo 'make all      $(OUT)/delta.tar.gz, $(OUT)/initrd.img, $(OUT)/rootfs.tar.gz, and the files for QEMU'
	@echo 'make vm       only what booting under QEMU needs'
	@echo 'make delta, initrd, kernel    one product each'
	@echo 'make rootfs   $(OUT)/rootfs.vhd: the image as a read-only root disk'
	@echo 'make verity   $(OUT)/rootfs-verity.vhd: the same with a dm-verity tree, and command lines for it'
	@echo 'make snp      the same of a confidential machine; VMGS and IGVM files need tools that are not free'
	@echo 'make delta-dev, delta-snp    the delta with snp-report; and with /startup_*.sh'
	@echo 'make lock     take the newest packages into scripts/image/packages.lock'
	@echo 'make check-reproducible   build the last commit twice, in two places, and compare'
	@echo 'make setup    install system packages that are missing, make $(VENV)'
	@echo 'make test-arm64  build for arm64, boot it under emulation, run a container in it'
	@echo 'make test-crun   every test of containers with crun instead of runc'
	@echo 'make bench, lint, clean, distclean'

delta: $(OUT)/delta.tar.gz
initrd: $(OUT)/initrd.img
delta-dev: $(OUT)/delta-dev.tar.gz
delta-snp: $(OUT)/delta-snp.tar.gz
rootfs: $(OUT)/rootfs.vhd
verity: $(VERITY)
snp:
	$(MAKE) SNP_BUILD=1 verity
kernel: $(OUT)/vmlinux $(OUT)/modules.cpio
vm: $(BOOT)

# --- set-up ---------------------------------------------------------------------------------

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

setup: $(VENV)/.complete $(addprefix $(VENV)/.complete-,$(FOREIGN))

# Install those of some packages that are missing.
define install
	@missing=$$(for package in $(1); do \
		dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed \
			|| echo $$package; done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		$(SUDO) apt-get update -q && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
			$$missing; \
	fi
endef

$(VENV)/.complete-%: $(VENV)/.complete
	$(if $(CROSS_PACKAGES_$*),,$(error ARCH=$* can not be built on $(NATIVE)))
	$(call install,$(CROSS_PACKAGES_$*))
	@touch $@

$(VENV)/.complete: pyproject.toml
	$(call install,$(SYSTEM_PACKAGES))
	@[ -x $(PYTHON) ] || /usr/bin/python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q --disable-pip-version-check --use-pep517 -e '.[host,dev]'
	@touch $@

# --- image ----------------------------------------------------------------------------------

# Commit, branch and time are in the image; the file changes only when they do.
$(BUILD)/version: FORCE
	@mkdir -p $(@D)
	@{ git rev-parse HEAD; git rev-parse --abbrev-ref HEAD; git log -1 --format=%ct; \
		echo "$$SOURCE_DATE_EPOCH" "$$BASE" "$(SETTINGS)"; } >$@.new 2>/dev/null; \
	if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(OUT)/delta.tar.gz: $(SOURCES) $(BUILDER) $(BUILD)/version | setup
	$(IMAGE) delta

$(OUT)/delta-dev.tar.gz $(OUT)/delta-snp.tar.gz: $(OUT)/delta.tar.gz
	$(IMAGE) $(basename $(basename $(@F)))

# What the rules below do depends on variables, too; the file changes only when they do.
$(BUILD)/settings: FORCE
	@mkdir -p $(@D)
	@echo "$(SETTINGS)" >$@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BUILD)/base.tar: $(BUILDER) $(BUILD)/settings | setup
	$(IMAGE) base

$(BUILD)/initrd.cpio $(OUT)/sbom.cdx.json &: $(DELTA) $(if $(BASE),$(BASE),$(BUILD)/base.tar) \
		$(BUILD)/settings $(if $(filter 1,$(KMOD)),$(OUT)/modules.cpio)
	$(IMAGE) initrd

$(BUILD)/compression: FORCE
	@mkdir -p $(@D)
	@echo "$(COMPRESSION)" >$@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(OUT)/initrd.img: $(BUILD)/initrd.cpio $(BUILD)/compression
	$(IMAGE) compress

$(OUT)/rootfs.tar.gz: $(BUILD)/initrd.cpio
	$(IMAGE) rootfs

$(OUT)/rootfs.ext4: $(OUT)/rootfs.tar.gz
	$(IMAGE) ext4

$(OUT)/rootfs.vhd: $(OUT)/rootfs.ext4
	$(IMAGE) vhd

$(VERITY) &: $(OUT)/rootfs.ext4 $(BUILD)/devices
	$(IMAGE) verity

$(BUILD)/devices: FORCE
	@mkdir -p $(@D)
	@echo "$(ROOTFS_DEVICE) $(HASH_DEVICE)" >$@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(OUT)/initrd-root.img: $(OUT)/modules.cpio $(BUILDER)
	$(IMAGE) stub

$(OUT)/vmlinux $(OUT)/modules.cpio &: $(BUILDER) | setup
	$(IMAGE) kernel

$(OUT)/initrd-qemu.img: $(BUILD)/initrd.cpio $(OUT)/modules.cpio
	$(IMAGE) qemu

$(OUT)/busybox.tar: $(BUILDER) | setup
	$(IMAGE) busybox

lock: | setup
	$(IMAGE) lock

# Two whole builds: a minute or two.
check-reproducible: | setup
	scripts/check_reproducible.sh

# --- everyday work --------------------------------------------------------------------------

WORTH_SEEING := echo "kernel:       $$(uname -sr)"; echo "host name:    $$(hostname)"; \
	echo "memory limit: $$(cat /sys/fs/cgroup$$(cut -d: -f3 /proc/self/cgroup)/memory.max) bytes"

run: setup vm
	@$(VENV)/bin/uvm run --image-dir $(OUT) --timings --memory-limit 128 --hostname a-container $(OUT)/busybox.tar \
		-- /bin/sh -c '$(WORTH_SEEING)'

# An emulated VM keeps one processor busy. The tests of a file share a VM, so they stay together.
VM_JOBS ?= 2
VM_TESTS := $(PYTHON) -m pytest -n $(VM_JOBS) --dist loadfile --no-loadscope-reorder

test: setup all rootfs verity
	$(PYTHON) -m pytest tests/unit
	$(PYTHON) -m pytest tests/functional
	$(VM_TESTS) tests/vm

# The image for another kind of machine, which is emulated: takes minutes.
test-arm64: setup
	$(MAKE) ARCH=arm64 all
	$(PYTHON) -m pytest tests/arm64

# Everything about containers once more, with crun instead of runc; and an image that has it.
CONTAINER_TESTS := $(addprefix tests/functional/,$(notdir $(wildcard tests/functional/test_runtime_*.py \
	tests/functional/test_golden*.py)) test_uvm_agent.py test_uvm_pods.py test_uvm_images.py)

test-crun: setup all image-crun
	GCS_TEST_RUNTIME=crun $(PYTHON) -m pytest $(CONTAINER_TESTS)
	@# Once by itself: what uvm has to say about a new kernel it says now.
	$(VENV)/bin/uvm run --image-dir out/crun -- true
	UVM_IMAGE_DIR=out/crun $(PYTHON) -m pytest tests/vm/test_uvm_run.py tests/vm/test_uvm_kept.py

image-crun: setup
	@mkdir -p build/crun && ln -sfn ../cache build/crun/cache
	$(MAKE) RUNTIME=crun OUT=out/crun BUILD=build/crun vm

bench: setup all image-crun
	$(PYTHON) -m benchmarks --containers crun=out/crun/initrd-qemu.img

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# The downloaded packages stay; `make distclean` removes them and the virtual environment, too.
clean:
	rm -rf out
	for folder in build build/arm64; do [ ! -d $$folder ] || \
		find $$folder -mindepth 1 -maxdepth 1 ! -name cache ! -name arm64 -exec rm -rf {} +; done

distclean:
	rm -rf out build $(VENV)
