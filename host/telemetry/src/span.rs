//! What was done, once it is known.

use farshore_core::Timestamp;

/// Something that was done, with all that was done for it. One without a parent makes a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What was done: one of few names, whatever it was done to.
    pub name: &'static str,
    /// When it began.
    pub begun: Timestamp,
    /// When it ended; not before it began.
    pub ended: Timestamp,
    /// What is known of it, by names of OpenTelemetry's semantic conventions or that begin with `farshore.`.
    pub attributes: Vec<Attribute>,
    /// How it ended.
    pub outcome: Outcome,
    /// What happened in it.
    pub events: Vec<SpanEvent>,
    /// What was done for it.
    pub children: Vec<Self>,
}

/// The name of something that is known, and what is known.
pub type Attribute = (&'static str, Value);

/// What is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// Whether it is so.
    Boolean(bool),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u64> for Value {
    /// OpenTelemetry has signed numbers only; what is larger becomes the largest.
    fn from(number: u64) -> Self {
        Self::Integer(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

/// How something ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    #[default]
    Ok,
    /// Not so.
    Failed {
        /// Why, in a sentence.
        message: String,
    },
}

/// Something that happened at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanEvent {
    /// What happened.
    pub name: &'static str,
    /// When.
    pub at: Timestamp,
    /// What is known of it.
    pub attributes: Vec<Attribute>,
}

impl Span {
    /// One that ended well, and of which nothing else is known yet.
    pub fn new(name: &'static str, begun: Timestamp, ended: Timestamp) -> Self {
        Self { name, begun, ended, attributes: vec![], outcome: Outcome::Ok, events: vec![], children: vec![] }
    }

    /// The same, and this is known of it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// How many spans it is, with all below it.
    pub(crate) fn count(&self) -> usize {
        self.children.iter().map(Self::count).fold(1, usize::saturating_add)
    }
}
