# Every target works from a clean clone: what a target needs and the host lacks
# is installed first (Debian and Ubuntu; elsewhere it says what to install).

.DEFAULT_GOAL := help
# Where rustup puts cargo, for a shell that was not told.
export PATH := $(PATH):$(HOME)/.cargo/bin
.PHONY: help demo build release deb test soak bench fuzz fmt check-fmt lint deny advisories clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: release ## build, and run `isol8 run -e "print(2 ** 10)"` without Docker
	@.ci/need-packages bwrap python3
	@.ci/demo

build: toolchain ## a quick build of everything, for development
	cargo build --workspace

release: toolchain ## the binaries of a release, in target/dist
	@.ci/dist

deb: release ## a Debian package, in target/deb
	@.ci/deb

test: release engines ## every test, on both engines (brings up Docker)
	@.ci/need-clients
	@.ci/need-browser
	@.ci/tests

soak: release engines ## kill the daemon at 200 moments on each engine, copy a GiB each way
	@.ci/soak

bench: release engines ## the measurements of the README, as a table and as JSON
	@.ci/bench

fuzz: toolchain ## the parsers between a sandbox and the network, a minute of random bytes
	@.ci/fuzz

fmt: toolchain ## format the code
	cargo fmt --all

check-fmt: toolchain
	cargo fmt --all --check

lint: toolchain ## clippy, with warnings as errors
	cargo clippy --workspace --all-targets --locked -- -D warnings

deny: toolchain ## licences, bans and sources of the dependencies
	@.ci/need-cargo-tools
	cargo deny --locked check licenses bans sources

advisories: toolchain ## known security advisories (fetches their database)
	@.ci/need-cargo-tools
	cargo deny check advisories

clean: ## remove what was built
	cargo clean

# What the others stand on.
.PHONY: toolchain engines
toolchain:
	@.ci/need-packages cc
	@.ci/need-rust

engines:
	@.ci/need-packages bwrap curl ip python3 pip3 node npm ps dpkg-deb readelf systemd-socket-activate
	@.ci/need-docker
	@.ci/need-base-image
	@.ci/need-debian >/dev/null
