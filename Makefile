# Every target works from a fresh clone on Debian 12 as root, and again when run twice.
SHELL := /bin/bash
PYTEST := .venv/bin/pytest

.DEFAULT_GOAL := help
.PHONY: help demo test lint test-unit test-contract test-e2e test-lvm test-zfs bench install

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9 -]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' Makefile

demo: ## learn snapvol in a minute: volume, snapshot, backup, loss, restore (no Docker, no S3)
	@packaging/vm/packages python
	@packaging/vm/venv .venv
	@packaging/demo/run .venv/bin/snapvol

test: lint test-unit test-contract test-e2e test-lvm test-zfs ## everything that CI runs

lint: ## style, types, layers, units and shell scripts
	@packaging/vm/packages python lint
	@packaging/vm/venv .venv dev
	@tests/lint

test-unit: ## fast; what needs root is skipped without
	@packaging/vm/packages python judge prometheus
	@packaging/vm/venv .venv dev
	$(PYTEST) tests/unit

test-contract: ## one suite over every backend, on real file systems (root)
	@packaging/vm/packages python storage
	@packaging/vm/venv .venv dev
	$(PYTEST) tests/contract

test-e2e: ## real Docker, Podman, Ceph RGW and restic (root)
	@packaging/vm/packages python storage judge containers s3 prometheus
	@packaging/vm/venv .venv dev
	$(PYTEST) tests/e2e

test-lvm test-zfs: ## contract, Docker, restores and power cuts over LVM or ZFS, in a guest (root)
	@packaging/vm/packages python storage judge containers postgres lvm $(GUEST_OF_$@)
	@packaging/vm/venv .venv dev
	tests/guests/run $(@:test-%=%)

GUEST_OF_test-lvm := uml
GUEST_OF_test-zfs := uml qemu kernel

bench: ## figures against restic and for plugin calls, fifteen minutes (root)
	@packaging/vm/packages python judge
	@packaging/vm/venv .venv dev
	@for figures in startup plugin backup tracked image prune; do .venv/bin/python bench/$$figures.py || exit 1; done

install: ## into /opt/snapvol, with the systemd units (root)
	@packaging/vm/packages python
	@packaging/vm/install
