#!/usr/bin/env bash
# Checks what needs no kernel: formatting, lints, documentation, the syntax of scripts.
# Usage: hack/check.sh
set -euo pipefail
. "$(dirname "$0")/lib.sh"

need_build
cd "$repo"

say "rustfmt"
cargo fmt --all --check

say "clippy"
cargo clippy --quiet --workspace --all-targets --locked -- -D warnings

say "documentation"
RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --workspace --no-deps --locked

say "scripts"
for script in hack/*.sh hack/kubernetes/*.sh tests/e2e/*.sh tests/kubernetes/*.sh tests/kubernetes/sections/*.sh tests/systemd/*.sh .ci/run; do
    bash -n "$script"
done

say "programs that tests run"
programs=$(git ls-files -z -- 'tests/*.rs' 'crates/cni-testing/*.rs' 'crates/*/tests/*.rs' 'plugins/*/tests/*.rs' 'ipam/*/tests/*.rs' |
    xargs -0 grep -hoE 'Command::new\("[^"/]+"\)' | cut -d'"' -f2 | sort -u)
for program in $programs; do
    grep -q "^$program " tests/tools || fail "a test runs $program, and tests/tools, which says what is installed, has no line for it"
done

echo "OK: checks passed"
