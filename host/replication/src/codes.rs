//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS40xx: replication.
    4001 "The extents of a disk cannot be true",
    4002 "A disk shrank",
    4003 "A machine is missing",
    4004 "The group was failed over",
    4005 "The journal of captures cannot be used",
    4006 "The group is being replicated by another process",
    4007 "Stopped on request",
    4008 "The guests were not brought to rest",
    4009 "The recovery point waits at its source's host",
    4010 "The vault did not answer in time",
    4011 "A disk cannot wait at the host",
    4012 "A machine is off and was never described",
    4013 "A machine is not reached by its platform",
    4014 "No recovery point waits at the host",
}
