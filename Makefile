# The image, and the commands of everyday work. `make help` lists the targets.
#
# Variables:
#   BASE               root file system under the agent: tar or cpio, gzipped or not
#                      (default: built from Debian's packages)
#   SOURCE_DATE_EPOCH  time of every file in the image (default: time of the last commit)

VENV := .venv
PYTHON := $(VENV)/bin/python3
IMAGE := scripts/build_initrd.sh
BASE ?=
export BASE

# Everything the set-up installs: what the build runs, what the virtual environment compiles
# against, and what the tests and `uvm` run on the host.
SYSTEM_PACKAGES := binutils busybox-static cpio cryptsetup-bin dpkg e2fsprogs erofs-utils gcc git \
	gzip kmod libc6-dev libcap-dev make musl musl-tools patchelf python3 python3-dev python3-venv \
	qemu-system-x86 runc squashfs-tools xfsprogs xz-utils

SOURCES := $(shell find gcs -name '*.py' -o -name '*.c') $(shell find rootfs -type f)
BUILDER := $(IMAGE) $(shell find scripts/image -name '*.py' -o -path '*/files/*')
PRODUCTS := out/delta.tar.gz out/initrd.img out/rootfs.tar.gz
BOOT := out/vmlinux out/initrd-qemu.img out/busybox.tar

.DELETE_ON_ERROR:
.PHONY: all help setup delta initrd rootfs kernel vm run test bench lint clean distclean FORCE

all: $(PRODUCTS) $(BOOT)

help:
	@echo 'make run      set up, build, boot a VM and run a container in it'
	@echo 'make test     set up, build, and run every test'
	@echo 'make all      out/delta.tar.gz, out/initrd.img, out/rootfs.tar.gz, and the files for QEMU'
	@echo 'make vm       only what booting under QEMU needs'
	@echo 'make delta, initrd, rootfs, kernel    one product each'
	@echo 'make setup    install system packages that are missing, make $(VENV)'
	@echo 'make bench, lint, clean, distclean'

delta: out/delta.tar.gz
initrd: out/initrd.img
rootfs: out/rootfs.tar.gz
kernel: out/vmlinux out/modules.cpio
vm: $(BOOT)

# --- set-up ---------------------------------------------------------------------------------

SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

setup: $(VENV)/.complete

$(VENV)/.complete: pyproject.toml
	@missing=$$(for package in $(SYSTEM_PACKAGES); do \
		dpkg-query -W -f '$${db:Status-Status}' $$package 2>/dev/null | grep -qx installed \
			|| echo $$package; done); \
	if [ -n "$$missing" ]; then \
		echo "installing" $$missing; \
		$(SUDO) apt-get update -q && \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
			$$missing; \
	fi
	@[ -x $(PYTHON) ] || /usr/bin/python3 -m venv $(VENV)
	$(PYTHON) -m pip install -q --disable-pip-version-check --use-pep517 -e '.[host,dev]'
	@touch $@

# --- image ----------------------------------------------------------------------------------

# Commit, branch and time are in the image; the file changes only when they do.
build/version: FORCE
	@mkdir -p $(@D)
	@{ git rev-parse HEAD; git rev-parse --abbrev-ref HEAD; git log -1 --format=%ct; \
		echo "$$SOURCE_DATE_EPOCH" "$$BASE"; } >$@.new 2>/dev/null; \
	if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

out/delta.tar.gz: $(SOURCES) $(BUILDER) build/version | setup
	$(IMAGE) delta

build/base.tar: $(BUILDER) | setup
	$(IMAGE) base

build/initrd.cpio: out/delta.tar.gz $(if $(BASE),$(BASE),build/base.tar)
	$(IMAGE) initrd

out/initrd.img: build/initrd.cpio
	$(IMAGE) compress

out/rootfs.tar.gz: build/initrd.cpio
	$(IMAGE) rootfs

out/vmlinux out/modules.cpio &: $(BUILDER) | setup
	$(IMAGE) kernel

out/initrd-qemu.img: build/initrd.cpio out/modules.cpio
	$(IMAGE) qemu

out/busybox.tar: $(BUILDER) | setup
	$(IMAGE) busybox

# --- everyday work --------------------------------------------------------------------------

WORTH_SEEING := echo "kernel:       $$(uname -sr)"; echo "host name:    $$(hostname)"; \
	echo "memory limit: $$(cat /sys/fs/cgroup$$(cut -d: -f3 /proc/self/cgroup)/memory.max) bytes"

run: setup vm
	@$(VENV)/bin/uvm run --timings --memory-limit 128 --hostname a-container out/busybox.tar \
		-- /bin/sh -c '$(WORTH_SEEING)'

test: setup all
	$(PYTHON) -m pytest tests/unit
	$(PYTHON) -m pytest tests/functional
	$(PYTHON) -m pytest tests/vm

bench: setup all
	$(PYTHON) -m benchmarks

lint: setup
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# The downloaded packages stay; `make distclean` removes them and the virtual environment, too.
clean:
	rm -rf out
	[ ! -d build ] || find build -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +

distclean:
	rm -rf out build $(VENV)
