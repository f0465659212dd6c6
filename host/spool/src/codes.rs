//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS64xx: points that wait on their source's host.
    6400 "The spool cannot be used",
    6401 "The spool is full",
    6402 "A point that waits is damaged",
    6403 "Another version wrote a point that waits",
}
