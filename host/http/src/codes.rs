//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS25xx: HTTP APIs.
    2501 "An API cannot be used as it is configured",
    2502 "An API cannot be reached",
    2503 "An API's name leads to an address that is not allowed",
    2504 "An API did not answer in time",
    2505 "An API answered what cannot be used",
    2506 "A request to an API cannot be sent",
    2507 "A credential cannot be had",
    2508 "The clocks of this machine and of an API differ",
}
