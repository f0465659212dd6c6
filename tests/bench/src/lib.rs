//! What the bench and the load that it runs in a guest share: latencies, and the line that tells a second of them.
//!
//! It must not do anything: the load is `bin/farshore-bench-writer.rs`, and what is made of its lines is `rpo` of the bench.

pub mod latencies;
