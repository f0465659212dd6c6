//! The HTTP APIs that a site's component may ask in one mode, made of what the configuration grants.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use farshore_core::{Clock, Coded as _, Entropy, SiteName};
use farshore_http::{Endpoint, EndpointGrant, EndpointOptions, KeyError, KeySource, SigV4, SigV4Keys};
use farshore_plugin::{Endpoints, Mode};
use zeroize::Zeroizing;

use crate::config::{
    Configuration, Site,
    model::{Credential, Scheme, SecretPlace},
    places::place,
    problem::Problem,
    secret,
};

/// The endpoints of a mode. Nothing is contacted, and no key is read yet.
///
/// # Errors
/// All that is wrong, each at its place in the configuration.
pub fn of(
    configuration: &Configuration,
    name: &SiteName,
    site: &Site,
    mode: Mode,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Endpoints, Vec<Problem>> {
    let (mut endpoints, mut problems) = (Endpoints::new(), Vec::new());
    for (endpoint, grant) in &site.grants.for_mode(mode).endpoints {
        let options = certificates(configuration, grant).and_then(|certificates| {
            Ok(EndpointOptions {
                name: endpoint.clone(),
                grant: grant.clone(),
                certificates,
                signing: signing(configuration, site, grant)?,
                clock: Arc::clone(clock),
                entropy: Arc::clone(entropy),
            })
        });
        let told = |error: farshore_http::EndpointError| {
            let key = if grant.certificates.is_some() { "certificates" } else { "address" };
            (key, format!("{error} [{}]", error.code()))
        };
        match options.and_then(|options| Endpoint::new(options).map_err(told)) {
            Ok(made) => drop(endpoints.insert(endpoint.clone(), Arc::new(made))),
            Err((key, message)) => {
                let place =
                    place!["sites", name.as_str(), "grants", mode.as_str(), "endpoints", endpoint.as_str(), key];
                problems.push(Problem::error(configuration.places.value(&place), message));
            }
        }
    }
    if problems.is_empty() { Ok(endpoints) } else { Err(problems) }
}

/// What is wrong, with the key at which it stands.
type Wrong = (&'static str, String);

fn certificates(configuration: &Configuration, grant: &EndpointGrant) -> Result<Option<Vec<u8>>, Wrong> {
    let Some(written) = &grant.certificates else { return Ok(None) };
    let path = configuration.path(written);
    let wrong = |why: String| ("certificates", format!("the certificates {} cannot be read: {why}", path.display()));
    secret::read_certificates(&path).map(Some).map_err(|error| wrong(error.to_string()))
}

fn signing(configuration: &Configuration, site: &Site, grant: &EndpointGrant) -> Result<Option<SigV4>, Wrong> {
    let Some(name) = &grant.credential else { return Ok(None) };
    let wrong = |why: String| ("credential", why);
    let credential = site.credentials.get(name);
    let credential = credential.ok_or_else(|| wrong(format!("there is no credential \"{name}\"")))?;
    let service = grant.service.clone();
    let service = service.ok_or_else(|| wrong(format!("it does not say which service \"{name}\" signs for")))?;
    let Credential { scheme: Scheme::Sigv4, region, access_key_id, secret_access_key, session_token } = credential;
    let place = |place: &SecretPlace| match place {
        SecretPlace::File(path) => Place::File(configuration.path(path)),
        SecretPlace::Env(variable) => Place::Variable(variable.clone()),
    };
    let keys = Places {
        access_key_id: place(access_key_id),
        secret_access_key: place(secret_access_key),
        session_token: session_token.as_ref().map(place),
        has_warned: AtomicBool::new(false),
    };
    Ok(Some(SigV4 { region: region.clone(), service, keys: Arc::new(keys) }))
}

/// Where the keys of a credential are found.
struct Places {
    access_key_id: Place,
    secret_access_key: Place,
    session_token: Option<Place>,
    /// Keys are read again and again; what is wrong with their files is said once.
    has_warned: AtomicBool,
}

enum Place {
    File(PathBuf),
    Variable(String),
}

impl Places {
    fn read(&self, place: &Place) -> Result<Zeroizing<String>, KeyError> {
        match place {
            Place::File(path) => {
                let file = secret::read_file(path)?;
                if let Some(warning) = file.warning
                    && !self.has_warned.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!("{warning}");
                }
                Ok(file.secret)
            }
            Place::Variable(name) => Ok(secret::read_variable(name)?),
        }
    }
}

impl KeySource for Places {
    fn keys(&self) -> Result<SigV4Keys, KeyError> {
        Ok(SigV4Keys {
            access_key_id: self.read(&self.access_key_id)?,
            secret_access_key: self.read(&self.secret_access_key)?,
            session_token: self.session_token.as_ref().map(|place| self.read(place)).transpose()?,
        })
    }
}
