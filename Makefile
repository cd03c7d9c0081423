# Branchpoint: everything a person or CI runs. `make help` lists it.
SHELL := /bin/sh
GO ?= go
export CGO_ENABLED := 0
export GOFLAGS := -buildvcs=false
GOFUMPT := $(GO) run mvdan.cc/gofumpt@v0.9.2
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.7.0
FUZZTIME ?= 30s
SCENARIO ?=
# How many scenarios run at once: each keeps one core busy most of the time, and takes 3 GB of memory.
PARALLEL ?= 2
CUTS ?= 200
KILLS ?= 200
SEED ?= $(shell date +%Y%m%d)
BENCH ?=
# Making the deployed Debian and attaching real DHCP servers to the laboratory's switch need root.
AS_ROOT := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
SCENARIOS := $(GO) test $(if $(AS_ROOT),-exec $(AS_ROOT)) -count=1 -v -parallel $(PARALLEL) ./qemu-tests

.PHONY: help run test image e2e e2e-all bench netboot soak lint fuzz setup program os parts unit scenarios short clean

help:
	@echo 'make run                 build everything, start central and an appliance, deploy a machine, show where it runs'
	@echo 'make test                linters, unit tests and the short list of scenarios (under 30 minutes on 2 cores)'
	@echo 'make image               build/branchpoint.img'
	@echo 'make e2e SCENARIO=NAME   one scenario; make e2e-all: all of them'
	@echo 'make bench               benchmarks beside peers and against goals, as a table and build/bench.json; BENCH=NAME: one of them'
	@echo 'make soak                every scenario, $(CUTS) power cuts, $(KILLS) kills of central, and a long fuzz run'
	@echo 'make lint, make fuzz     linters; each fuzz target for FUZZTIME ($(FUZZTIME))'

setup:
	@sh ./setup.sh

program:
	@mkdir -p build/bin
	$(GO) build -trimpath -ldflags '-s -w' -o build/bin/branchpoint ./appliance/cmd/branchpoint

image: setup program
	$(GO) run ./initramfs/cmd/mklayers
	$(GO) run ./appliance/image/cmd/mkimage

# The Debian that the scenarios deploy.
os: setup
	$(GO) build -trimpath -o build/bin/osimage ./qemu-tests/osimage
	$(AS_ROOT) build/bin/osimage -o build/os

lint:
	@out=$$(git ls-files '*.go' | xargs $(GOFUMPT) -l) && if [ -n "$$out" ]; then echo "not formatted by gofumpt:"; echo "$$out"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(GO) test -count=1 -run 'TestImportArrows|TestForbidden' ./provisioning

# Each test program has mounts of its own: where one makes a network namespace, with ip or by itself, the mounts of all others
# would be copied into it, and their file systems would live on after they were unmounted.
unit:
	$(GO) test -p 2 -timeout 20m $(if $(AS_ROOT),,-exec 'unshare --mount') $$($(GO) list ./... | grep -v '/qemu-tests$$')

scenarios: image os
	@$(MAKE) short

short:
	$(SCENARIOS) -timeout 50m -run '^TestScenario$$' -args -scenarios=short

parts: image
	@$(MAKE) os

# The parts are built while the linters look: neither keeps two cores busy by itself.
test: setup
	@$(MAKE) -j 2 lint parts
	@$(MAKE) unit short

e2e: image os
	@test -n "$(SCENARIO)" || { echo 'say which: make e2e SCENARIO=deploy-bios-dhcp'; exit 2; }
	$(SCENARIOS) -timeout 40m -run '^TestScenario$$/^$(SCENARIO)$$' -args -scenarios=all

e2e-all: image os
	$(SCENARIOS) -timeout 120m -run '^TestScenario$$' -args -scenarios=all

run: image os
	$(SCENARIOS) -timeout 0 -run '^TestRun$$' -args -demo

# Each benchmark runs alone, once: it measures us and our peers by turns itself (see docs/benchmarks.md).
bench: $(if $(filter-out boot-to-agent,$(BENCH)),setup,image netboot)
	@rm -rf build/bench && mkdir -p build/bench
	@failed=; wanted=$$(echo '$(BENCH)' | tr -d -); \
	for f in $$(git grep -lE '^func Benchmark(Peers|Goal)_' -- '*_test.go'); do \
		for n in $$(sed -nE 's/^func Benchmark((Peers|Goal)_[A-Za-z0-9]+)\(.*/\1/p' $$f); do \
			[ -z "$$wanted" ] || [ "$$(echo "$${n#*_}" | tr A-Z a-z)" = "$$wanted" ] || continue; \
			echo "benchmark $$n in $$(dirname $$f)"; \
			BRANCHPOINT_BENCH_DIR='$(CURDIR)/build/bench' $(GO) test $(if $(AS_ROOT),-exec '$(AS_ROOT) --preserve-env=BRANCHPOINT_BENCH_DIR') \
				-timeout 60m -run '^$$' -bench "^Benchmark$$n$$" -benchtime 1x ./$$(dirname $$f) || failed="$$failed $$n"; done; done; \
	echo; $(GO) run ./benchmark/cmd/benchtable -dir build/bench $(if $(BENCH),-only '$(BENCH)',-o build/bench.json) || exit 1; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

# The Debian installer that boot-to-agent is measured beside.
netboot: setup
	$(GO) run ./benchmark/cmd/netboot

fuzz:
	@set -e; for f in $$(git grep -lE '^func Fuzz' -- '*_test.go'); do \
		for n in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$f); do \
			echo "fuzz $$n in $$(dirname $$f)"; $(GO) test -run '^$$' -fuzz "^$$n$$" -fuzztime $(FUZZTIME) ./$$(dirname $$f); done; done

# The moments of the power cuts and of the kills are other ones each day; SEED repeats a run.
soak: e2e-all
	$(GO) test -count=1 -v -timeout 120m -run '^TestKilledDuringApply$$' ./appliance/cmd/branchpoint -args -kills=$(KILLS) -seed=$(SEED)
	$(SCENARIOS) -timeout 360m -run '^TestSoak' -args -cuts=$(CUTS) -debian-cuts=10 -seed=$(SEED)
	$(MAKE) fuzz FUZZTIME=5m

clean:
	rm -rf build
