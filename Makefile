# Latchkey: `make help` lists what there is.
VERSION  ?= 0.1.0
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

# Every build is static, reproducible and free of the caller's settings.
export CGO_ENABLED := 0
export GOFLAGS     := -mod=readonly -trimpath -buildvcs=false
LDFLAGS := -s -w -X github.com/latchkey-dev/latchkey/internal/version.Version=$(VERSION)

PROGRAMS := injector agent
ARCHES   := amd64 arm64
ARCH     := $(shell go env GOARCH)
SUITE    := -v -count=1 -timeout 60m
CLUSTER  := $(CURDIR)/bin/cluster
# Runs a command where the cluster can be reached.
INSIDE   := $(CLUSTER) exec --

.DEFAULT_GOAL := help
.PHONY: help build unit test e2e demo bench lint images generate tidy vuln cluster-up cluster-down cluster-tool load clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the programs into bin/
	go build -ldflags '$(LDFLAGS)' -o bin/ $(PROGRAMS:%=./cmd/%)

unit: ## Run the tests that need neither root nor a cluster
	go build -v ./... && go vet ./... && go test -v ./...
	cd tools && go build -v ./... && go vet ./... && go test -v ./...
	cd test && go build -v ./... && go vet ./... && go test -v ./cluster/...

test: unit lint e2e ## Run everything: unit tests, lint, and the suite on a real cluster (root)

e2e: load ## Run the end-to-end suite on a real Kubernetes with a real Vault (root)
	cd test && go test $(SUITE) -exec '$(INSIDE)' ./e2e $(ARGS)

demo: build load ## Show an annotated pod that reads a secret from Vault (root)
	cd test && go build -o ../bin/demo ./demo
	@$(INSIDE) bin/demo

bench: load ## Measure what Latchkey costs (root)
	cd test && go build -o ../bin/bench ./bench
	@$(INSIDE) bin/bench

lint: ## Run staticcheck on every module
	go tool -modfile=tools/go.mod staticcheck ./...
	cd test && go tool -modfile=../tools/go.mod staticcheck ./...
	cd tools && go tool staticcheck ./...

images: ## Build the container images into dist/, without Docker
	cd tools && go build -o ../bin/images ./images
	@for arch in $(ARCHES); do for program in $(PROGRAMS); do \
	  GOARCH=$$arch go build -ldflags '$(LDFLAGS)' -o dist/$$arch/$$program ./cmd/$$program && \
	  bin/images -o dist/$$arch/latchkey-$$program.tar -name latchkey-$$program:$(VERSION) -arch $$arch \
	    -entrypoint /$$program -user 65532:65532 \
	    -label org.opencontainers.image.title=latchkey-$$program \
	    -label org.opencontainers.image.version=$(VERSION) \
	    -label org.opencontainers.image.revision=$(REVISION) \
	    -label org.opencontainers.image.source=https://github.com/latchkey-dev/latchkey \
	    -label org.opencontainers.image.licenses=Apache-2.0 \
	    dist/$$arch/$$program=/$$program || exit 1; done; done

generate: ## Write the generated documents again
	go run ./cmd/injector annotations > docs/annotations.md

tidy: ## Tidy every module
	@for dir in . test tools; do (cd $$dir && GOFLAGS= go mod tidy) || exit 1; done

vuln: ## Look for known vulnerabilities (needs the network)
	go tool -modfile=tools/go.mod govulncheck ./...

cluster-up: cluster-tool ## Start a real Kubernetes with a Vault in it, and leave it running (root)
	@$(CLUSTER) up

cluster-down: cluster-tool ## Stop it and leave nothing behind (root)
	@$(CLUSTER) down

cluster-tool:
	@cd test && go build -o $(CLUSTER) ./cluster/cmd/cluster

load: cluster-up
	@$(MAKE) --no-print-directory images ARCHES=$(ARCH)
	@$(CLUSTER) load $(PROGRAMS:%=dist/$(ARCH)/latchkey-%.tar)

clean: ## Remove what was built here
	rm -rf bin dist
