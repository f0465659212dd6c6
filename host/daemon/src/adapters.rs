//! The components that serve the sites: which bytes they are, whether they are the ones that the operator named, and
//! whether they take the site's settings.
//!
//! A site is opened for one mode at a time, with that mode's settings, grants and programs and no others.

use std::{collections::BTreeMap, io::Read as _, path::Path, sync::Arc};

use farshore_core::{Clock, Coded as _, Entropy, SiteName};
use farshore_platform::{ComponentSite, SiteError};
use farshore_plugin::{
    Binding, Call, Component, Digest, Endpoints, Grants, HostOptions, LogLevel, LogObserver, Mode, Observer,
    PluginHost, Progress, Refusal, Templates, abi::Description, limits,
};

use crate::{
    config::{
        Configuration, Site, model::Adapter, places::place, problem::Problem, reach::drill_reaches,
        settings::check_settings,
    },
    context::Context,
    endpoints,
    error::CliError,
    output::{Failure, Output, Repeats},
};

/// The components that are embedded in this binary, by their names.
static EMBEDDED: [(&str, &[u8]); 2] = [
    (EMBEDDED_NAMES[0], include_bytes!("../../../target/components/aws.wasm")),
    (EMBEDDED_NAMES[1], include_bytes!("../../../target/components/qemu.wasm")),
];

/// The names of the components that are embedded in this binary.
pub const EMBEDDED_NAMES: [&str; 2] = ["aws", "qemu"];

/// The component host with the adapters of a configuration.
pub struct Adapters {
    host: PluginHost,
    output: Output,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    loaded: BTreeMap<SiteName, Loaded>,
    /// Made once for each mode of a site: how fast an API may be asked holds for all groups together.
    endpoints: BTreeMap<(SiteName, Mode), Endpoints>,
}

/// A site's adapter, loaded.
pub struct Loaded {
    /// The component.
    pub component: Component,
    /// What it says of itself.
    pub description: Description,
}

impl Adapters {
    /// Starts the component host. No component is loaded yet.
    ///
    /// # Errors
    /// When the machine cannot run components, or the cache folder cannot be made.
    pub fn new(context: &Context, configuration: &Configuration) -> Result<Self, Failure> {
        let folder = configuration.path(&configuration.host.cache_folder);
        std::fs::create_dir_all(&folder).map_err(|source| CliError::Folder {
            what: "cache folder",
            path: folder.clone(),
            source,
        })?;
        let mut options = HostOptions::new(folder.join("components"));
        options.clock = Arc::clone(&context.clock);
        options.entropy = Arc::clone(&context.entropy);
        Ok(Self {
            host: PluginHost::new(options)?,
            output: context.output,
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            loaded: BTreeMap::new(),
            endpoints: BTreeMap::new(),
        })
    }

    /// Loads a site's adapter and checks the site's settings against its schema. Contacts no platform.
    ///
    /// # Errors
    /// All that is wrong, each at its place in the configuration.
    pub async fn load(
        &mut self,
        configuration: &Configuration,
        name: &SiteName,
        site: &Site,
    ) -> Result<&Loaded, Vec<Problem>> {
        let at = |key: &str| place!["sites", name.as_str(), key];
        let adapter_problem = |message: String, hint: Option<String>| {
            let problem = Problem::error(configuration.places.value(&at("adapter")), message);
            vec![match hint {
                Some(hint) => problem.hint(hint),
                None => problem,
            }]
        };
        let bytes = component_bytes(configuration, &site.adapter).map_err(|wrong| adapter_problem(wrong.0, wrong.1))?;
        let component = self.host.load(bytes).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            adapter_problem(format!("the adapter cannot be used [{}]: {error}{cause}", error.code()), error.advice())
        })?;
        let description = self.describe(name, &component).await.map_err(|error| {
            adapter_problem(format!("the adapter does not say what it is [{}]: {error}", error.code()), error.advice())
        })?;
        let problems = settings_problems(configuration, name, site, &description);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(self.loaded.entry(name.clone()).insert_entry(Loaded { component, description }).into_mut())
    }

    async fn describe(&self, name: &SiteName, component: &Component) -> Result<Description, SiteError> {
        let nothing = Binding {
            site: name.clone(),
            mode: Mode::Observe,
            settings: serde_json::json!({}),
            grants: Grants::default(),
            endpoints: Endpoints::new(),
            programs: Templates::new(),
            observer: Arc::new(LogObserver),
        };
        let failed = |message: String| SiteError::Failed { site: name.clone(), message };
        let bound = component.bind(nothing).map_err(|error| failed(error.to_string()))?;
        ComponentSite::new(name.clone(), bound, Arc::clone(&self.clock)).describe().await
    }

    /// The HTTP APIs that a site's adapter may ask in a mode. Contacts none of them.
    ///
    /// # Errors
    /// All that is wrong with them, each at its place in the configuration.
    pub fn endpoints(
        &mut self,
        configuration: &Configuration,
        name: &SiteName,
        site: &Site,
        mode: Mode,
    ) -> Result<Endpoints, Vec<Problem>> {
        let key = (name.clone(), mode);
        if let Some(made) = self.endpoints.get(&key) {
            return Ok(made.clone());
        }
        let made = endpoints::of(configuration, name, site, mode, &self.clock, &self.entropy)?;
        Ok(self.endpoints.entry(key).or_insert(made).clone())
    }

    /// Opens a site for one mode.
    ///
    /// # Errors
    /// When the site's adapter or settings cannot be used.
    pub async fn open(
        &mut self,
        configuration: &Configuration,
        name: &SiteName,
        mode: Mode,
    ) -> Result<Arc<ComponentSite>, Failure> {
        let site = configuration.site(name)?;
        if !self.loaded.contains_key(name) {
            self.load(configuration, name, site).await.map_err(|problems| configuration.refuse(problems))?;
        }
        let endpoints = self.endpoints(configuration, name, site, mode);
        let endpoints = endpoints.map_err(|problems| configuration.refuse(problems))?;
        let Some(loaded) = self.loaded.get(name) else {
            unreachable!("the site's adapter has just been loaded");
        };
        if mode == Mode::Drill {
            // `config check` says the same with the lines, but nobody has to run it before a drill.
            drill_reaches(name, &configuration.sites).iter().for_each(|shared| self.output.warn(&shared.to_string()));
        }
        let binding = Binding {
            site: name.clone(),
            mode,
            settings: serde_json::Value::Object(site.settings_for(mode)),
            grants: site.grants.for_mode(mode).clone(),
            endpoints,
            programs: site.programs.for_mode(mode).clone(),
            observer: Arc::new(Heard::new(name, self.output, &self.clock)),
        };
        let bound = loaded.component.bind(binding)?;
        Ok(Arc::new(ComponentSite::new(name.clone(), bound, Arc::clone(&self.clock))))
    }
}

/// Shows a component's warnings to the operator, each once in a while; what else it says goes to the log.
struct Heard {
    site: SiteName,
    output: Output,
    clock: Arc<dyn Clock>,
    said: Repeats,
}

impl Heard {
    fn new(site: &SiteName, output: Output, clock: &Arc<dyn Clock>) -> Self {
        Self { site: site.clone(), output, clock: Arc::clone(clock), said: Repeats::default() }
    }
}

impl Observer for Heard {
    fn log(&self, call: &Call, level: LogLevel, line: &str) {
        match level {
            LogLevel::Warn if !self.said.is_new(line, self.clock.monotonic()) => {}
            LogLevel::Warn => self.output.warn(&format!("site {}: {line}", self.site)),
            LogLevel::Info | LogLevel::Debug => LogObserver.log(call, level, line),
        }
    }

    fn progress(&self, call: &Call, progress: &Progress) {
        LogObserver.progress(call, progress);
    }

    fn refused(&self, _: &Call, refusal: &Refusal) {
        // The call ends with it, and the error says it in full.
        tracing::debug!("{refusal}");
    }
}

/// A sentence and a hint.
pub struct Wrong(pub String, pub Option<String>);

/// The bytes of an adapter's component, which have the digest that the operator named.
///
/// # Errors
/// The file cannot be read, or has another digest.
pub fn component_bytes(configuration: &Configuration, adapter: &Adapter) -> Result<Vec<u8>, Wrong> {
    match adapter {
        Adapter::Embedded(name) => match EMBEDDED.iter().find(|(known, _)| known == name) {
            Some((_, bytes)) => Ok(bytes.to_vec()),
            None => Err(Wrong(format!("there is no embedded adapter {name:?}"), None)),
        },
        Adapter::File(file) => {
            let path = configuration.path(&file.path);
            let bytes = read_component(&path)
                .map_err(|error| Wrong(format!("the adapter {} cannot be read: {error}", path.display()), None))?;
            let found = Digest::of(&bytes).to_string();
            let wanted = file.digest.as_str();
            if found == wanted {
                return Ok(bytes);
            }
            let message = format!("{} has the digest {found}, not {wanted}", path.display());
            let hint = "somebody replaced the file; if it was you, and you trust it, write its digest here";
            Err(Wrong(message, Some(hint.to_owned())))
        }
    }
}

fn read_component(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the component host sees that it is too large and says so.
    std::fs::File::open(path)?.take(limits::COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn settings_problems(
    configuration: &Configuration,
    name: &SiteName,
    site: &Site,
    description: &Description,
) -> Vec<Problem> {
    let wrong_schema = |why: String| {
        vec![Problem::error(
            configuration.places.value(&place!["sites", name.as_str(), "settings"]),
            format!("the adapter {} {} is broken: {why}", description.name, description.version),
        )]
    };
    let schema = match serde_json::from_str(&description.settings_schema) {
        Ok(schema) => schema,
        Err(error) => return wrong_schema(format!("its settings schema is not JSON: {error}")),
    };
    check_settings(&schema, name, site, &configuration.places).unwrap_or_else(|error| wrong_schema(error.to_string()))
}
