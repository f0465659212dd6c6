//! How a call fails.

/// What the caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// HTTP's.
    pub status: u16,
    /// The API's.
    pub code: String,
    /// For people.
    pub message: String,
    /// EBS direct says more exactly why.
    pub reason: Option<&'static str>,
}

impl Failure {
    /// One of this status and code.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self { status, code: code.to_owned(), message: message.into(), reason: None }
    }

    /// A parameter that cannot be.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameterValue", message)
    }

    /// A thing that is not there: `InvalidSnapshot.NotFound`.
    pub fn not_found(kind: &str, id: &str) -> Self {
        Self::new(400, &format!("Invalid{kind}.NotFound"), format!("The ID '{id}' does not exist"))
    }

    /// The twin itself is wrong.
    pub fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("{error:#}"))
    }
}
