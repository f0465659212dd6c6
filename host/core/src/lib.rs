//! The words every crate shares: ids, names, extents, sequences, generations, clock, hours, rates, entropy, secrets, error codes.
//!
//! It must not know what a vault, a component or a platform is. It is the only crate that reads the machine's clock and
//! randomness, so that a simulator can replace both.

pub mod clock;
pub mod code;
pub mod entropy;
pub mod extent;
pub mod hours;
pub mod id;
pub mod machine;
pub mod name;
pub mod secret;
pub mod throttle;

pub use clock::{Clock, SystemClock, Timestamp};
pub use code::{Code, CodePage, Coded};
pub use entropy::{Entropy, SeededEntropy, SystemEntropy};
pub use extent::{CHUNK_BYTES, Extent, ExtentError, ExtentSequence};
pub use hours::{Hours, Timetable, Zone};
pub use id::{
    AddressId, CaptureId, Epoch, Generation, HostId, IdError, LineageId, PackId, RunId, Sequence, SessionId, SlotId,
    VaultId,
};
pub use machine::{Basis, Consistency, Disk, Firmware, Instant, Machine, NetworkInterface, PowerState};
pub use name::{
    AlertName, CredentialName, DiskId, EndpointName, GroupName, HostName, MachineId, NameError, OwnerTag, PointLabel,
    SiteName,
};
pub use secret::{Passphrase, SecretBytes};
pub use throttle::{Limit, Limits, Rate, Throttle};
