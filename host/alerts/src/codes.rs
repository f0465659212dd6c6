//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS63xx: alerts.
    6300 "The target of alerts cannot be used as it is configured",
    6301 "An alert could not be delivered",
}
