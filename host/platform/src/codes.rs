//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS30xx: sites. FS31xx: transports.
    3001 "The settings of a site cannot work",
    3002 "It does not exist at the site",
    3003 "The site does not answer",
    3004 "Something else stands in the way at the site",
    3005 "A capture broke",
    3006 "The platform cannot do this",
    3007 "The platform failed",
    3008 "An adapter told something that cannot be true",
    3101 "A disk's bytes cannot be opened",
    3102 "The connection to a disk was lost",
    3103 "The server of a disk answered nonsense",
    3104 "A request to a disk failed",
    3105 "A disk cannot do what was asked",
    3106 "A disk has no room left",
}
