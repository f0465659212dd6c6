#!/bin/sh
# Cargo calls this in the place of the compiler, for the crates of this workspace only (RUSTC_WORKSPACE_WRAPPER): they are built
# for fuzzing, with libFuzzer's instrumentation, while the libraries are those that every other build uses. The flags are those
# of cargo-fuzz without a sanitizer, which would need a nightly compiler; our crates have no unsafe code.
exec "$@" --cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares
