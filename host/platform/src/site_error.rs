//! How a site fails.

use farshore_core::{Code, Coded, SiteName};
use farshore_plugin::CallError;

use crate::TransportError;

/// A site's failure. The sentences come from the adapter, and name the thing.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// The operator's settings cannot work.
    #[error("the settings of site {site:?} cannot work: {message}", site = site.as_str())]
    Settings {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// What was asked about does not exist.
    #[error("site {site:?} does not have it: {message}", site = site.as_str())]
    NotFound {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// The platform does not answer.
    #[error("site {site:?} does not answer: {message}", site = site.as_str())]
    Unreachable {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// Something that is not Farshore's stands in the way.
    #[error("something else stands in the way at site {site:?}: {message}", site = site.as_str())]
    Conflict {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// A capture no longer holds its instant.
    #[error("a capture at site {site:?} broke: {message}", site = site.as_str())]
    CaptureBroken {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// The platform can never do this.
    #[error("site {site:?} cannot do this: {message}", site = site.as_str())]
    Unsupported {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// Anything else that the adapter said.
    #[error("site {site:?} failed: {message}", site = site.as_str())]
    Failed {
        /// The site.
        site: SiteName,
        /// The adapter's sentence.
        message: String,
    },
    /// The adapter told something that cannot be true.
    #[error("the adapter of site {site:?} told something that cannot be true: {what}", site = site.as_str())]
    Nonsense {
        /// The site.
        site: SiteName,
        /// What it told.
        what: String,
    },
    /// The component's call did not come to an answer.
    #[error("a call of the adapter of site {site:?} did not come to an answer", site = site.as_str())]
    Call {
        /// The site.
        site: SiteName,
        /// How it ended.
        source: Box<CallError>,
    },
    /// The way to a disk's bytes failed.
    #[error("the bytes of a disk at site {site:?} could not be reached", site = site.as_str())]
    Transport {
        /// The site.
        site: SiteName,
        /// What failed.
        source: TransportError,
    },
}

impl SiteError {
    /// It may go away by itself: worth another try after a pause.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::CaptureBroken { .. } | Self::Transport { .. } | Self::Failed { .. }
        )
    }
}

impl Coded for SiteError {
    fn code(&self) -> Code {
        match self {
            Self::Settings { .. } => Code::new(3001),
            Self::NotFound { .. } => Code::new(3002),
            Self::Unreachable { .. } => Code::new(3003),
            Self::Conflict { .. } => Code::new(3004),
            Self::CaptureBroken { .. } => Code::new(3005),
            Self::Unsupported { .. } => Code::new(3006),
            Self::Failed { .. } => Code::new(3007),
            Self::Nonsense { .. } => Code::new(3008),
            Self::Call { source, .. } => source.code(),
            Self::Transport { source, .. } => source.code(),
        }
    }

    fn advice(&self) -> Option<String> {
        match self {
            Self::Call { source, .. } => source.advice(),
            Self::Transport { source, .. } => source.advice(),
            _ => None,
        }
    }
}
