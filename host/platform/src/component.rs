//! A site whose adapter is a sandboxed component.
//!
//! Each method is one call of the component (or one for each page), on a fresh instance. Errors of the component keep their
//! kind; a call that came to no answer keeps how it ended; data that cannot be true goes no further than here. The
//! transports that the component hands over as plain data are opened here.

use std::sync::Arc;

use farshore_core::{Clock, Disk, Machine, MachineId, OwnerTag, SiteName};
use farshore_plugin::{BoundComponent, CallError, TransportGrant, abi};

use crate::{
    AdapterState, CaptureOutcome, CaptureReport, CaptureRequest, CapturedDisk, Changes, DiskRequest, DiskTransport,
    Finding, MachineRequest, Owned, OwnedKind, Readiness, SiteError, Source, Step, StopManner, Target, WrittenBlocks,
    blocks::{ALLOCATED_BLOCKS, BlockDisk, BlockLister, BlockPage, BlockSet, CHANGED_BLOCKS, ListedBlock},
    convert,
    file::{FileDisk, FileOptions},
    nbd::{NbdAddress, NbdDisk, NbdEndpoint, NbdOptions},
};

/// A component may go on with pages for so long, and no longer.
const PAGES_MAX: usize = 10_000;

/// A site whose adapter is a component, bound to one mode.
pub struct ComponentSite {
    site: SiteName,
    component: BoundComponent,
    clock: Arc<dyn Clock>,
}

/// A captured disk whose blocks its adapter lists.
struct CapturedBlocks {
    site: SiteName,
    component: BoundComponent,
    state: AdapterState,
    machine: String,
    disk: String,
}

#[async_trait::async_trait]
impl BlockLister for CapturedBlocks {
    async fn page(&self, set: BlockSet, offset: u64) -> Result<BlockPage, SiteError> {
        let set = match set {
            BlockSet::Changed => abi::BlockSet::Changed,
            BlockSet::Allocated => abi::BlockSet::Allocated,
        };
        let (state, machine, disk) = (self.state.0.clone(), self.machine.clone(), self.disk.clone());
        let page = self.component.list_blocks(state, machine, disk, set, offset).await;
        let page = page.map_err(|error| site_error(&self.site, error))?;
        let block = |block: abi::Block| ListedBlock { index: block.index, key: block.key };
        Ok(BlockPage { blocks: page.blocks.into_iter().map(block).collect(), told_to: page.told_to })
    }
}

impl ComponentSite {
    /// The site of this name with its bound component.
    pub fn new(site: SiteName, component: BoundComponent, clock: Arc<dyn Clock>) -> Self {
        Self { site, component, clock }
    }

    /// What the component says of itself.
    ///
    /// # Errors
    /// See [`SiteError`].
    pub async fn describe(&self) -> Result<abi::Description, SiteError> {
        self.component.describe().await.map_err(|error| self.call_error(error))
    }

    fn call_error(&self, error: CallError) -> SiteError {
        site_error(&self.site, error)
    }

    fn nonsense(&self, what: impl Into<String>) -> SiteError {
        SiteError::Nonsense { site: self.site.clone(), what: what.into() }
    }

    /// Collects pages until there is no next one.
    async fn pages<T, P, F>(&self, what: &str, mut page: impl FnMut(Option<String>) -> F) -> Result<Vec<T>, SiteError>
    where
        F: Future<Output = Result<P, CallError>>,
        P: Page<T>,
    {
        let mut items = Vec::new();
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let (more, next) = page(cursor.clone()).await.map_err(|error| self.call_error(error))?.into_parts();
            items.extend(more);
            match next {
                None => return Ok(items),
                Some(next) if Some(&next) == cursor.as_ref() => {
                    return Err(self.nonsense(format!("the next page of {what} is the page itself")));
                }
                Some(next) => cursor = Some(next),
            }
        }
        Err(self.nonsense(format!("{what} have more than {PAGES_MAX} pages")))
    }

    async fn owned_items(&self, kind: OwnedKind, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        let owner = owner.to_string();
        let ask = |cursor| self.component.list_owned(convert::owned_kind(kind), owner.clone(), cursor);
        let items = self.pages("owned things", ask).await?;
        let items: Vec<Owned> = items.into_iter().map(convert::owned).collect();
        match items.iter().find(|item| item.owner != owner || item.kind != kind) {
            Some(Owned { description, kind: other, owner: whose, .. }) => Err(self.nonsense(format!(
                "{description} is a {other} of the owner {whose}, not a {kind} of the owner {owner}"
            ))),
            None => Ok(items),
        }
    }

    async fn release_item(&self, item: &Owned) -> Result<(), SiteError> {
        let released = self.component.release_owned(convert::owned_to_wit(item)).await;
        released.map(drop).map_err(|error| self.call_error(error))
    }

    async fn open(
        &self,
        grant: TransportGrant,
        contexts: Vec<String>,
        lister: Option<Arc<dyn BlockLister>>,
        size_bytes: u64,
    ) -> Result<Arc<dyn DiskTransport>, SiteError> {
        let failed = |source| SiteError::Transport { site: self.site.clone(), source };
        let is_of_blocks = matches!(grant, TransportGrant::Blocks { .. });
        let told_by_listing = |context: &&String| [CHANGED_BLOCKS, ALLOCATED_BLOCKS].contains(&context.as_str());
        if let Some(context) = contexts.iter().find(|context| told_by_listing(context) != is_of_blocks) {
            let what = match is_of_blocks {
                true => format!("a transport of blocks has no block-status context {context}; its blocks are `listed`"),
                false => "the blocks of a disk are `listed`, but its transport is not one of blocks".to_owned(),
            };
            return Err(self.nonsense(what));
        }
        let transport: Arc<dyn DiskTransport> = match grant {
            TransportGrant::Nbd { address, export, read_only } => {
                let address = match address {
                    farshore_plugin::NbdAddress::Unix(path) => NbdAddress::Unix(path),
                    farshore_plugin::NbdAddress::Tcp(address) => {
                        NbdAddress::Tcp { host: address.host().to_owned(), port: address.port() }
                    }
                };
                let endpoint = NbdEndpoint { address, export, read_only, contexts };
                let disk = NbdDisk::connect(endpoint, NbdOptions::default(), Arc::clone(&self.clock)).await;
                Arc::new(disk.map_err(failed)?)
            }
            TransportGrant::File { path, read_only } => {
                Arc::new(FileDisk::open(&path, read_only, FileOptions::default()).await.map_err(failed)?)
            }
            TransportGrant::Blocks { endpoint, words } => Arc::new(BlockDisk::new(endpoint, words, lister)),
        };
        if transport.size_bytes() != size_bytes {
            let has = transport.size_bytes();
            // It is not used, whatever it answers to the goodbye.
            let _ = transport.close().await;
            return Err(self.nonsense(format!("a disk of {size_bytes} bytes is {has} bytes behind its transport")));
        }
        Ok(transport)
    }
}

/// An error of a component's call, as the site's.
fn site_error(site: &SiteName, error: CallError) -> SiteError {
    let site = site.clone();
    match error.platform_error().cloned() {
        Some(abi::PlatformError::Settings(message)) => SiteError::Settings { site, message },
        Some(abi::PlatformError::NotFound(message)) => SiteError::NotFound { site, message },
        Some(abi::PlatformError::Unreachable(message)) => SiteError::Unreachable { site, message },
        Some(abi::PlatformError::Conflict(message)) => SiteError::Conflict { site, message },
        Some(abi::PlatformError::CaptureBroken(message)) => SiteError::CaptureBroken { site, message },
        Some(abi::PlatformError::Unsupported(message)) => SiteError::Unsupported { site, message },
        Some(abi::PlatformError::Failed(message)) => SiteError::Failed { site, message },
        None => SiteError::Call { site, source: Box::new(error) },
    }
}

/// A page of a list.
trait Page<T> {
    fn into_parts(self) -> (Vec<T>, Option<String>);
}

macro_rules! page {
    ($page:ident, $item:ident, $field:ident) => {
        impl Page<abi::$item> for abi::$page {
            fn into_parts(self) -> (Vec<abi::$item>, Option<String>) {
                (self.$field, self.next)
            }
        }
    };
}

page!(MachinePage, Machine, machines);
page!(CapturedDiskPage, CapturedDisk, disks);
page!(FindingPage, Finding, findings);
page!(OwnedPage, Owned, items);

#[async_trait::async_trait]
impl Source for ComponentSite {
    fn site(&self) -> &SiteName {
        &self.site
    }

    async fn machines(&self) -> Result<Vec<Machine>, SiteError> {
        let machines = self.pages("machines", |cursor| self.component.list_machines(cursor)).await?;
        let machines: Result<Vec<Machine>, _> = machines.into_iter().map(convert::machine).collect();
        let machines = machines.map_err(|what| self.nonsense(what))?;
        let mut seen = std::collections::BTreeSet::new();
        match machines.iter().find(|machine| !seen.insert(&machine.id)) {
            Some(twice) => Err(self.nonsense(format!("machine {} is listed twice", twice.id))),
            None => Ok(machines),
        }
    }

    async fn begin_capture(&self, request: &CaptureRequest) -> Result<Step<CaptureReport>, SiteError> {
        let step = self.component.begin_capture(convert::capture_request(request)).await;
        step.map(convert::capture_step).map_err(|error| self.call_error(error))
    }

    async fn continue_capture(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Step<CaptureReport>, SiteError> {
        let step = self.component.continue_capture(convert::capture_request(request), state.0.clone()).await;
        step.map(convert::capture_step).map_err(|error| self.call_error(error))
    }

    async fn captured_disks(
        &self,
        request: &CaptureRequest,
        state: &AdapterState,
    ) -> Result<Vec<CapturedDisk>, SiteError> {
        let list = |cursor| self.component.list_disks(state.0.clone(), cursor);
        let disks = self.pages("captured disks", list).await?;
        convert::captured_disks(request, disks).map_err(|what| self.nonsense(what))
    }

    async fn open_captured_disk(
        &self,
        state: &AdapterState,
        disk: &CapturedDisk,
    ) -> Result<Arc<dyn DiskTransport>, SiteError> {
        let (machine, name) = (disk.machine.to_string(), disk.disk.to_string());
        let grant = self.component.open_captured_disk(state.0.clone(), machine, name).await;
        let grant = grant.map_err(|error| self.call_error(error))?;
        let mut contexts = Vec::new();
        if let Changes::Context(context) = &disk.changes {
            contexts.push(context.clone());
        }
        contexts.extend(disk.allocation_context.clone());
        let lister: Arc<dyn BlockLister> = Arc::new(CapturedBlocks {
            site: self.site.clone(),
            component: self.component.clone(),
            state: state.clone(),
            machine: disk.machine.to_string(),
            disk: disk.disk.to_string(),
        });
        self.open(grant, contexts, Some(lister), disk.size_bytes).await
    }

    async fn verify_capture(&self, state: &AdapterState) -> Result<(), SiteError> {
        self.component.verify_capture(state.0.clone()).await.map(drop).map_err(|error| self.call_error(error))
    }

    async fn end_capture(&self, state: &AdapterState, outcome: CaptureOutcome) -> Result<String, SiteError> {
        let outcome = match outcome {
            CaptureOutcome::Committed => abi::CaptureOutcome::Committed,
            CaptureOutcome::Abandoned => abi::CaptureOutcome::Abandoned,
        };
        let ended = self.component.end_capture(state.0.clone(), outcome).await;
        ended.map(|end| end.note).map_err(|error| self.call_error(error))
    }

    async fn stop_machine(&self, machine: &MachineId, manner: StopManner) -> Result<Step<String>, SiteError> {
        let step = self.component.stop_protected_machine(machine.to_string(), power_manner(manner)).await;
        step.map(convert::power_step).map_err(|error| self.call_error(error))
    }

    async fn continue_stop(
        &self,
        machine: &MachineId,
        manner: StopManner,
        state: &AdapterState,
    ) -> Result<Step<String>, SiteError> {
        let step = self.component.continue_stop(machine.to_string(), power_manner(manner), state.0.clone()).await;
        step.map(convert::power_step).map_err(|error| self.call_error(error))
    }

    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        self.owned_items(OwnedKind::Capture, owner).await
    }

    async fn release(&self, item: &Owned) -> Result<(), SiteError> {
        self.release_item(item).await
    }
}

#[async_trait::async_trait]
impl Target for ComponentSite {
    fn site(&self) -> &SiteName {
        &self.site
    }

    async fn check_machine(&self, machine: &Machine) -> Result<Vec<Finding>, SiteError> {
        let check = |cursor| self.component.check_machine(convert::machine_to_wit(machine), cursor);
        let findings = self.pages("findings", check).await?;
        Ok(findings
            .into_iter()
            .map(|finding: abi::Finding| Finding { blocking: finding.blocking, problem: finding.problem })
            .collect())
    }

    async fn begin_disk(&self, request: &DiskRequest) -> Result<Step<String>, SiteError> {
        let step = self.component.begin_disk(convert::disk_request(request)).await;
        step.map(convert::disk_step).map_err(|error| self.call_error(error))
    }

    fn begins_from_sealed(&self) -> bool {
        self.component.interfaces().contains(&"sealed-disks")
    }

    async fn begin_disk_from(&self, request: &DiskRequest, base: &AdapterState) -> Result<Step<String>, SiteError> {
        let step = self.component.begin_disk_from(convert::disk_request(request), base.0.clone()).await;
        step.map(convert::disk_step).map_err(|error| self.call_error(error))
    }

    async fn open_disk(&self, state: &AdapterState, disk: &Disk) -> Result<Arc<dyn DiskTransport>, SiteError> {
        let grant = self.component.open_target_disk(state.0.clone()).await.map_err(|error| self.call_error(error))?;
        self.open(grant, Vec::new(), None, disk.size_bytes).await
    }

    async fn seal_disk(
        &self,
        state: &AdapterState,
        written: Option<&WrittenBlocks>,
    ) -> Result<Step<String>, SiteError> {
        let written = written
            .map(|WrittenBlocks { count, checksum }| abi::WrittenBlocks { count: *count, checksum: checksum.clone() });
        let step = self.component.seal_disk(state.0.clone(), written).await;
        step.map(convert::disk_step).map_err(|error| self.call_error(error))
    }

    async fn continue_disk(&self, state: &AdapterState) -> Result<Step<String>, SiteError> {
        let step = self.component.continue_disk(state.0.clone()).await;
        step.map(convert::disk_step).map_err(|error| self.call_error(error))
    }

    async fn discard_disk(&self, state: &AdapterState) -> Result<(), SiteError> {
        self.component.discard_disk(state.0.clone()).await.map(drop).map_err(|error| self.call_error(error))
    }

    async fn define_machine(&self, request: &MachineRequest) -> Result<Step<String>, SiteError> {
        let request = abi::MachineRequest {
            id: request.id.clone(),
            owner: request.owner.clone(),
            run: request.run.to_string(),
            machine: convert::machine_to_wit(&request.machine),
            disks: request.disks.iter().map(|state| state.0.clone()).collect(),
        };
        self.component.define_machine(request).await.map(convert::machine_step).map_err(|error| self.call_error(error))
    }

    async fn start_machine(&self, state: &AdapterState) -> Result<Step<String>, SiteError> {
        let step = self.component.start_machine(state.0.clone()).await;
        step.map(convert::machine_step).map_err(|error| self.call_error(error))
    }

    async fn stop_machine(&self, state: &AdapterState, manner: StopManner) -> Result<Step<String>, SiteError> {
        let manner = match manner {
            StopManner::Graceful => abi::MachineManner::Graceful,
            StopManner::Forced => abi::MachineManner::Forced,
        };
        let step = self.component.stop_machine(state.0.clone(), manner).await;
        step.map(convert::machine_step).map_err(|error| self.call_error(error))
    }

    async fn continue_machine(&self, state: &AdapterState) -> Result<Step<String>, SiteError> {
        let step = self.component.continue_machine(state.0.clone()).await;
        step.map(convert::machine_step).map_err(|error| self.call_error(error))
    }

    async fn readiness(&self, state: &AdapterState) -> Result<Readiness, SiteError> {
        let readiness = self.component.check_readiness(state.0.clone()).await;
        readiness.map(convert::readiness).map_err(|error| self.call_error(error))
    }

    async fn remove_machine(&self, state: &AdapterState) -> Result<(), SiteError> {
        self.component.remove_machine(state.0.clone()).await.map(drop).map_err(|error| self.call_error(error))
    }

    async fn owned(&self, owner: &OwnerTag) -> Result<Vec<Owned>, SiteError> {
        // Machines first: what is released in this order takes its disks with it.
        let mut items = self.owned_items(OwnedKind::Machine, owner).await?;
        items.extend(self.owned_items(OwnedKind::Disk, owner).await?);
        Ok(items)
    }

    async fn release(&self, item: &Owned) -> Result<(), SiteError> {
        self.release_item(item).await
    }

    fn refusals(&self) -> Vec<String> {
        self.component.refusals().iter().map(ToString::to_string).collect()
    }
}

const fn power_manner(manner: StopManner) -> abi::PowerManner {
    match manner {
        StopManner::Graceful => abi::PowerManner::Graceful,
        StopManner::Forced => abi::PowerManner::Forced,
    }
}
