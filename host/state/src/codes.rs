//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS62xx: the host's state file.
    6200 "The state file cannot be used",
    6201 "The state file was made by a newer version",
}
