# Latchkey: `make help` lists what there is.
VERSION  := 0.1.0
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# Every build is static, reproducible and free of the caller's settings.
export CGO_ENABLED := 0
export GOFLAGS     := -mod=readonly -trimpath -buildvcs=false
export GOWORK      := off
unexport GOOS GOARCH
# Go of 1.21 and newer fetches the one that go.mod names, unless its packager turned that off.
export GOTOOLCHAIN ?= auto
# sudo's PATH lacks the folder that Go's own archive is unpacked to, and some services have no HOME.
export PATH := $(PATH):/usr/local/go/bin
ifndef HOME
export HOME := $(shell getent passwd "$$(id -u)" | cut -d: -f6)
endif
LDFLAGS := -s -w -X github.com/latchkey-dev/latchkey/internal/version.Version=$(VERSION)

# Every pod has an agent: without inlining it is a tenth smaller, and its start takes
# a tenth more CPU time.
SMALL    := -gcflags=all=-l

PROGRAMS := injector agent authconfig
ARCHES   := amd64 arm64
FUZZTIME := 10m
# The tests of the suite wait more than they work.
SUITE    := -v -count=1 -timeout 60m -parallel 6
CLUSTER  := $(CURDIR)/bin/cluster
# Runs a command where the cluster can be reached; runs one that may be silent for minutes.
INSIDE   := $(CLUSTER) exec --
STILL    := $(CURDIR)/tools/still.sh

.DEFAULT_GOAL := help
.PHONY: help build unit test integration e2e demo bench chaos soak fuzz lint images generate tidy vuln cluster-up cluster-down cluster-check cluster-tool load root clean
.NOTPARALLEL:

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the programs into bin/
	@$(STILL) go build -ldflags '$(LDFLAGS)' -o bin/ $(patsubst %,./cmd/%,$(filter-out agent,$(PROGRAMS)))
	@$(STILL) go build $(SMALL) -ldflags '$(LDFLAGS)' -o bin/ ./cmd/agent

unit: ## Run the tests that need neither root nor a cluster
	$(STILL) go vet ./... && $(STILL) go test ./...
	cd tools && $(STILL) go vet ./... && $(STILL) go test ./...
	cd test && $(STILL) go vet ./... && $(STILL) go test ./cluster/... ./chart ./leaks

test: root unit lint integration e2e ## Run everything: unit tests, lint, the agent on a real Vault, and the suite on a real cluster (root)
	cd test/cluster/parts/vault && $(STILL) go test ./storage

# The tests wait more than they work, so many run at once.
integration: ## Run the agent against a real Vault and a real PostgreSQL, and its templates beside consul-template's
	@cd test && $(STILL) go run ./integration/prepare
	cd test && $(STILL) go test -count=1 -timeout 30m -parallel 16 ./integration/... ./corpus $(ARGS)

e2e: root load ## Run the end-to-end suite on a real Kubernetes with a real Vault (root)
	@$(CLUSTER) add cert-manager
	@test -n "$$LATCHKEY_TEST_KUBECONFIG" || $(CLUSTER) postgres up
	cd test && $(STILL) go test $(SUITE) -exec '$(INSIDE)' ./e2e $(ARGS)

demo: root build load ## Show an annotated pod that reads a secret from Vault (root)
	@cd test && $(STILL) go build -o ../bin/demo ./demo
	@$(INSIDE) bin/demo

# Agents are compared without a cluster. Vault's own, on demand, takes long to build the first time.
ON_CLUSTER := $(filter-out agent outage,$(or $(ARGS),pods admission))
bench: root $(if $(ON_CLUSTER),load) ## Measure what Latchkey costs: ARGS="pods admission agent outage", or all but the last (root)
	@$(if $(ON_CLUSTER),cd test && $(STILL) go build -o ../bin/bench ./bench)
	@$(if $(ON_CLUSTER),$(INSIDE) bin/bench $(ON_CLUSTER))
	@$(if $(filter agent,$(or $(ARGS),agent)),cd test && $(STILL) go run ./integration/prepare)
	@$(if $(filter agent,$(or $(ARGS),agent)),cd test && go test ./bench -run '^TestAgents$$' -v -count=1 -timeout 2h)
	$(if $(filter outage,$(ARGS)),$(STILL) go test ./internal/agent -run '^TestOutage$$' -v -count=1 -timeout 30m -agents 10000 -plot $(CURDIR)/docs/outage.svg)

chaos: ## Kill agents thousands of times while an app reads their files
	@cd test && $(STILL) go run ./integration/prepare
	cd test && $(STILL) go test ./chaos -v -count=1 -timeout 30m -run 'Killed|Restart' $(ARGS)

soak: root ## Let agents idle for ten minutes, and authconfig for twelve; watch what they need (root)
	@cd test && $(STILL) go run ./integration/prepare
	cd test && $(STILL) go test ./chaos -v -count=1 -timeout 30m -run Soak -soak 10m $(ARGS)
	$(MAKE) --no-print-directory e2e ARGS='-run ^TestSoak -soak 12m $(ARGS)'

fuzz: ## Fuzz what reads annotations, configurations, requests and roles, FUZZTIME each (10m)
	@for target in FuzzParse FuzzHandler FuzzParseConfig; do \
	  go test ./internal/mutate -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) || exit 1; done
	go test ./internal/render -run '^$$' -fuzz '^FuzzTemplate$$' -fuzztime $(FUZZTIME)
	go test ./internal/agent -run '^$$' -fuzz '^FuzzProxyPath$$' -fuzztime $(FUZZTIME)
	go test ./internal/authconfig/desired -run '^$$' -fuzz '^FuzzParse$$' -fuzztime $(FUZZTIME)

lint: ## Check the format, and run staticcheck on every module
	@unformatted=$$(gofmt -l .) && test -z "$$unformatted" || { echo "run gofmt -w on: $$unformatted" >&2; exit 1; }
	$(STILL) go tool -modfile=tools/go.mod staticcheck ./...
	cd test && $(STILL) go tool -modfile=../tools/go.mod staticcheck ./...
	cd tools && $(STILL) go tool staticcheck ./...

# A program that nobody may read cannot be traced from its first instruction on,
# not even by an app of the agent's user that shares its process namespace.
images: agent_mode := :0111
images: ## Build the container images into dist/, without Docker
	@cd tools && $(STILL) go build -o ../bin/ ./images ./roots
	@mkdir -p dist && bin/roots > dist/ca-certificates.crt
	@for arch in $(ARCHES); do for program in $(PROGRAMS); do \
	  GOOS=linux GOARCH=$$arch $(STILL) go build $$(test $$program != agent || echo $(SMALL)) -ldflags '$(LDFLAGS)' -o dist/$$arch/$$program ./cmd/$$program && \
	  bin/images -o dist/$$arch/latchkey-$$program.tar -name latchkey-$$program:$(VERSION) -arch $$arch \
	    -entrypoint /$$program -user 65532:65532 \
	    -label org.opencontainers.image.revision=$(REVISION) \
	    -label org.opencontainers.image.source=https://github.com/latchkey-dev/latchkey \
	    -label org.opencontainers.image.licenses=Apache-2.0 \
	    dist/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt \
	    dist/$$arch/$$program=/$$program$$(test $$program != agent || echo $(agent_mode)) || exit 1; done; done

generate: ## Write the generated documents again
	go run ./cmd/injector annotations > docs/annotations.md
	go run ./internal/metricsdoc > docs/metrics.md
	go run ./cmd/authconfig fields > docs/authconfig-roles.md

tidy: ## Tidy every module
	@for dir in . test tools; do (cd $$dir && GOFLAGS= go mod tidy) || exit 1; done

vuln: ## Look for known vulnerabilities (needs the network)
	go tool -modfile=tools/go.mod govulncheck ./...

cluster-up: root cluster-tool ## Start a real Kubernetes with a Vault in it, and leave it running (root)
	@$(CLUSTER) up

cluster-down: root cluster-tool ## Stop it and leave nothing behind (root)
	@$(CLUSTER) down

cluster-check: root cluster-tool ## Show that it leaves nothing behind: start, crash, stop, compare, three times (root)
	@test/cluster/leaves-nothing.sh $(CLUSTER)

cluster-tool:
	@cd test && $(STILL) go build -o $(CLUSTER) ./cluster/cmd/cluster

load: cluster-up
	@$(MAKE) --no-print-directory images ARCHES=$$(go env GOARCH)
	@arch=$$(go env GOARCH) && $(CLUSTER) load $(PROGRAMS:%=dist/$$arch/latchkey-%.tar)

# Tells the caller before anything is compiled for minutes.
root:
	@test -n "$$LATCHKEY_TEST_KUBECONFIG" || test "$$(id -u)" = 0 || \
	  { echo 'this needs root; run: sudo env "PATH=$$PATH" make $(MAKECMDGOALS)' >&2; exit 2; }

clean: ## Remove what was built here
	rm -rf bin dist
