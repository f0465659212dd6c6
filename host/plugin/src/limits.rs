//! Every limit of the component host, in one place, with its unit in its name.
//!
//! The limits that a component's author can meet are also written at the item in `wit/`; the two must agree. Only what a
//! test has to shorten can be changed, through [`Limits`].

use std::time::Duration;

/// A component's file. The largest that the toolchains make today is 22 MiB (Python).
pub const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// The manifest in a component.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;
/// Compiled components that the cache folder keeps; the ones written longest ago go first.
pub const CACHE_ENTRIES_MAX: usize = 64;
/// One compiled component. A Python component compiles to 38 MiB.
pub const CACHE_ENTRY_BYTES_MAX: u64 = 512 << 20;

/// Threads that run components.
pub const WORKER_THREADS_MAX: usize = 4;
/// Threads that wait for files and name resolution on behalf of components.
pub const BLOCKING_THREADS_MAX: usize = 16;
/// Calls that run at once, of all components together.
pub const CALLS_AT_ONCE_MAX: usize = 32;
/// Calls of one component that run at once, so that one cannot keep the others out.
pub const CALLS_OF_COMPONENT_AT_ONCE_MAX: usize = 8;

/// The engine's epoch advances this often.
pub const EPOCH_TICK: Duration = Duration::from_millis(1);
/// Guest code gives way to other components after this many ticks.
pub const SLICE_TICKS: u64 = 10;

/// Elements of one table of an instance.
pub const INSTANCE_TABLE_ELEMENTS_MAX: usize = 100_000;
/// Core instances in one component. A Python component has about 25.
pub const INSTANCE_CORE_INSTANCES_MAX: usize = 100;
/// Linear memories in one component; together they may hold as much as each may.
pub const INSTANCE_MEMORIES_MAX: usize = 16;
/// Tables in one component.
pub const INSTANCE_TABLES_MAX: usize = 64;
/// Stack of guest code.
pub const GUEST_STACK_BYTES_MAX: usize = 1 << 20;
/// Stack on which a call runs: the guest's and the host functions'.
pub const CALL_STACK_BYTES: usize = 3 << 20;
/// Bytes that cross the boundary into the host in one function call, arguments or results. A page of machines is the
/// largest thing that does.
pub const BOUNDARY_BYTES_MAX: usize = 16 << 20;
/// Resources of all kinds that one instance holds at once.
pub const HANDLES_MAX: usize = 1_024;
/// Connections that one instance holds at once.
pub const CONNECTIONS_MAX: usize = 64;

/// One list or string, unless its item says less.
pub const LIST_BYTES_MAX: usize = 1 << 20;
/// Sizes and offsets stay below this: JavaScript's numbers are exact to here.
pub const NUMBER_END: u64 = 1 << 53;
/// What a component asks the host to journal.
pub const STATE_BYTES_MAX: usize = 64 << 10;
/// Items of a page of machines, disks, findings or owned things.
pub const PAGE_ITEMS_MAX: usize = 100;
/// Blocks of a page.
pub const PAGE_BLOCKS_MAX: usize = 1_000;
/// Disks of one machine.
pub const MACHINE_DISKS_MAX: usize = 256;
/// Network interfaces of one machine.
pub const MACHINE_NETWORK_INTERFACES_MAX: usize = 64;
/// Properties of one thing.
pub const PROPERTIES_MAX: usize = 64;
/// A property's name.
pub const PROPERTY_NAME_BYTES_MAX: usize = 64;
/// A property's value.
pub const PROPERTY_VALUE_BYTES_MAX: usize = 1_024;
/// What a platform calls a machine, a disk or an interface.
pub const ID_BYTES_MAX: usize = 256;
/// A note or evidence.
pub const NOTE_BYTES_MAX: usize = 1_024;
/// A sentence in an error, a finding or a proof.
pub const SENTENCE_BYTES_MAX: usize = 4 << 10;
/// What is being done, in a few words.
pub const DOING_BYTES_MAX: usize = 200;
/// A change tracking token.
pub const TOKEN_BYTES_MAX: usize = 1_024;
/// A cursor.
pub const CURSOR_BYTES_MAX: usize = 4 << 10;
/// The longest wait that a step may ask for.
pub const POLL_AFTER_MILLISECONDS_MAX: u32 = 60_000;

/// One line of a component's log.
pub const LOG_LINE_BYTES_MAX: usize = 4 << 10;
/// A component's log, in each second.
pub const LOG_BYTES_PER_SECOND_MAX: usize = 64 << 10;
/// Progress reports of one instance, in each second.
pub const PROGRESS_PER_SECOND_MAX: u32 = 10;
/// Refusals that a bound component remembers for the run's report.
pub const REFUSALS_MAX: usize = 256;

/// One `sleep`.
pub const SLEEP_MILLISECONDS_MAX: u32 = 10_000;
/// Entries of one page of a folder.
pub const FOLDER_PAGE_ENTRIES_MAX: usize = 1_000;
/// Entries that the host reads of one folder to make a page; a folder with more cannot be listed.
pub const FOLDER_ENTRIES_MAX: usize = 1_000_000;
/// A path.
pub const PATH_BYTES_MAX: usize = 4_095;
/// A host name.
pub const HOST_NAME_BYTES_MAX: usize = 255;
/// The name of an NBD export, as the protocol has it.
pub const EXPORT_NAME_BYTES_MAX: usize = 4_096;

/// The longest time that a component may give a request to an API. The host's own work is a little more.
pub const HTTP_TIME_MAX: Duration = Duration::from_secs(25);
/// What the host may take beyond a request's own time.
pub const HTTP_GRACE: Duration = Duration::from_secs(1);
/// Words for a throttle in one request.
pub const THROTTLE_WORDS_MAX: usize = 16;
/// One word for a throttle.
pub const THROTTLE_WORD_BYTES_MAX: usize = 128;
/// The sizes of blocks of a disk that is read by requests.
pub const BLOCK_BYTES: std::ops::RangeInclusive<u32> = (4 << 10)..=(1 << 20);

/// The last bytes that are kept of what a program writes, of each of its two streams.
pub const PROGRAM_OUTPUT_BYTES_MAX: usize = 64 << 10;
/// How long the host goes on reading what a program wrote after the program ended, because a child of its may hold the
/// stream open.
pub const PROGRAM_OUTPUT_GRACE: Duration = Duration::from_millis(100);
/// Items of one repetition of a template.
pub const REPETITION_ITEMS_MAX: usize = 256;
/// Slots in one list.
pub const SLOTS_MAX: usize = 256;
/// Arguments of a program after all slots are filled.
pub const PROGRAM_ARGUMENTS_MAX: usize = 8_192;
/// The longest time that a template may give its program.
pub const PROGRAM_TIME_MAX: Duration = Duration::from_secs(30);

/// The limits that a test or a simulation may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// One call of a component, from its start to its result.
    pub call_milliseconds: u64,
    /// One host function, unless it has an allowance of its own (`read`, `sleep`, `run`).
    pub host_function_milliseconds: u64,
    /// The memory of one instance.
    pub instance_memory_bytes: usize,
}

impl Default for Limits {
    /// What `wit/` promises: 30 s a call. Python and JavaScript need 16 to 64 MiB.
    fn default() -> Self {
        Self { call_milliseconds: 30_000, host_function_milliseconds: 10_000, instance_memory_bytes: 128 << 20 }
    }
}

impl Limits {
    /// One call of a component.
    pub const fn call(&self) -> Duration {
        Duration::from_millis(self.call_milliseconds)
    }

    /// One host function.
    pub const fn host_function(&self) -> Duration {
        Duration::from_millis(self.host_function_milliseconds)
    }
}
