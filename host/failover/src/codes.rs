//! The pages of this crate's errors.

farshore_core::code_pages! {
    /// FS50xx: failover.
    5001 "A restored file cannot be made",
    5002 "There is no recovery point",
    5003 "The point does not have the machine",
    5004 "The target cannot run a machine",
    5005 "Nothing proves that the source is off",
    5006 "The platform did not finish in time",
    5007 "A run's journal cannot be read",
    5008 "Another run of the group is being executed",
    5009 "Stopped on request",
    5010 "The machines were failed over already",
}
