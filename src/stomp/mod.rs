//! STOMP 1.0, 1.1 and 1.2 on bytes: no I/O, no clock, no async, nothing else of this crate.
//!
//! ```text
//! frame       = command EOL *( header EOL ) EOL *OCTET NUL *EOL
//! command     = CONNECT | STOMP | SEND | SUBSCRIBE | UNSUBSCRIBE | ACK | NACK
//!             | BEGIN | COMMIT | ABORT | DISCONNECT
//!             | CONNECTED | MESSAGE | RECEIPT | ERROR
//! header      = name ":" value
//! EOL         = [CR] LF
//! ```
//!
//! What the field needs beyond the text: a value may hold unescaped colons (split at the first);
//! a line end may be CR LF in every version; LF, CR LF and NUL between frames are heart-beats
//! or noise; of a repeated header the first counts, except that two differing content-lengths
//! are an error.

mod decode;
pub mod encode;
mod error;
mod frame;
mod head;
mod headers;
pub mod heartbeat;
mod version;

pub use decode::{Decoder, Event as DecoderEvent, Limits, left_trimmed};
pub use error::{DecodeError, Excerpt, Fault, LineFault, Reaction};
pub use frame::{Command, Frame};
pub use headers::Headers;
pub use version::Version;
