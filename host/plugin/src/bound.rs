//! A component bound to a site and a mode, and how its functions are called.
//!
//! Each call gets a fresh store and a fresh instance, on the host's own runtime, and both are gone when it ends. A call
//! whose future is dropped is abandoned at its next slice or host function. The number of calls that run at once is
//! limited for each component and for all; further calls wait for their turn, and their deadline counts from then.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use farshore_core::{Clock, EndpointName, Entropy, SiteName};
use farshore_http::Endpoint;
use wasmtime::{Store, component::Instance};

use crate::{
    Call, CallError, Component, Grants, Limits, Mode, Observer, Refusal, Templates,
    abi::PlatformError,
    component::Loaded,
    limits::{BOUNDARY_BYTES_MAX, REFUSALS_MAX, SENTENCE_BYTES_MAX, SLICE_TICKS},
    manifest::Wants,
    state::{CallState, Interruption},
};

/// HTTP APIs that can be asked, by the names that a component knows.
pub type Endpoints = BTreeMap<EndpointName, Arc<Endpoint>>;

/// What a component is bound to.
pub struct Binding {
    /// The site that it serves.
    pub site: SiteName,
    /// What it is instantiated for.
    pub mode: Mode,
    /// The `settings` table of the site, as the component sees it; an object.
    pub settings: serde_json::Value,
    /// The site's grants for this mode.
    pub grants: Grants,
    /// What the endpoints of the grants are, ready to be asked.
    pub endpoints: Endpoints,
    /// The site's program templates for this mode.
    pub programs: Templates,
    /// Who hears what the component says.
    pub observer: Arc<dyn Observer>,
}

/// A component bound to a site and a mode. Cloning it shares everything.
#[derive(Clone)]
pub struct BoundComponent {
    pub(crate) bound: Arc<Bound>,
}

/// What all calls of a bound component share.
pub(crate) struct Bound {
    pub(crate) component: Arc<Loaded>,
    pub(crate) site: SiteName,
    pub(crate) mode: Mode,
    pub(crate) settings_json: String,
    pub(crate) grants: Grants,
    pub(crate) endpoints: Endpoints,
    pub(crate) programs: Templates,
    observer: Arc<dyn Observer>,
    refusals: Mutex<Vec<Refusal>>,
}

impl Bound {
    pub(crate) fn new(component: Arc<Loaded>, binding: Binding, settings_json: String) -> Self {
        let Binding { site, mode, settings: _, grants, endpoints, programs, observer } = binding;
        Self { component, site, mode, settings_json, grants, endpoints, programs, observer, refusals: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.component.manifest.name
    }

    pub(crate) fn wants(&self) -> &Wants {
        self.component.manifest.wants.for_mode(self.mode)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.component.host.clock
    }

    pub(crate) fn entropy(&self) -> &Arc<dyn Entropy> {
        &self.component.host.entropy
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.component.host.limits
    }

    pub(crate) fn observer(&self) -> &dyn Observer {
        &*self.observer
    }

    pub(crate) fn remember(&self, refusal: &Refusal) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() < REFUSALS_MAX && !refusals.contains(refusal) {
            refusals.push(refusal.clone());
        }
    }
}

/// What a call of an exported function gives: the engine's error, the component's, or a result.
pub(crate) type GuestFuture<'a, T> =
    Pin<Box<dyn Future<Output = wasmtime::Result<Result<T, PlatformError>>> + Send + 'a>>;

/// A result of a component's, before and after it is checked.
pub(crate) trait Answer: Send + 'static {
    /// What the caller gets.
    type Checked: Send + 'static;

    /// The result, if it keeps the interface's limits; otherwise what is wrong.
    fn check(self, state: &mut CallState) -> Result<Self::Checked, String>;
}

/// How a call ended, before it is known as which call.
enum Ended<T> {
    Answered(T),
    Failed(PlatformError),
    Refused(Box<Refusal>),
    TimedOut(Option<&'static str>),
    Trapped(String),
    Nonsense(String),
}

impl BoundComponent {
    /// The component's name.
    pub fn component(&self) -> &str {
        self.bound.name()
    }

    /// The site that it serves.
    pub fn site(&self) -> &SiteName {
        &self.bound.site
    }

    /// What it is instantiated for.
    pub fn mode(&self) -> Mode {
        self.bound.mode
    }

    /// The interfaces that the component exports, by their names in WIT.
    pub fn interfaces(&self) -> Vec<&'static str> {
        self.bound.component.exports.names()
    }

    /// What the component wanted and did not get since it was bound, each once, the first 256, for a run's report.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.bound.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long one call can take, from its turn.
    pub fn call_limit(&self) -> Duration {
        self.bound.limits().call()
    }

    fn call_named(&self, function: &'static str) -> Call {
        let bound = &self.bound;
        Call { component: bound.name().to_owned(), site: bound.site.clone(), mode: bound.mode, function }
    }

    /// The error for an interface that the component does not export.
    pub(crate) fn not_exported(&self, function: &'static str, interface: &'static str) -> CallError {
        CallError::NotExported { call: Box::new(self.call_named(function)), interface }
    }

    /// Calls a function in a fresh instance.
    pub(crate) async fn call<A: Answer>(
        &self,
        function: &'static str,
        run: impl for<'a> FnOnce(&'a mut Store<CallState>, &'a Instance) -> GuestFuture<'a, A> + Send + 'static,
    ) -> Result<A::Checked, CallError> {
        let call = Arc::new(self.call_named(function));
        let bound = Arc::clone(&self.bound);
        let task = self.bound.component.host.running.handle().spawn(run_alone(bound, Arc::clone(&call), run));
        let ended = match AbortOnDrop(task).await {
            Ok(ended) => ended,
            Err(error) => Ended::Trapped(format!("the host's own code failed: {error}")),
        };
        let call = Box::new(Call::clone(&call));
        match ended {
            Ended::Answered(answer) => Ok(answer),
            Ended::Failed(error) => Err(CallError::Plugin { call, error }),
            Ended::Refused(refusal) => Err(CallError::Refused { call, refusal }),
            Ended::TimedOut(waiting_for) => {
                Err(CallError::TimedOut { call, limit: self.bound.limits().call(), waiting_for })
            }
            Ended::Trapped(reason) => Err(CallError::Trapped { call, reason }),
            Ended::Nonsense(problem) => Err(CallError::Nonsense { call, problem }),
        }
    }
}

impl Component {
    /// Binds the component to a site and a mode.
    ///
    /// # Errors
    /// When the settings are not an object, or larger than 1 MiB as JSON.
    pub fn bind(&self, binding: Binding) -> Result<BoundComponent, BindError> {
        if !binding.settings.is_object() {
            return Err(BindError::SettingsNotAnObject { site: binding.site });
        }
        let settings_json = binding.settings.to_string();
        if settings_json.len() > crate::limits::LIST_BYTES_MAX {
            return Err(BindError::SettingsTooLarge { site: binding.site });
        }
        Ok(BoundComponent { bound: Arc::new(Bound::new(Arc::clone(&self.loaded), binding, settings_json)) })
    }
}

/// Why a component cannot be bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// The settings are not an object.
    #[error("the settings of the site \"{site}\" are not a table")]
    SettingsNotAnObject {
        /// The site.
        site: SiteName,
    },
    /// The settings are too large.
    #[error("the settings of the site \"{site}\" are larger than 1 MiB")]
    SettingsTooLarge {
        /// The site.
        site: SiteName,
    },
}

impl farshore_core::Coded for BindError {
    fn code(&self) -> farshore_core::Code {
        farshore_core::Code::new(2010)
    }
}

/// A task that ends when nobody waits for it any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, tokio::task::JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One call, from its turn to the end of its store.
async fn run_alone<A: Answer>(
    bound: Arc<Bound>,
    call: Arc<Call>,
    run: impl for<'a> FnOnce(&'a mut Store<CallState>, &'a Instance) -> GuestFuture<'a, A> + Send + 'static,
) -> Ended<A::Checked> {
    let component = Arc::clone(&bound.component);
    // The semaphores are never closed.
    let turns = (component.turns.acquire().await, component.host.turns.acquire().await);
    let clock = Arc::clone(bound.clock());
    let limit = bound.limits().call();
    let mut store = Store::new(component.host.running.engine(), CallState::new(bound, call));
    store.limiter(CallState::limiter);
    store.set_hostcall_fuel(BOUNDARY_BYTES_MAX);
    store.epoch_deadline_callback(|mut context| context.data_mut().slice_ended());
    store.set_epoch_deadline(SLICE_TICKS);
    let result = tokio::select! {
        result = async {
            let instance = component.pre.instantiate_async(&mut store).await?;
            run(&mut store, &instance).await
        } => Some(result),
        () = clock.sleep(limit) => None,
    };
    let ended = match result {
        None => Ended::TimedOut(store.data().waiting_for),
        Some(Err(error)) => interrupted(&error),
        Some(Ok(Err(error))) => match crate::v0_1::check_error(&error) {
            Ok(()) => Ended::Failed(error),
            Err(problem) => Ended::Nonsense(problem),
        },
        Some(Ok(Ok(answer))) => match answer.check(store.data_mut()) {
            Ok(answer) => Ended::Answered(answer),
            Err(problem) => Ended::Nonsense(problem),
        },
    };
    drop(store);
    drop(turns);
    ended
}

fn interrupted<T>(error: &wasmtime::Error) -> Ended<T> {
    match error.downcast_ref::<Interruption>() {
        Some(Interruption::Refused(refusal)) => Ended::Refused(refusal.clone()),
        Some(Interruption::Deadline) => Ended::TimedOut(None),
        None => {
            // The engine's own context is a list of addresses in the guest, which only its author can read.
            tracing::debug!(error = %format_args!("{error:#}"), "a component broke");
            let reason = error.root_cause().to_string();
            Ended::Trapped(reason.chars().take(SENTENCE_BYTES_MAX / 4).collect())
        }
    }
}
