//! The pages of this crate's errors.

use farshore_core::{Code, CodePage};

macro_rules! pages {
    ($($number:literal $title:literal,)*) => {
        /// FS40xx: replication.
        pub static CODES: &[CodePage] = &[$(CodePage {
            code: Code::new($number),
            title: $title,
            page: include_str!(concat!("../codes/FS", $number, ".md")),
        },)*];
    };
}

pages! {
    4001 "The extents of a disk cannot be true",
    4002 "A disk shrank",
    4003 "A machine is missing",
    4004 "The group was failed over",
    4005 "The journal of captures cannot be used",
    4006 "The group is being replicated by another process",
    4007 "Stopped on request",
}
