# Everything that is done to this repository by hand or by CI has a target here; `make help` lists them.
#
# Tools are pinned outside of the service's go.mod: Go tools in tools/*.mod, npm ones in tools/package.json, the real Vault for tests in
# tools/vault/go.mod.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all
.DELETE_ON_ERROR:

GO ?= go
BUF := tools/node_modules/.bin/buf
GOFUMPT := $(GO) tool -modfile=tools/lint.mod gofumpt
STATICCHECK := $(GO) tool -modfile=tools/lint.mod staticcheck

# What the binaries report as their version.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# What the API must stay compatible with: the last tag, or main before there is one. Empty: no check.
BREAKING_AGAINST ?= $(shell git describe --tags --abbrev=0 2>/dev/null || echo main)
# How long each fuzz target runs.
FUZZTIME ?= 10s
# A hanging test is killed with all its stacks after this long.
TIMEOUT ?= 20m

.PHONY: all
all: format lint test-fast ## Format, lint and run the quick tests (default)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: generate
generate: $(BUF) ## Generate the Go code beside the .proto files
	$(BUF) generate

.PHONY: check-generated
check-generated: $(BUF) ## Fail if the generated code is not what the .proto files say
	tools/check-generated $(BUF)

.PHONY: format
format: $(BUF) ## Format Go and .proto files
	$(GOFUMPT) -w .
	$(BUF) format -w

.PHONY: lint
lint: $(BUF) ## Check style, formatting, suspicious code and the API's compatibility
	$(BUF) lint
	$(BUF) format --diff --exit-code
	tools/check-breaking $(BUF) "$(BREAKING_AGAINST)"
	@unformatted=$$($(GOFUMPT) -l .); \
	if [ -n "$$unformatted" ]; then printf 'not formatted, run `make format`:\n%s\n' "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(STATICCHECK) ./...

.PHONY: test
test: lint check-generated check-compose test-servers ## Run everything: lint, and all tests under the race detector with real servers
	$(GO) test -race -count=1 -timeout=$(TIMEOUT) ./...
	$(GO) test -count=1 -run '^TestAccessMatrix$$' ./server

.PHONY: test-fast
test-fast: ## Run the tests that need no other server, within two minutes
	TOKENBROKER_TEST_SERVERS=none $(GO) test -short -race -timeout=2m ./...

.PHONY: test-servers
test-servers: $(BUF) ## Build the real Vault into the cache, install oidc-provider and, on Debian, glewlwyd, django-oauth-toolkit and chromium (once; about 5 minutes of CPU)
	$(GO) run ./tools/testservers

.PHONY: check-compose
check-compose: ## Check docker-compose.yml
	tools/check-compose docker-compose.yml

.PHONY: fuzz
fuzz: ## Run every fuzz target for a short while (FUZZTIME=10s)
	tools/fuzz $(FUZZTIME)

.PHONY: fault
fault: ## Fail every outside call in turn; kill, freeze and cut off servers of a fleet, and count what they survive
	TOKENBROKER_TEST_SERVERS=none $(GO) test -race -count=1 -timeout=$(TIMEOUT) -run 'Fault' ./...
	cd broker && TOKENBROKER_TEST_FAULTS=all $(GO) test -race -count=1 -timeout=$(TIMEOUT) -run '^(TestRotationFaults|TestGrantFaults)$$'
	TOKENBROKER_TEST_FAULTS=all $(GO) test -race -count=1 -timeout=$(TIMEOUT) -v -run '^TestFleet' ./test/e2e

.PHONY: diagnosis
diagnosis: test-servers ## Inject every fault of the catalogue, have it named, and measure what checks of lookups take
	cd test/diagnosis && $(GO) test -count=1 -timeout=$(TIMEOUT)
	$(GO) run ./bench -lookups

.PHONY: bench
bench: ## Measure what a request costs
	$(GO) run ./bench

.PHONY: bench-long
bench-long: ## Measure large stores, many watches and a long load (15 min; LONG='-clients 100000 -minutes 1')
	$(GO) run ./bench -long $(LONG)

.PHONY: demo
demo: ## Run the server with everything it needs, to try it out (ONCE=1: show and stop)
	$(GO) run ./cmd/tokenbroker dev --demo $(if $(ONCE),--once)

.PHONY: build
build: ## Build static binaries into bin/
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/...

.PHONY: clean
clean: ## Remove what was built here; built servers stay in the cache
	rm -rf bin

# npm makes this file last of all, so that it tells a whole installation from one that was broken off.
$(BUF): tools/package.json tools/package-lock.json tools/.npmrc
	npm ci --prefix tools --no-progress
	@test -x $@ && touch $@
