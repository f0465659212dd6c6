//! HTTP APIs that the operator named: whom a request reaches, how it is signed, how fast it may go, and what is sent again.
//!
//! It must not know what a component, a platform or a disk is. It follows no redirect and asks no proxy, so that a request
//! reaches the address that was judged or nobody; it shows no key in an error, a log or a debug text.
//!
//! ## What happens to a request
//! 1. It is checked: what the host writes itself (`host`, `authorization`, lengths) it may not bring.
//! 2. It waits for its turn ([`pace`]): the operator's limit, and what the service has said about its own.
//! 3. The name is resolved, each address judged ([`resolve`]), and only to those that pass is connected.
//! 4. It is signed with the time of that moment ([`sign`]), so that one that waited is not refused for its age.
//! 5. If it may be sent again, it is: after no answer, a throttle or a server's failure, with growing pauses at random, until
//!    its time is over.

mod codes;
mod endpoint;
mod error;
mod grant;
mod pace;
mod request;
mod resolve;
mod sign;

pub use self::{
    codes::CODES,
    endpoint::{Endpoint, EndpointOptions},
    error::{EndpointError, HttpError},
    grant::{AddressError, ApiAddress, EndpointGrant},
    request::{Header, Method, RESPONSE_BYTES_MAX, Request, Response},
    sign::{KeyError, KeySource, SigV4, SigV4Keys},
};
