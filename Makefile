# Everything one does with this repository. `make` alone lists the targets.

# The development build: it is there minutes before an optimised one and fast enough to look at.
# `make run RELEASE=1` takes the optimised one, which is what to measure and to deploy.
PROFILE := $(if $(RELEASE),release,debug)
RELAY := target/$(PROFILE)/stomp-relay

DEMO := stomp-js-demo
DEMO_SOURCES := $(wildcard $(DEMO)/src/* $(DEMO)/build.mjs)

.DEFAULT_GOAL := help
.PHONY: help build demo run run-rabbitmq test fmt clippy clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

build: ## build the relay (RELEASE=1: optimised)
	@scripts/need.sh cargo cc
	cargo build --locked --bin stomp-relay $(if $(RELEASE),--release)

demo: $(DEMO)/dist/index.html ## build the demo page into stomp-js-demo/dist

$(DEMO)/node_modules/.package-lock.json: $(DEMO)/package.json $(DEMO)/package-lock.json
	@scripts/need.sh node npm
	cd $(DEMO) && npm ci --no-audit --no-fund
	@touch $@

$(DEMO)/dist/index.html: $(DEMO)/node_modules/.package-lock.json $(DEMO_SOURCES)
	cd $(DEMO) && npm run --silent build

run: build demo ## run the relay with the demo (BROKER=amqp://... STORE=redis://... to use yours)
	@exec env BROKER='$(BROKER)' STORE='$(STORE)' scripts/run.sh $(RELAY)

run-rabbitmq: build demo ## the same with a private RabbitMQ and Redis, stopped at the end
	@exec scripts/run-rabbitmq.sh $(RELAY)

test: ## every check and test there is, with real RabbitMQ, Redis, nginx and Chromium
	@exec scripts/test.sh

fmt: ## format the Rust code
	cargo fmt --all

clippy: ## lint the Rust code; warnings are errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

clean: ## remove what was built; data/ stays
	cargo clean
	rm -rf $(DEMO)/dist $(DEMO)/node_modules $(DEMO)/test/screenshots

recordings: build ## record what real clients say to the relay (npm, PyPI, Maven, Go)
	conformance-tests/clients/build.sh
	node conformance-tests/clients/record.mjs $(RELAY)
	@$(MAKE) --no-print-directory clients-md

clients-md: ## make the tables of docs/clients.md from the recordings
	WRITE_CLIENTS_MD=1 cargo test --locked --test recordings tables

conformance-docs: build ## put RabbitMQ, Artemis and Spring to the conformance tests too (Maven; 15 minutes)
	scripts/conformance-docs.sh $(RELAY)

.PHONY: recordings clients-md conformance-docs

# The seconds that each target is fuzzed for, and which ones.
TIME ?= 60
TARGETS ?=

fuzz: ## fuzz the codec, sessions, WebSocket and destinations (TIME=60 TARGETS='decoder session')
	@exec fuzz/run.sh $(TIME) $(TARGETS)

fuzz-seeds: ## write the fuzzer's corpus anew from the conformance transcripts
	@exec fuzz/seeds.sh

.PHONY: fuzz fuzz-seeds

SOCKJS := system-tests/sockjs-clients

$(SOCKJS)/node_modules/.package-lock.json: $(SOCKJS)/package.json $(SOCKJS)/package-lock.json
	@scripts/need.sh node npm
	cd $(SOCKJS) && npm ci --no-audit --no-fund --ignore-scripts
	@touch $@

sockjs-clients: $(SOCKJS)/node_modules/.package-lock.json $(DEMO)/node_modules/.package-lock.json

sockjs-matrix: build sockjs-clients ## every SockJS client and transport, also behind nginx (needs Maven Central)
	@exec scripts/sockjs-matrix.sh $(RELAY)

.PHONY: sockjs-clients sockjs-matrix

bench: ## measure relay, RabbitMQ and floors (25 minutes, a quiet machine); writes docs/performance.md
	@exec scripts/bench.sh full

bench-quick: ## the same, shorter: one round in two minutes
	@exec scripts/bench.sh quick

bench-rabbitmq: ## measure RabbitMQ with and without the relay (20 minutes, quiet); docs/rabbitmq-cost.md
	@exec scripts/bench-rabbitmq.sh full

bench-rabbitmq-quick: ## the same, shorter: one round in two minutes
	@exec scripts/bench-rabbitmq.sh quick

instructions: ## count the instructions of the message path and compare them with the baseline
	@scripts/need.sh cargo cc valgrind
	cargo build --release --locked -p benches
	target/release/instructions

.PHONY: bench bench-quick bench-rabbitmq bench-rabbitmq-quick instructions

faults: build ## break RabbitMQ in every way of docs/faults.md for longer, and write that page (8 minutes)
	FAULTS=$(or $(FAULTS),long) cargo test --workspace --locked --test rabbitmq-faults

# sid has 4.3 or later, trixie 4.0.
SUITES ?=

rabbitmq4: ## the tests with RabbitMQ against later versions (root; SUITES=sid TESTS=relay FRESH=1)
	@exec env FRESH='$(FRESH)' TESTS='$(TESTS)' FILTER='$(FILTER)' scripts/rabbitmq4.sh $(SUITES)

.PHONY: faults rabbitmq4
