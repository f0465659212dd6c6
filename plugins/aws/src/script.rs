//! A host whose answers a test writes down.

use std::cell::RefCell;

use crate::ports::{Host, HostError, Level, Request, Response};

/// What a request is answered with.
pub(crate) type Answer = Result<String, HostError>;

/// Answers one request after the other, with the status 200, and keeps what was asked. Each request takes a second.
pub(crate) struct Script {
    answers: RefCell<Vec<Answer>>,
    asked: RefCell<Vec<String>>,
}

impl Script {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: RefCell::new(answers.into_iter().collect()), asked: RefCell::default() }
    }

    /// The targets of all requests.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }
}

impl Host for Script {
    fn settings(&self) -> Result<String, HostError> {
        Ok("{}".to_owned())
    }

    fn send(&self, _: &str, request: &Request) -> Result<Response, HostError> {
        self.asked.borrow_mut().push(request.target.clone());
        let body = self.answers.borrow_mut().remove(0)?.into_bytes();
        Ok(Response { status: 200, headers: Vec::new(), body })
    }

    fn monotonic_nanoseconds(&self) -> Result<u64, HostError> {
        Ok(self.asked.borrow().len() as u64 * 1_000_000_000)
    }

    fn sleep(&self, _: u32) -> Result<(), HostError> {
        Ok(())
    }

    fn log(&self, _: Level, _: &str) {}
}
