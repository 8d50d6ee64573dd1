# Each target is one command a person types; what it does is in scripts/.
.PHONY: build guest demo down test bench lint

build:            ## target/release/ferrogate
	cargo build --release --bin ferrogate --bin ferrogate-shim --bin ferrogate-edge

guest:            ## what micro-VMs need beside it: a kernel (minutes, once), and target/release/ferrogate-guest
	scripts/deps kernel
	cargo xtask kernel
	cargo xtask guest --release

demo: build       ## the whole job on this machine, left running
	scripts/demo

down:             ## stops the demo; nothing of it stays
	scripts/down

test:             ## the whole test-suite
	scripts/test

bench: build      ## side by side with peers, ratios in a table
	cargo build --release -p ferrogate-edge --example alb
	cargo build --release -p ferrogate-ecs --example simulate_services
	scripts/bench

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo xtask codegen --check
	cargo xtask tidy
