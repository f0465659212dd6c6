//! What one instance has: its handles, its limits, and what the host functions need to judge it.

use std::{future::Future, sync::Arc, time::Duration};

use wasmtime::{
    ResourceLimiter, StoreLimits, StoreLimitsBuilder, UpdateDeadline,
    component::{Resource, ResourceTable},
};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::{
    Call, Refusal,
    bound::Bound,
    judge::Judge,
    limits::{
        HANDLES_MAX, INSTANCE_CORE_INSTANCES_MAX, INSTANCE_MEMORIES_MAX, INSTANCE_TABLE_ELEMENTS_MAX,
        INSTANCE_TABLES_MAX, NUMBER_END, SLICE_TICKS,
    },
    v0_1::host::errors::HostError,
};

/// Why the host ends a component's call from inside it. A component cannot catch these.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Interruption {
    /// It wanted what it may not have.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The deadline passed while guest code was running.
    #[error("the deadline has passed")]
    Deadline,
}

impl From<Refusal> for Interruption {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

/// The data of one store.
pub(crate) struct CallState {
    pub(crate) bound: Arc<Bound>,
    pub(crate) call: Arc<Call>,
    pub(crate) table: ResourceTable,
    /// The host function that the component is in.
    pub(crate) waiting_for: Option<&'static str>,
    pub(crate) connections: usize,
    pub(crate) progress: crate::imports::ProgressWindow,
    /// What `clock.monotonic` counts from.
    pub(crate) clock_base: Duration,
    wasi: WasiCtx,
    limits: MemoryLimits,
    started: Duration,
    slices: u64,
}

/// The limits of one instance. All its memories together may hold what one may.
struct MemoryLimits {
    store: StoreLimits,
    memory_bytes_max: usize,
    memory_bytes: usize,
}

impl ResourceLimiter for MemoryLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            let limit = self.memory_bytes_max >> 20;
            return Err(wasmtime::Error::msg(format!(
                "it asked for more memory than the {limit} MiB that it may have"
            )));
        }
        let allowed = self.store.memory_growing(current, desired, maximum)?;
        if allowed {
            self.memory_bytes = total;
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.store.table_growing(current, desired, maximum)
    }

    fn instances(&self) -> usize {
        self.store.instances()
    }

    fn tables(&self) -> usize {
        self.store.tables()
    }

    fn memories(&self) -> usize {
        self.store.memories()
    }
}

impl CallState {
    pub(crate) fn new(bound: Arc<Bound>, call: Arc<Call>) -> Self {
        let now = bound.clock().monotonic();
        let store = StoreLimitsBuilder::new()
            .table_elements(INSTANCE_TABLE_ELEMENTS_MAX)
            .instances(INSTANCE_CORE_INSTANCES_MAX)
            .memories(INSTANCE_MEMORIES_MAX)
            .tables(INSTANCE_TABLES_MAX)
            .trap_on_grow_failure(true)
            .build();
        let memory_bytes_max = bound.limits().instance_memory_bytes;
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        let wasi = crate::imports::closed_wasi(&bound, &call);
        // The process's own count as long as a double can hold it, for the time that one call may take.
        let counts = now.saturating_add(Duration::from_secs(3_600)).as_nanos() < u128::from(NUMBER_END);
        Self {
            bound,
            call,
            table,
            waiting_for: None,
            connections: 0,
            progress: crate::imports::ProgressWindow::default(),
            clock_base: if counts { Duration::ZERO } else { now },
            wasi,
            limits: MemoryLimits { store, memory_bytes_max, memory_bytes: 0 },
            started: now,
            slices: 0,
        }
    }

    /// What the engine asks before an instance grows.
    pub(crate) fn limiter(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.limits
    }

    /// What happens at the end of each slice of guest code: it gives way, or its time is over. Slices are counted too, so
    /// that a clock that stands still, as a simulator's may, cannot let a guest run for ever.
    pub(crate) fn slice_ended(&mut self) -> wasmtime::Result<UpdateDeadline> {
        self.slices = self.slices.saturating_add(1);
        let limit = self.bound.limits().call();
        let elapsed = self.bound.clock().monotonic().saturating_sub(self.started);
        let run = u128::from(self.slices.saturating_mul(SLICE_TICKS));
        if elapsed >= limit || run >= limit.as_millis() {
            return Err(Interruption::Deadline.into());
        }
        Ok(UpdateDeadline::Yield(SLICE_TICKS))
    }

    /// Does the work of a host function, for as long as host functions may take.
    pub(crate) async fn within<T>(
        &mut self,
        function: &'static str,
        work: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        let limit = self.bound.limits().host_function();
        self.waiting(function, limit, work, || format!("{function} took longer than {} ms", limit.as_millis())).await
    }

    /// Does the work of a host function, for as long as `limit`.
    pub(crate) async fn waiting<T>(
        &mut self,
        function: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T, HostError>>,
        otherwise: impl FnOnce() -> String,
    ) -> Result<T, HostError> {
        let clock = Arc::clone(self.bound.clock());
        // When the whole call ends first this future is dropped, and the name stays for the error's sentence.
        self.waiting_for = Some(function);
        let result = tokio::select! {
            result = work => result,
            () = clock.sleep(limit) => Err(HostError::TimedOut(otherwise())),
        };
        self.waiting_for = None;
        result
    }

    /// Keeps a resource for the component.
    pub(crate) fn push<T: Send + 'static>(&mut self, resource: T) -> Result<Resource<T>, HostError> {
        self.table.push(resource).map_err(|_| {
            HostError::Limit(format!(
                "an instance holds at most {HANDLES_MAX} handles; drop those that are no longer needed"
            ))
        })
    }

    /// Who judges what this call wants.
    pub(crate) fn judge(&self) -> Judge {
        Judge::new(Arc::clone(&self.bound), Arc::clone(&self.call))
    }
}

impl WasiView for CallState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}
