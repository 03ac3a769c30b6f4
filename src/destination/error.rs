//! Why a text is no destination, in the words the client gets to read.

/// Why a text is no destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationError {
    Blank,
    TooLong {
        bytes: usize,
        limit: usize,
    },
    /// A control character; the text is not repeated.
    Control,
    /// No known first segment.
    Unknown {
        text: String,
    },
    /// A known first segment, then something it does not take.
    Invalid {
        kind: &'static str,
        rest: String,
    },
    /// A name no client reaches.
    Reserved {
        text: String,
    },
    /// Another user's destination.
    NotOwn {
        text: String,
    },
}

impl DestinationError {
    /// The `message` header and the body of the ERROR, RabbitMQ's where it has one.
    #[must_use]
    pub fn text(&self) -> (&'static str, String) {
        match self {
            Self::Blank => ("Invalid destination", "Destination cannot be blank\n".into()),
            Self::TooLong { bytes, limit } => (
                "Destination too long",
                format!("A destination has at most {limit} bytes, this one has {bytes}.\n"),
            ),
            Self::Control => {
                ("Invalid destination", "A destination has no control characters.\n".into())
            }
            Self::Unknown { text } => (
                "Unknown destination",
                format!(
                    "'{text}' is not a valid destination.\n\
                     Valid destination types are: /temp-queue, /exchange, /topic, /queue, \
                     /amq/queue, /reply-queue, /user, /app.\n"
                ),
            ),
            Self::Invalid { kind, rest } => {
                ("Invalid destination", format!("'/{rest}' is not a valid {kind} destination\n"))
            }
            Self::Reserved { text } => {
                ("access_refused", format!("access to '{text}' refused: the name is reserved\n"))
            }
            Self::NotOwn { text } => (
                "access_refused",
                format!("access to '{text}' refused: one's own messages are at /user/queue/NAME\n"),
            ),
        }
    }
}
