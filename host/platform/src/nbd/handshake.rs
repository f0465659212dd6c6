//! From a fresh socket to an export: the fixed newstyle handshake.
//!
//! The order is that of the protocol: structured replies, then the contexts (which need them), then `NBD_OPT_GO`, which
//! fixes both for this export. Servers without `NBD_OPT_GO` get `NBD_OPT_EXPORT_NAME`, which they answer with the
//! export's size, or by hanging up.
//!
//! What a server may send is limited in the length of each message and in the number of messages; the caller limits the
//! time.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{NbdError, wire};

/// The longest option reply that is taken: an identifier, a context's name and room to spare.
const OPTION_REPLY_BYTES_MAX: usize = 16 * 1024;
/// The most replies that are taken for one option.
const OPTION_REPLIES_MAX: usize = 64;
/// The most contexts that a caller may ask for.
pub const CONTEXTS_MAX: usize = 16;
/// The largest disk: what Linux can address.
const EXPORT_BYTES_MAX: u64 = i64::MAX as u64;
/// What the protocol lets a client assume when the server names no limits.
const PAYLOAD_BYTES_MAX_DEFAULT: u32 = 32 * 1024 * 1024;
/// The largest smallest block that the protocol allows.
const BLOCK_BYTES_MIN_MAX: u32 = 64 * 1024;

/// What a server told about the sizes of requests, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths must be multiples of this power of two.
    pub minimum: u32,
    /// Requests of multiples of this are fastest; a power of two.
    pub preferred: u32,
    /// The most data that one request may carry; a multiple of the minimum.
    pub maximum: u32,
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self { minimum: 1, preferred: 4096, maximum: PAYLOAD_BYTES_MAX_DEFAULT }
    }
}

/// A block-status context that the server agreed to tell about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// How replies name it.
    pub id: u32,
    /// `base:allocation` or the like.
    pub name: String,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// The disk's size.
    pub size_bytes: u64,
    /// The protocol's transmission flags.
    pub flags: u16,
    /// Limits of requests.
    pub block_sizes: BlockSizes,
    /// Reads are answered with chunks.
    pub structured_replies: bool,
    /// Those of the requested contexts that the server has.
    pub contexts: Vec<Context>,
}

/// Brings the connection to the point where requests can be sent.
///
/// # Errors
/// [`NbdError::Refused`] when the server does not serve this export, [`NbdError::Protocol`] when it breaks the protocol,
/// [`NbdError::Unsupported`] when it is too old or too many contexts are asked for, [`NbdError::Lost`] when the socket
/// fails.
pub async fn negotiate<S>(stream: S, export: &str, contexts: &[String]) -> Result<(S, Agreement), NbdError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name_too_long = |name: &str| name.len() > wire::STRING_BYTES_MAX;
    if contexts.len() > CONTEXTS_MAX || name_too_long(export) || contexts.iter().any(|name| name_too_long(name)) {
        return Err(NbdError::unsupported(format!(
            "at most {CONTEXTS_MAX} contexts, and names of {} bytes, can be asked for",
            wire::STRING_BYTES_MAX
        )));
    }
    let mut session = Handshake { stream, export };
    let no_zeroes = session.greet().await?;
    let structured_replies = session.ask_structured_replies().await?;
    let agreed_contexts = match (structured_replies, contexts) {
        (false, _) | (_, []) => Vec::new(),
        (true, names) => session.ask_contexts(names).await?,
    };
    let (size_bytes, flags, block_sizes) = match session.go().await? {
        Some(export) => export,
        None => session.export_name(no_zeroes).await?,
    };
    check_size(size_bytes, block_sizes)?;
    Ok((session.stream, Agreement { size_bytes, flags, block_sizes, structured_replies, contexts: agreed_contexts }))
}

struct Handshake<'a, S> {
    stream: S,
    export: &'a str,
}

/// One reply to an option.
struct OptionReply {
    kind: u32,
    data: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Handshake<'_, S> {
    async fn read_array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], NbdError> {
        let mut bytes = [0; COUNT];
        self.stream.read_exact(&mut bytes).await.map_err(|error| NbdError::socket(&error))?;
        Ok(bytes)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), NbdError> {
        self.stream.write_all(bytes).await.map_err(|error| NbdError::socket(&error))
    }

    /// Exchanges the greetings. True if the server leaves out the padding of `NBD_OPT_EXPORT_NAME`.
    async fn greet(&mut self) -> Result<bool, NbdError> {
        let greeting: [u8; 16] = self.read_array().await?;
        let mut fields = wire::Fields::new("greeting", &greeting);
        if fields.u64()? != wire::SERVER_MAGIC {
            return Err(NbdError::protocol("what listens there is not an NBD server"));
        }
        if fields.u64()? != wire::OPTION_MAGIC {
            return Err(NbdError::unsupported(
                "the server speaks the oldstyle handshake only, which can select no export",
            ));
        }
        let flags = u16::from_be_bytes(self.read_array().await?);
        if flags & wire::HANDSHAKE_FIXED_NEWSTYLE == 0 {
            return Err(NbdError::unsupported("the server lacks the fixed newstyle handshake"));
        }
        let answer = flags & (wire::HANDSHAKE_FIXED_NEWSTYLE | wire::HANDSHAKE_NO_ZEROES);
        self.send(&u32::from(answer).to_be_bytes()).await?;
        Ok(answer & wire::HANDSHAKE_NO_ZEROES != 0)
    }

    async fn send_option(&mut self, option: u32, data: &[u8]) -> Result<(), NbdError> {
        let mut message = Vec::with_capacity(data.len().saturating_add(16));
        message.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&length_field(data.len())?);
        message.extend_from_slice(data);
        self.send(&message).await
    }

    async fn read_option_reply(&mut self, option: u32) -> Result<OptionReply, NbdError> {
        let head: [u8; 20] = self.read_array().await?;
        let mut fields = wire::Fields::new("reply to an option", &head);
        if fields.u64()? != wire::OPTION_REPLY_MAGIC {
            return Err(NbdError::protocol("a reply to an option has the wrong magic number"));
        }
        if fields.u32()? != option {
            return Err(NbdError::protocol("a reply belongs to an option that was not sent"));
        }
        let kind = fields.u32()?;
        let length = usize::try_from(fields.u32()?).unwrap_or(usize::MAX);
        if length > OPTION_REPLY_BYTES_MAX {
            return Err(NbdError::protocol(format!("a reply to an option claims {length} bytes")));
        }
        let mut data = vec![0; length];
        self.stream.read_exact(&mut data).await.map_err(|error| NbdError::socket(&error))?;
        Ok(OptionReply { kind, data })
    }

    async fn ask_structured_replies(&mut self) -> Result<bool, NbdError> {
        self.send_option(wire::OPTION_STRUCTURED_REPLY, &[]).await?;
        let reply = self.read_option_reply(wire::OPTION_STRUCTURED_REPLY).await?;
        match reply.kind {
            wire::REPLY_ACK => Ok(true),
            kind if is_fatal(kind) => Err(self.refusal(&reply)),
            kind if kind & wire::REPLY_ERROR_BIT != 0 => Ok(false),
            kind => Err(NbdError::protocol(format!("structured replies were answered with reply type {kind}"))),
        }
    }

    async fn ask_contexts(&mut self, names: &[String]) -> Result<Vec<Context>, NbdError> {
        let mut data = Vec::new();
        push_string(&mut data, self.export)?;
        data.extend_from_slice(&length_field(names.len())?);
        for name in names {
            push_string(&mut data, name)?;
        }
        self.send_option(wire::OPTION_SET_META_CONTEXT, &data).await?;
        let mut contexts: Vec<Context> = Vec::new();
        for _ in 0..OPTION_REPLIES_MAX {
            let reply = self.read_option_reply(wire::OPTION_SET_META_CONTEXT).await?;
            match reply.kind {
                wire::REPLY_ACK => return Ok(contexts),
                wire::REPLY_META_CONTEXT => contexts.push(parse_context(&reply.data, names, &contexts)?),
                kind if is_fatal(kind) => return Err(self.refusal(&reply)),
                // Also "unknown export", which `NBD_OPT_GO` will say again.
                kind if kind & wire::REPLY_ERROR_BIT != 0 => return Ok(Vec::new()),
                kind => return Err(NbdError::protocol(format!("contexts were answered with reply type {kind}"))),
            }
        }
        Err(NbdError::protocol("the list of contexts does not end"))
    }

    /// None if the server does not know `NBD_OPT_GO`.
    async fn go(&mut self) -> Result<Option<(u64, u16, BlockSizes)>, NbdError> {
        let mut data = Vec::new();
        push_string(&mut data, self.export)?;
        data.extend_from_slice(&1_u16.to_be_bytes());
        // Asking for the block sizes is the promise to keep to them.
        data.extend_from_slice(&wire::INFO_BLOCK_SIZE.to_be_bytes());
        self.send_option(wire::OPTION_GO, &data).await?;
        let mut export: Option<(u64, u16)> = None;
        let mut block_sizes = BlockSizes::default();
        for _ in 0..OPTION_REPLIES_MAX {
            let reply = self.read_option_reply(wire::OPTION_GO).await?;
            match reply.kind {
                wire::REPLY_ACK => {
                    let missing =
                        || NbdError::protocol("the server agreed to serve an export without telling its size");
                    let (size_bytes, flags) = export.ok_or_else(missing)?;
                    return Ok(Some((size_bytes, flags, block_sizes)));
                }
                wire::REPLY_INFO => {
                    let mut fields = wire::Fields::new("description of an export", &reply.data);
                    match fields.u16()? {
                        wire::INFO_EXPORT => {
                            let told = (fields.u64()?, fields.u16()?);
                            if export.is_some_and(|before| before != told) {
                                return Err(NbdError::protocol("the server told two sizes for one export"));
                            }
                            export = Some(told);
                        }
                        wire::INFO_BLOCK_SIZE => block_sizes = parse_block_sizes(fields)?,
                        _ => {}
                    }
                }
                wire::REPLY_ERROR_UNSUPPORTED => return Ok(None),
                kind if kind & wire::REPLY_ERROR_BIT != 0 => {
                    // A courtesy; the socket is closed right after.
                    let _ = self.send_option(wire::OPTION_ABORT, &[]).await;
                    return Err(self.refusal(&reply));
                }
                kind => return Err(NbdError::protocol(format!("an export was answered with reply type {kind}"))),
            }
        }
        Err(NbdError::protocol("the description of the export does not end"))
    }

    async fn export_name(&mut self, no_zeroes: bool) -> Result<(u64, u16, BlockSizes), NbdError> {
        self.send_option(wire::OPTION_EXPORT_NAME, self.export.as_bytes()).await?;
        let answer: [u8; 10] = self.read_array().await.map_err(|error| match error {
            NbdError::Lost { kind: io::ErrorKind::UnexpectedEof, .. } => NbdError::Refused {
                kind: io::ErrorKind::NotFound,
                what: "the server hung up when asked for the export: it does not serve one of this name".into(),
            },
            other => other,
        })?;
        let mut fields = wire::Fields::new("description of an export", &answer);
        let (size_bytes, flags) = (fields.u64()?, fields.u16()?);
        if !no_zeroes {
            let _padding: [u8; 124] = self.read_array().await?;
        }
        Ok((size_bytes, flags, BlockSizes::default()))
    }

    fn refusal(&self, reply: &OptionReply) -> NbdError {
        let (kind, reason) = match reply.kind {
            wire::REPLY_ERROR_UNKNOWN => (io::ErrorKind::NotFound, "it does not serve an export of this name"),
            wire::REPLY_ERROR_TLS_REQUIRED => (io::ErrorKind::PermissionDenied, "it requires TLS"),
            wire::REPLY_ERROR_POLICY => (io::ErrorKind::PermissionDenied, "its policy forbids it"),
            wire::REPLY_ERROR_SHUTDOWN => (io::ErrorKind::ConnectionRefused, "it is shutting down"),
            _ => (io::ErrorKind::Other, "it refused"),
        };
        let words = wire::shown(&reply.data);
        let separator = if words.is_empty() { "" } else { ": " };
        NbdError::Refused {
            kind,
            what: format!("the server does not open the export, because {reason}{separator}{words}"),
        }
    }
}

/// After these errors nothing else that the server is asked can succeed.
const fn is_fatal(kind: u32) -> bool {
    matches!(kind, wire::REPLY_ERROR_TLS_REQUIRED | wire::REPLY_ERROR_SHUTDOWN)
}

fn length_field(length: usize) -> Result<[u8; 4], NbdError> {
    let too_long = |_| NbdError::unsupported("a message of more than 4 GiB");
    Ok(u32::try_from(length).map_err(too_long)?.to_be_bytes())
}

fn push_string(data: &mut Vec<u8>, text: &str) -> Result<(), NbdError> {
    data.extend_from_slice(&length_field(text.len())?);
    data.extend_from_slice(text.as_bytes());
    Ok(())
}

fn parse_context(data: &[u8], requested: &[String], known: &[Context]) -> Result<Context, NbdError> {
    let mut fields = wire::Fields::new("context", data);
    let id = fields.u32()?;
    let Some(name) = requested.iter().find(|name| name.as_bytes() == fields.rest()) else {
        let shown = wire::shown(fields.rest());
        return Err(NbdError::protocol(format!("the server offers the context {shown:?}, which was not asked for")));
    };
    if known.iter().any(|context| context.id == id || context.name == *name) {
        return Err(NbdError::protocol(format!("the server offers the context {name:?} twice")));
    }
    Ok(Context { id, name: name.clone() })
}

fn parse_block_sizes(mut fields: wire::Fields<'_>) -> Result<BlockSizes, NbdError> {
    let (minimum, preferred, maximum) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let minimum_true = minimum.is_power_of_two() && minimum <= BLOCK_BYTES_MIN_MAX;
    let preferred_true = preferred.is_power_of_two() && preferred >= minimum;
    let maximum_true = maximum >= minimum && (maximum == u32::MAX || maximum.checked_rem(minimum) == Some(0));
    if !(minimum_true && preferred_true && maximum_true) {
        return Err(NbdError::protocol(format!("block sizes of {minimum}, {preferred} and {maximum} bytes")));
    }
    Ok(BlockSizes { minimum, preferred, maximum: maximum.min(PAYLOAD_BYTES_MAX_DEFAULT) })
}

fn check_size(size_bytes: u64, block_sizes: BlockSizes) -> Result<(), NbdError> {
    if size_bytes > EXPORT_BYTES_MAX {
        return Err(NbdError::protocol(format!("an export of {size_bytes} bytes")));
    }
    if size_bytes.checked_rem(u64::from(block_sizes.minimum)) != Some(0) {
        let minimum = block_sizes.minimum;
        return Err(NbdError::unsupported(format!(
            "the export has {size_bytes} bytes, and the server answers only for whole blocks of {minimum} bytes: its end \
             cannot be read"
        )));
    }
    Ok(())
}
