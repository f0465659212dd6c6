//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS65xx: telemetry.
    6500 "The collector of traces cannot be used as it is configured",
    6501 "Traces could not be delivered to the collector",
    6502 "The collector of traces refuses what it is sent",
}
