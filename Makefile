# Every target prepares what it needs, as root or as an ordinary user with sudo, on a Debian machine that nobody
# prepared. What is fetched and built lies outside the tree, in $BUILDSVC_TOOLS (tools/env.sh).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PROTO_SOURCES := $(shell find proto -name '*.proto')
CONTEXT ?=
DOCKERFILE ?=
CHANGE ?=
PROGRAM ?=
PYTEST_ARGS ?=
POINTS ?=
STEPS ?=
QUICK ?=
OUTPUT ?=
REGISTRY ?=
TAG ?=

.PHONY: help setup system tools venv proto images pipelines toolchains images-oci cluster-tools test test-cluster lint fmt run bench peers perf perf-quick campaign manifests wheel lock clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: system tools venv proto images pipelines ## prepare the machine: 15 minutes the first time, then 1 second

system:
	@tools/setup-system.sh
	@tools/registry.sh address >/dev/null

tools: system
	@tools/build.sh >/dev/null
	@tools/deploy/build.sh >/dev/null

venv: system
	@tools/venv.sh >/dev/null

images: system
	@tools/base-image.sh busybox >/dev/null
	@tools/base-image.sh debian >/dev/null

pipelines: system
	@tools/pipelines/build.sh >/dev/null

toolchains: venv images ## base images with Go, Node and Maven, for the comparison: 4 minutes the first time
	@for kind in golang node maven; do tools/base-image.sh "$$kind" >/dev/null; done

proto: buildsvc/_proto/__init__.py ## compile proto/ into buildsvc/_proto: 1 second

buildsvc/_proto/__init__.py: $(PROTO_SOURCES) tools/protogen.py | venv
	@echo "make: compiling proto/ into buildsvc/_proto"
	@"$$(tools/venv.sh)/bin/python" tools/protogen.py

test: setup ## set up, check and test everything: below 15 minutes, the first time below 45 (PYTEST_ARGS=…)
	@tools/as-builder tools/check.sh lint
	@tools/as-builder tools/check.sh test $(PYTEST_ARGS)

images-oci: setup ## build deploy/images on a sidecar and push them (REGISTRY=HOST:PORT, plain HTTP): 5 minutes the first time
	@test -n '$(REGISTRY)' || { echo "make: REGISTRY=HOST:PORT says where to push; tools/registry.sh start DIR PORT starts one" >&2; exit 64; }
	@tools/as-builder python tools/images.py push '$(REGISTRY)' $(if $(TAG),--tag '$(TAG)')

cluster-tools: ## programs of the test cluster: Kubernetes, containerd, runc; 15 minutes the first time
	@tools/setup-system.sh cluster
	@tools/cluster/build.sh >/dev/null
	@tools/deploy/build.sh >/dev/null

test-cluster: setup cluster-tools ## the tests on a real Kubernetes of one node, which it brings up and takes down (PYTEST_ARGS=…)
	@tools/test-cluster.sh $(PYTEST_ARGS)

lint: venv proto ## ruff, mypy --strict and the import contracts: half a minute
	@tools/as-builder tools/check.sh lint

fmt: venv ## format the Python code and sort its imports: 1 second
	@bin="$$(tools/venv.sh)/bin"; "$$bin/ruff" check --quiet --select I --fix buildsvc sidecar deploy tests tools perf setup.py; "$$bin/ruff" format buildsvc sidecar deploy tests tools perf setup.py

run: setup ## cold build, publish, change a line, build in a fresh pod: 5 minutes (CONTEXT=DIR DOCKERFILE=FILE for yours)
	@echo "make: building in two pods and on a daemon that stays up; about 5 minutes for the sample project"
	@tools/as-builder python tools/run.py $(if $(CONTEXT),--context '$(abspath $(CONTEXT))') $(if $(DOCKERFILE),--dockerfile '$(abspath $(DOCKERFILE))') $(if $(CHANGE),--change '$(CHANGE)') $(if $(PROGRAM),--program '$(PROGRAM)')

bench: setup ## the comparison with a warm daemon and with BuildKit's own cache: about two hours
	@echo "make: measuring; leave the machine alone meanwhile"
	@tools/as-builder python -m perf.bench

peers: toolchains
	@tools/setup-system.sh perf
	@tools/build.sh peers >/dev/null

perf: peers ## the comparison with Kaniko, Docker-in-Docker, Buildah and BuildKit's caches: hours (OUTPUT=FILE goes on with it)
	@tools/as-builder python -m perf run $(if $(OUTPUT),--output '$(abspath $(OUTPUT))')

perf-quick: peers ## the same on one project, two rounds: 15 minutes; the peers themselves are built before, once
	@tools/as-builder python -m perf run --quick $(if $(OUTPUT),--output '$(abspath $(OUTPUT))')

campaign: setup ## what the cache engine claims, tried for hours (QUICK=1, POINTS="3 5", STEPS=N, OUTPUT=FILE)
	@tools/as-builder python -m tests.campaign run $(if $(QUICK),--quick) $(foreach point,$(POINTS),--point '$(point)') $(if $(STEPS),--steps '$(STEPS)') $(if $(OUTPUT),--output '$(abspath $(OUTPUT))')

manifests: tools venv proto ## write what is generated in deploy/: plain manifests, dashboard, table of values
	@"$$(tools/venv.sh)/bin/python" tools/manifests.py

wheel: venv ## the wheel, into dist/: half a minute
	@"$$(tools/venv.sh)/bin/python" -m build --wheel --no-isolation

lock: venv ## renew requirements/*.txt from *.in: 1 minute
	@tools/lock.sh

clean: ## remove what was made in the tree; the cache of tools stays
	rm -rf buildsvc/_proto build dist buildsvc.egg-info .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
